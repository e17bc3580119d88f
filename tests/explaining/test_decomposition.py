"""The exact sum (check E3), and compositions without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from multistream import FusionOutput, MultiStream
from multistream.explaining.decomposition import Decomposer, contribution, decompose
from multistream.explaining.forward import forward_pass
from multistream.explaining.targets import Target
from multistream.parts.fusions import Early, Late
from multistream.parts.taps import GlobalAverage
from multistream.parts.temporals import Concat
from multistream.runtime.device import Runtime
from tests.explaining.conftest import CLASSES, Make, example

CPU = Runtime(torch.device("cpu"))


@pytest.mark.parametrize("temporal", ["concat", "average"])
def test_every_logit_is_the_sum_of_its_contributions_and_bias(make: Make, temporal: str) -> None:
    network, batch = make(temporal=temporal, fusion="early"), example()
    found = decompose(network, batch, runtime=CPU)
    total = sum(contribution(found.maps, found.vectors, key) for key in network.branches) + found.bias[""]
    logits = network(batch).double()
    assert ((total - logits).abs() <= 1e-5 * logits.abs().clamp_min(1)).all()
    assert set(found.kinds.values()) == {"exact"}
    assert found.residual is not None
    assert found.residual.max() < 1e-5
    assert found.faults == ()


@pytest.mark.parametrize("fusion", ["late", "gated"])
def test_with_fused_probabilities_each_stream_logit_is_a_sum(make: Make, fusion: str) -> None:
    network, batch = make(fusion=fusion), example()
    found = decompose(network, batch, runtime=CPU)
    output = network.fuse(network.pool(batch))
    for key in network.branches:
        total = contribution(found.maps, found.vectors, key) + found.bias[key]
        assert torch.allclose(total, output.streams[key].double(), atol=1e-5)
    if fusion == "late":
        mean = torch.stack([own.double().softmax(1) for own in output.streams.values()]).mean(0)
        assert torch.allclose(mean, output.logits.double().softmax(1), atol=1e-6)


def test_bias_equals_logits_of_zero_features(make: Make) -> None:
    network = make()
    nothing = {k: {s: torch.zeros(1, t.pooled_width) for s, t in b.taps.items()} for k, b in network.branches.items()}
    found = decompose(network, example(), runtime=CPU)
    assert torch.allclose(found.bias[""][0], network.classify(nothing)[0], atol=1e-6)


@pytest.mark.parametrize(("temporal", "fusion"), [("bigru", "early"), ("bigru+att", "late"), ("bigru+att", "gated")])
def test_nonlinear_components_have_kind_gradient(make: Make, temporal: str, fusion: str) -> None:
    found = decompose(make(temporal=temporal, fusion=fusion), example(), runtime=CPU)
    assert found.kinds["left"] == "gradient"
    assert {"left", ""} & set(found.remainder)
    assert not {"left", ""} & set(found.bias)  # a bias belongs to a sum


def test_local_explanation_has_a_remainder_instead_of_a_bias(make: Make) -> None:
    """The part of the logit not covered by gradient x input is a remainder, not a bias."""
    network = make(fusion="late")
    network.fusion.heads["words"] = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))
    found = decompose(network, example(), runtime=CPU)
    assert found.kinds == {"left": "exact", "right": "exact", "words": "local"}
    assert set(found.bias) == {"left", "right"}
    assert set(found.remainder) == {"words"}


class PowerTap(GlobalAverage):
    """A tap that declares to be linear, but is not."""

    def pool(self, map_BChw: Tensor) -> Tensor:
        return map_BChw.float().amax((2, 3)) ** 2


class Scattering(GlobalAverage):
    """A tap whose pixels do not sum to the pooled features."""

    def locate(self, weights: Tensor, map_BChw: Tensor) -> Tensor:
        return 2 * super().locate(weights, map_BChw)


class Saturating(Concat):
    """A temporal that declares to be linear, but is not."""

    def forward(self, tokens_BTW: Tensor) -> Tensor:
        return super().forward(tokens_BTW).tanh()


class Squaring(Early):
    """A fusion that declares to be linear, but is not."""

    def forward(self, vectors: Mapping[str, Tensor], present: frozenset[str] | None = None) -> FusionOutput:
        return FusionOutput(super().forward(vectors, present).logits.square(), {})


class Halving(Late):
    """A fusion whose streams' logits are not those of its heads."""

    def forward(self, vectors: Mapping[str, Tensor], present: frozenset[str] | None = None) -> FusionOutput:
        output = super().forward(vectors, present)
        return FusionOutput(output.logits, {key: 0.5 * own for key, own in output.streams.items()})


def with_tap(kind: type[GlobalAverage]) -> Callable[[MultiStream], None]:
    def change(network: MultiStream) -> None:
        network.branches["left"].taps["low"].__class__ = kind

    return change


def saturate(network: MultiStream) -> None:
    network.branches["left"].temporal.__class__ = Saturating


def square(network: MultiStream) -> None:
    network.fusion.__class__ = Squaring


def halve(network: MultiStream) -> None:
    network.fusion.__class__ = Halving


@pytest.mark.parametrize(
    ("fusion", "change", "said"),
    [
        ("early", with_tap(PowerTap), "The tap gap:64 of left declares linear = True, but is not linear"),
        ("early", with_tap(Scattering), "The pixels of `locate` of the tap gap:64 of left do not sum"),
        ("early", saturate, "The temporal module concat of left declares linear = True"),
        ("early", square, "The fusion early declares linear = True"),
        ("late", halve, "The fusion late returns other logits of left than its `stream_logits`"),
    ],
)
def test_sum_that_differs_from_the_logit_is_not_called_exact(
    make: Make, fusion: str, change: Callable[[MultiStream], None], said: str
) -> None:
    """Even if all components declare to be linear; the fault names the first wrong declaration."""
    network = make(fusion=fusion)
    change(network)
    found = decompose(network, example(), runtime=CPU)
    assert found.residual is not None
    assert found.residual.max() > 1e-4
    assert found.kinds["left"] == "gradient"
    assert not {"left", ""} & set(found.bias)
    assert said in found.faults[0]


@pytest.mark.parametrize("frozen", [True, False])
def test_decompose_leaves_the_network_unchanged(make: Make, frozen: bool) -> None:
    """Check E6."""
    network = make(frozen=frozen).train()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    modes = [m.training for m in network.modules()]
    decompose(network, example(), runtime=CPU)
    assert modes == [m.training for m in network.modules()]
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_modes_are_restored_after_an_exception(make: Make) -> None:
    network = make().train()
    modes = [m.training for m in network.modules()]
    with pytest.raises(KeyError):
        decompose(network, {"image": example()["image"]}, runtime=CPU)
    assert modes == [m.training for m in network.modules()]


@pytest.mark.parametrize("fusion", ["early", "late"])
@pytest.mark.parametrize("against", ["", "awe"])
def test_one_class_alone_equals_the_same_class_among_all(make: Make, fusion: str, against: str) -> None:
    network = make(fusion=fusion)
    forward = forward_pass(network, example(), runtime=CPU)
    chosen = Target("fear", against).of(forward.probabilities, torch.full((4,), -1), CLASSES)
    every, one = Decomposer(network).decompose(forward), Decomposer(network).decompose(forward, chosen)
    for key, stages in every.maps.items():
        for stage, maps in stages.items():
            assert one.maps[key][stage].shape[1] == 1
            assert torch.allclose(one.maps[key][stage][:, 0], chosen.pick(maps), atol=1e-6)
    assert torch.allclose(one.vectors["words"][:, 0], chosen.pick(every.vectors["words"]), atol=1e-6)
    assert one.residual is not None
    assert one.residual.max() < 1e-5
