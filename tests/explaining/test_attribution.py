"""Attributions of a batch: their sums, with nonlinear taps and taps with their own pooling."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from multistream import MultiStream, Tap
from multistream.explaining.attribution import attribute
from multistream.explaining.decomposition import decompose
from multistream.nn.modules import Modules
from multistream.runtime.device import Runtime
from tests.explaining.conftest import Make, example

CPU = Runtime(torch.device("cpu"))


class Quarters(Tap):
    """A linear tap that pools each quarter of the map: 4 x channels features. It does not override `locate`."""

    linear: ClassVar[bool] = True

    def __init__(self, channels: int, *, width: int = 8) -> None:
        super().__init__(4 * channels, width=width)
        self.projection = nn.Linear(4 * channels, width)

    def pool(self, map_BChw: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(map_BChw.float(), 2).flatten(1)

    def project(self, pooled_BP: Tensor) -> Tensor:
        projected: Tensor = self.projection(self.standardise(pooled_BP))
        return projected


class PowerMean(Quarters):
    """A nonlinear tap, declared as such."""

    linear: ClassVar[bool] = False

    def pool(self, map_BChw: Tensor) -> Tensor:
        return super().pool(map_BChw.float().clamp_min(1e-6) ** 3) ** (1 / 3)


def tapped(make: Make, kind: type[Tap], **options: str) -> MultiStream:
    """Returns the network of `make` with this tap at every stage of `left`, fitted again."""
    network = make(**options)
    branch = network.branches["left"]
    branch.taps = Modules({stage: kind(n, width=64) for stage, n in branch.stream.channels.items()})  # type: ignore[call-arg]
    network.eval()
    with torch.no_grad():
        network.fit({"left": network.pool(example(16, seed=1))["left"]})
    return network


def test_linear_tap_of_any_pooled_width_is_decomposed_exactly(make: Make) -> None:
    """Check E3 for a tap with its own pooling and the default `locate`."""
    found = decompose(tapped(make, Quarters), example(), runtime=CPU)
    assert set(found.kinds.values()) == {"exact"}
    assert found.residual is not None
    assert found.residual.max() < 1e-5


@pytest.mark.parametrize("fusion", ["early", "late"])
def test_nonlinear_tap_maps_sum_to_change_from_training_mean(make: Make, fusion: str) -> None:
    """Integrated gradients work with any tap: they reach the pixels and are complete."""
    network, batch = tapped(make, PowerMean, fusion=fusion), example()
    found = attribute(network, batch, targets=torch.tensor([0, 1, 2, 1]), runtime=CPU)
    assert found.method == "integrated-gradients"
    assert list(found.target_maps["left"]) == ["low", "middle", "high"]
    assert found.gap is not None
    assert found.gap.max() < 1e-3
    assert all(m.std() > 0 for m in found.target_maps["left"].values())


@pytest.mark.parametrize(("temporal", "fusion"), [("concat", "early"), ("bigru+att", "early"), ("bigru", "gated")])
def test_contributions_sum_to_contrast_in_every_composition(make: Make, temporal: str, fusion: str) -> None:
    """Exactly with the bias, or relative to the training mean (check E10 on maps)."""
    network, batch = make(temporal=temporal, fusion=fusion), example()
    targets, against = torch.tensor([0, 1, 2, 1]), torch.tensor([1, 0, 0, 2])
    found = attribute(network, batch, targets=targets, against=against, runtime=CPU)
    total = sum(m.double().sum((1, 2)) for stages in found.target_maps.values() for m in stages.values())
    total = total + found.target_vectors["words"].double().sum(1)
    rows = torch.arange(4)

    def contrast(logits: Tensor) -> Tensor:
        logits = logits.detach().double()
        return logits[rows, targets] - logits[rows, against]

    nothing = {k: {s: torch.zeros(4, t.pooled_width) for s, t in b.taps.items()} for k, b in network.branches.items()}
    mean = {k: {s: t.baseline.expand(4, -1) for s, t in b.taps.items()} for k, b in network.branches.items()}
    start = network.classify(nothing if found.method == "decomposition" else mean)
    assert (contrast(network(batch)) - contrast(start) - total).abs().max() < 1e-5
    assert found.method == ("decomposition" if (temporal, fusion) == ("concat", "early") else "integrated-gradients")
    assert found.densities(20)["left"].shape == (4, 20, 20)
