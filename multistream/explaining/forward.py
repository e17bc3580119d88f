"""One forward pass that keeps feature maps, pooled features and outputs for explanations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from multistream.interfaces import FusionOutput
from multistream.network.network import MultiStream, Pooled
from multistream.nn.modules import evaluating
from multistream.runtime.device import Runtime

Maps = dict[str, dict[str, Tensor]]
"""{key: {stage: (B, ...)}}"""


@dataclass(frozen=True)
class ForwardPass:
    """A batch's `maps` {key: {stage: (B, C, h, w) or (B, D)}} of tapped stages, `pooled` features, and `output`."""

    maps: Maps
    pooled: Pooled
    output: FusionOutput
    temperature: float = 1.0
    label_sets: bool = False
    """Whether a photo may have several classes; each logit is then a binary decision about one class."""

    @property
    def probabilities(self) -> Tensor:
        """The probabilities of the fused logits divided by the network's temperature, (B, K) float64."""
        return self.probabilities_of(self.output.logits / self.temperature)

    def probabilities_of(self, logits_BK: Tensor) -> Tensor:
        """Applies softmax, or with label sets the logistic function of each logit, in float64."""
        return logits_BK.double().sigmoid() if self.label_sets else logits_BK.double().softmax(1)


def forward_pass(network: MultiStream, batch: Mapping[str, Tensor], *, runtime: Runtime) -> ForwardPass:
    """Runs the network once, in eval mode and without gradients; restores the modes."""
    with evaluating(network), torch.no_grad():
        with runtime.autocast:
            maps = {k: b.stream(batch[b.entry(k, batch)]) for k, b in network.branches.items()}
            pooled = pooled_maps(network, maps)
        tapped = {k: {s: maps[k][s] for s in b.taps} for k, b in network.branches.items()}
        return ForwardPass(tapped, pooled, network.fuse(pooled), network.temperature, network.label_sets)


def pooled_maps(network: MultiStream, maps: Mapping[str, Mapping[str, Tensor]]) -> Maps:
    """Pools the stages' maps with their taps: {key: {stage: (B, P)}}."""
    return {
        key: {stage: tap.pool(maps[key][stage]) for stage, tap in branch.taps.items()}
        for key, branch in network.branches.items()
    }
