"""What is trained, as one module: the network with its loss. Compile and DDP wrap this and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from multistream.interfaces import FusionOutput
from multistream.network.network import MultiStream, Pooled
from multistream.network.present import draw_present, fuse_present
from multistream.runtime.cuda_graphs import GraphedStreams
from multistream.runtime.device import Runtime

Criterion = Callable[[Tensor, Tensor], Tensor]


class Objective(nn.Module):
    """Network and loss. `given` is a batch by input name, or what `pool` returned where the streams are frozen.

    `graphs` replays the streams in training, on a GPU. `stream_dropout` is the probability with which a stream is
    left out of an image in training, never all of them.
    """

    def __init__(
        self,
        network: MultiStream,
        *,
        criterion: Criterion,
        runtime: Runtime,
        pooled: bool,
        graphs: GraphedStreams | None = None,
        stream_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.network, self.criterion, self.runtime, self.pooled = network, criterion, runtime, pooled
        self.graphs, self.stream_dropout = graphs, stream_dropout

    def forward(self, given: Mapping[str, Any], labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """(given, labels) -> (loss, logits (B, K)); streams in the runtime's precision, all above in float32."""
        if self.pooled:
            pooled = given
        elif self.graphs is not None and self.network.training:
            pooled = self.graphs.pool(given)
        else:
            with self.runtime.autocast:
                pooled = self.network.pool(given)
        with torch.autocast(labels_B.device.type, enabled=False):
            output = self._fused(pooled, len(labels_B))
            return self.network.fusion.loss(output, labels_B, self.criterion), output.logits

    def _fused(self, pooled: Pooled, rows: int) -> FusionOutput:
        streams = len(self.network.branches)
        if not (self.stream_dropout and self.network.training and streams > 1):
            return self.network.fuse(pooled)
        device = next(values.device for stages in pooled.values() for values in stages.values())
        return fuse_present(
            self.network, pooled, draw_present(rows, streams, dropout=self.stream_dropout, device=device)
        )
