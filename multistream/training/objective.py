"""What is trained, as one module: the network with its loss. Compile and DDP wrap this and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from multistream.network.network import MultiStream
from multistream.runtime.cuda_graphs import GraphedStreams
from multistream.runtime.device import Runtime

Criterion = Callable[[Tensor, Tensor], Tensor]


class CrossEntropy(nn.Module):
    """Cross entropy in float32 with class weights (K,) and label smoothing: logits (B, K), labels (B,) -> scalar."""

    weights: Tensor | None

    def __init__(self, *, weights: Tensor | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("weights", weights, persistent=False)
        self.label_smoothing = label_smoothing

    def forward(self, logits_BK: Tensor, labels_B: Tensor) -> Tensor:
        return functional.cross_entropy(
            logits_BK.float(), labels_B, weight=self.weights, label_smoothing=self.label_smoothing
        )


class Objective(nn.Module):
    """Network and loss. `given` is a batch by input name, or what `pool` returned where the streams are frozen.

    `graphs` replays the streams in training, on a GPU.
    """

    def __init__(
        self,
        network: MultiStream,
        *,
        criterion: Criterion,
        runtime: Runtime,
        pooled: bool,
        graphs: GraphedStreams | None = None,
    ) -> None:
        super().__init__()
        self.network, self.criterion, self.runtime, self.pooled = network, criterion, runtime, pooled
        self.graphs = graphs

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
            output = self.network.fuse(pooled)
            return self.network.fusion.loss(output, labels_B, self.criterion), output.logits


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Weights (K,) that make every class count the same: N / (K x n_k); a class without images gets 0."""
    counts = torch.bincount(labels, minlength=classes).float()
    return torch.where(counts > 0, len(labels) / (classes * counts.clamp_min(1)), 0.0)
