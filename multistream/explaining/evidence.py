"""The best maps that a composition allows: the exact decomposition where there is one, else integrated gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from multistream.errors import UsageError
from multistream.explaining.decomposition import Decomposer, is_linear
from multistream.explaining.gradients import integrated_gradients
from multistream.explaining.observing import Observed, observe
from multistream.explaining.pointing import density
from multistream.explaining.targets import Chosen
from multistream.network.network import MultiStream
from multistream.runtime.device import Runtime

Method = Literal["exact", "integrated"]


@dataclass(frozen=True)
class Evidence:
    """Signed evidence for one class of each photo (against another, if asked): `maps` {key: {stage: (B, h, w)}}."""

    method: Method
    maps: Mapping[str, Mapping[str, Tensor]]
    vectors: Mapping[str, Tensor]
    """{key: (B, D)}"""

    def densities(self, size: int) -> dict[str, Tensor]:
        """{key: (B, size, size) float64}: all stages of a stream together, as evidence by area."""
        return {key: density(list(stages.values()), size=size) for key, stages in self.maps.items()}


def evidence(
    network: MultiStream,
    batch: Mapping[str, Tensor],
    *,
    targets: Tensor,
    against: Tensor | None = None,
    runtime: Runtime,
) -> Evidence:
    """What gave the fused logit of `targets` (B,), less that of `against` (B,): of one forward pass."""
    return evidence_of(network, observe(network, batch, runtime=runtime), targets=targets, against=against)


def evidence_of(network: MultiStream, seen: Observed, *, targets: Tensor, against: Tensor | None = None) -> Evidence:
    """The evidence of a batch that was observed.

    Not gradient x input where there is no exact sum: on planted evidence it points at the right place in 49 to 62 % of
    the pictures under a Bi-GRU of five steps, and integrated gradients in 96 to 100 % (docs/explanation.md). Raises
    UsageError for a tap that is not linear.
    """
    chosen = Chosen(targets, against, "logit")
    if is_linear(network):
        exact = Decomposer(network).decompose(seen)
        maps = {key: {s: chosen.pick(m) for s, m in stages.items()} for key, stages in exact.maps.items()}
        return Evidence("exact", maps, {key: chosen.pick(given) for key, given in exact.vectors.items()})
    places = integrated_gradients(network, seen, score=chosen.score).places
    branches = network.branches
    maps = {key: dict(stages) for key, stages in places.items() if not branches[key].is_vector}
    vectors = {key: next(iter(given.values())) for key, given in places.items() if branches[key].is_vector}
    for key, branch in branches.items():
        if key not in places or len(places[key]) < len(branch.taps):
            what = f"a tap of {key} is not linear, so that its evidence has no place."
            raise UsageError("explain", what, do="Take explain --method grad-cam.")
    return Evidence("integrated", maps, vectors)
