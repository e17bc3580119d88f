"""One forward pass with all that explanations look at: maps, pooled features, outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from multistream.interfaces import FusionOutput
from multistream.network.network import MultiStream, Pooled
from multistream.nn.eval_mode import evaluating
from multistream.runtime.device import Runtime

Maps = dict[str, dict[str, Tensor]]
"""{key: {stage: (B, ...)}}"""


@dataclass(frozen=True)
class ForwardPass:
    """A batch's `maps` {key: {stage: (B, C, h, w) or (B, D)}} of the tapped stages, `pooled` features and `output`."""

    maps: Maps
    pooled: Pooled
    output: FusionOutput
    temperature: float = 1.0
    label_sets: bool = False
    """Whether a photo may have several classes: each logit is then of one class alone."""

    @property
    def probabilities(self) -> Tensor:
        """Of the fused logits divided by the network's temperature, (B, K) float64."""
        return self.probabilities_of(self.output.logits / self.temperature)

    def probabilities_of(self, logits_BK: Tensor) -> Tensor:
        """softmax, or with label sets the logistic function of each logit, in float64."""
        return logits_BK.double().sigmoid() if self.label_sets else logits_BK.double().softmax(1)


def forward_pass(network: MultiStream, batch: Mapping[str, Tensor], *, runtime: Runtime) -> ForwardPass:
    """Runs the network once, without gradients and in eval mode; its modes are restored."""
    with evaluating(network), torch.no_grad():
        with runtime.autocast:
            maps = {k: b.stream(batch[b.entry(k, batch)]) for k, b in network.branches.items()}
            pooled = pooled_maps(network, maps)
        tapped = {k: {s: maps[k][s] for s in b.taps} for k, b in network.branches.items()}
        return ForwardPass(tapped, pooled, network.fuse(pooled), network.temperature, network.label_sets)


def pooled_maps(network: MultiStream, maps: Mapping[str, Mapping[str, Tensor]]) -> Maps:
    """The pooled features of the taps from the maps of their stages."""
    return {
        key: {stage: tap.pool(maps[key][stage]) for stage, tap in branch.taps.items()}
        for key, branch in network.branches.items()
    }
