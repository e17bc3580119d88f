"""The contracts pass for every built-in component, and fail for components that violate a requirement."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from multistream import (
    Fusion,
    FusionOutput,
    Image,
    Stream,
    Tap,
    Temporal,
    fusions,
    losses,
    streams,
    taps,
    temporals,
)
from multistream.testing import FusionContract, StreamContract, TapContract, TemporalContract, check
from multistream.testing.base import Contract

WIDE = ("places", "deepsentibank")
"""Streams whose check takes seconds; the plugins' own tests check them too."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in WIDE else name
        for name in streams
        if name not in ("timm", "text")  # these need a model or a bank
    ],
)
def test_built_in_streams(name: str) -> None:
    assert len(check("stream", name)) >= 12


def test_timm_stream() -> None:
    assert len(check("stream", "timm:resnet18")) >= 12


@pytest.mark.parametrize("name", list(taps))
def test_built_in_taps(name: str) -> None:
    assert len(check("tap", name)) >= 7


@pytest.mark.parametrize("name", list(temporals))
def test_built_in_temporals(name: str) -> None:
    assert len(check("temporal", name)) >= 4


@pytest.mark.parametrize("name", list(fusions))
def test_built_in_fusions(name: str) -> None:
    assert len(check("fusion", name)) >= 5


@pytest.mark.parametrize("name", list(losses))
def test_built_in_losses(name: str) -> None:
    assert len(check("loss", name)) == 4


class Sound(Stream):
    def __init__(self) -> None:
        stages = {"low": nn.Conv2d(3, 4, 3, stride=2), "high": nn.Conv2d(4, 6, 3, stride=2)}
        super().__init__(stages, channels={"low": 4, "high": 6}, input=Image(size=16))


class WrongChannels(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.channels = {"low": 4, "high": 7}


class Dead(Sound):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {stage: m * 0 for stage, m in super().forward(x).items()}


class Mixing(Sound):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {stage: m - m.mean(0, keepdim=True) for stage, m in super().forward(x).items()}


class Overwriting(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.stages["high"] = nn.Sequential(nn.ReLU(inplace=True), self.stages["high"])


class Hoarding(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.also = self.stages["high"]


class Thawing(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.stages["low"] = nn.Sequential(self.stages["low"], nn.BatchNorm2d(4))

    def train(self, mode: bool = True) -> Thawing:
        nn.Module.train(self, mode)
        return self


class Forgetting(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.secret = torch.rand(())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {stage: m * self.secret for stage, m in super().forward(x).items()}


class MaxTap(Tap):
    """Declares to be linear, but is not."""

    linear: ClassVar[bool] = True

    def __init__(self, channels: int) -> None:
        super().__init__(channels, width=channels)

    def pool(self, map_BChw: Tensor) -> Tensor:
        return map_BChw.float().amax((2, 3))


class Scattering(Tap):
    """Attributes the whole feature to every pixel."""

    linear: ClassVar[bool] = True

    def __init__(self, channels: int) -> None:
        super().__init__(channels, width=channels)

    def locate(self, weights: Tensor, map_BChw: Tensor) -> Tensor:
        return torch.einsum("kc,bchw->bkhw", weights, map_BChw)


class HalfTap(Tap):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, width=channels)

    def pool(self, map_BChw: Tensor) -> Tensor:
        return map_BChw.mean((2, 3))


class FirstOnly(Temporal):
    def __init__(self, width: int, *, steps: int) -> None:
        super().__init__(width, steps=steps, out_width=width)

    def forward(self, tokens_BTW: Tensor) -> Tensor:
        return tokens_BTW[:, 0]


class Staring(FirstOnly):
    def attention(self, tokens_BTW: Tensor) -> Tensor:
        return tokens_BTW


class Halved(Fusion):
    """Declares late fusion, but returns half of each stream's logits."""

    averages_probabilities = True

    def forward(self, vectors: dict[str, Tensor], present: frozenset[str] | None = None) -> FusionOutput:
        del present
        streams = {key: 0.5 * self.heads[key](vector) for key, vector in vectors.items()}
        return FusionOutput(torch.stack(list(streams.values())).sum(0), streams)

    def stream_logits(self, key: str, vector_BE: Tensor) -> Tensor:
        return super().stream_logits(key, vector_BE).square()


class Deaf(Fusion):
    """Uses a stream that is not present."""

    def __init__(self, widths: dict[str, int], *, classes: int, heads: dict[str, nn.Module]) -> None:
        del heads
        super().__init__(widths, classes=classes, heads={})
        self.classifier = nn.Linear(sum(widths.values()), classes)

    def forward(self, vectors: dict[str, Tensor], present: frozenset[str] | None = None) -> FusionOutput:
        del present
        return FusionOutput(self.classifier(torch.cat(list(vectors.values()), 1)), {})


class Weighted(Fusion):
    """Weights its streams without declaring it: at the initial weight of 1 it meets every requirement."""

    averages_probabilities = True

    def __init__(self, widths: dict[str, int], *, classes: int, heads: dict[str, nn.Module]) -> None:
        super().__init__(widths, classes=classes, heads=heads)
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, vectors: dict[str, Tensor], present: frozenset[str] | None = None) -> FusionOutput:
        used = [key for key in vectors if present is None or key in present]
        streams = {key: self.heads[key](vectors[key]) * self.weight for key in used}
        mean = torch.stack([self.heads[key](vectors[key]).softmax(1) for key in used]).mean(0)
        return FusionOutput(mean.log(), streams)


class Opening(Fusion):
    """A gate that is initially closed hides a nonlinearity, and that rows are mixed."""

    linear = True

    def __init__(self, widths: dict[str, int], *, classes: int, heads: dict[str, nn.Module]) -> None:
        super().__init__(widths, classes=classes, heads=heads)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, vectors: dict[str, Tensor], present: frozenset[str] | None = None) -> FusionOutput:
        del present
        total = torch.stack([self.heads[key](vector) for key, vector in vectors.items()]).sum(0)
        return FusionOutput(total + self.gate * (total.square() - total.mean(0)), {})


class Unscaled(Tap):
    """Ignores in `forward` the values that `fit` sets."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, width=channels)

    def forward(self, map_BChw: Tensor) -> Tensor:
        return self.pool(map_BChw)


class Bending(Temporal):
    """Declares to be linear, but is so only at its initial slope."""

    linear = True

    def __init__(self, width: int, *, steps: int) -> None:
        super().__init__(width, steps=steps, out_width=width)
        self.bend = nn.PReLU(init=1.0)

    def forward(self, tokens_BTW: Tensor) -> Tensor:
        return self.bend(tokens_BTW).mean(1)


BROKEN = [
    (FusionContract, Weighted, "test_streams_are_their_own_classifiers", "override stream_logits"),
    (FusionContract, Weighted, "test_averaged_probabilities_are_the_mean", "not the mean"),
    (FusionContract, Opening, "test_linear_means_affine", "not an affine function"),
    (FusionContract, Opening, "test_rows_are_independent", "rows are mixed"),
    (TapContract, Unscaled, "test_forward_is_pool_then_project", "more than pool and project"),
    (TemporalContract, Bending, "test_linear_means_affine", "not an affine function"),
    (StreamContract, WrongChannels, "test_maps_have_the_declared_channels", "must be"),
    (StreamContract, Dead, "test_random_weights_give_varying_maps", "training on it would have no effect"),
    (StreamContract, Mixing, "test_eval_mode_is_deterministic_and_rows_are_independent", "depends on the others"),
    (StreamContract, Overwriting, "test_batch_and_maps_are_not_modified", "modifies the map of the previous stage"),
    (StreamContract, Hoarding, "test_truncation_shares_kept_stages_and_drops_later_ones", "still holds parameters"),
    (StreamContract, Thawing, "test_frozen_means_bit_identical", "training mode"),
    (StreamContract, Forgetting, "test_state_dict_and_copies_have_all_state", "neither a parameter nor a buffer"),
    (TapContract, MaxTap, "test_linear_means_affine", "not an affine function"),
    (TapContract, Scattering, "test_pixels_sum_to_the_pooled_feature", "do not sum"),
    (TapContract, HalfTap, "test_pooling_reduces_in_float32", "bfloat16"),
    (TemporalContract, FirstOnly, "test_result_depends_on_every_step", "do not affect"),
    (TemporalContract, Staring, "test_attention_has_one_weight_per_step", "must be"),
    (FusionContract, Halved, "test_streams_are_their_own_classifiers", "override stream_logits"),
    (FusionContract, Halved, "test_averaged_probabilities_are_the_mean", "not the mean"),
    (FusionContract, Halved, "test_linear_streams_are_affine", "not an affine function"),
    (FusionContract, Deaf, "test_a_stream_can_be_left_out", "still depend"),
]


@pytest.mark.parametrize(
    ("contract", "part", "promise", "words"), BROKEN, ids=lambda value: getattr(value, "__name__", "")
)
def test_violated_requirement_raises(contract: type[Contract], part: type, promise: str, words: str) -> None:
    class Checked(contract):  # type: ignore[misc,valid-type]
        def make(self) -> object:
            given = {} if contract is StreamContract else dict(self.given())
            return part(given.pop("width"), **given) if contract is TemporalContract else part(**given)

    with pytest.raises(AssertionError, match=words):
        getattr(Checked(), promise)()


class TestSound(StreamContract):
    """The five lines that the author of a plugin writes."""

    def make(self) -> Sound:
        return Sound()
