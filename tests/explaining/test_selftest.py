"""The self-test (check E11): it passes where the explanation is right, and fails where it is broken."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from multistream import MultistreamError, compose
from multistream.explaining import selftest
from multistream.explaining.planting import PATCH, SIDE, Planted, plant
from multistream.explaining.selftest import Check, SelfTest, self_test, teach
from multistream.explaining.standin import stand_in
from multistream.inputs import Map, Vector
from multistream.runtime.device import Runtime
from tests.explaining.conftest import CLASSES, Make, Toy, Words

CPU = Runtime(torch.device("cpu"))


def scenes(network, key: str, count: int = 64) -> Planted:  # type: ignore[no-untyped-def]
    return plant(network.inputs, key, count=count, generator=torch.Generator().manual_seed(3))


def test_evidence_lies_in_the_planted_stream_alone(make: Make) -> None:
    network = make()
    drawn = scenes(network, "left")
    assert drawn.batch["left"].dtype == torch.uint8
    assert drawn.masks.float().mean().item() == pytest.approx((PATCH / SIDE) ** 2, rel=0.1)
    across = {key: x.float().diff(dim=3).abs().mean((1, 3)) for key, x in drawn.batch.items() if x.ndim == 4}
    inside = drawn.masks.any(2)
    rows, columns = drawn.labels == 0, drawn.labels == 1
    edges = across["left"]
    assert edges[columns][inside[columns]].mean() > 3 * edges[rows][inside[rows]].mean()
    clouds = across["right"]
    assert clouds[columns][inside[columns]].mean().item() == pytest.approx(
        clouds[rows][inside[rows]].mean().item(), rel=0.1
    )
    assert torch.allclose(drawn.batch["words"].sum(1), torch.ones(64))


def test_maps_get_evidence_too() -> None:
    inputs = {"depth": Map("depth", channels=1, size=32, read=lambda path: path), "v": Vector("v", width=4)}  # type: ignore[arg-type, return-value]
    drawn = plant(inputs, "depth", count=3, generator=torch.Generator())
    assert drawn.batch["depth"].shape == (3, 1, SIDE, SIDE)
    assert drawn.batch["depth"].max() <= 1


@pytest.mark.parametrize(("temporal", "fusion"), [("bigru+att", "gated"), ("average", "late")])
def test_stand_ins_keep_the_composition(make: Make, temporal: str, fusion: str) -> None:
    network = make(temporal=temporal, fusion=fusion)
    student = stand_in(network)
    assert list(student.branches) == list(network.branches)
    assert list(student.branches["left"].taps) == ["low", "middle", "high"]
    assert type(student.fusion) is type(network.fusion)
    assert type(student.branches["left"].temporal) is type(network.branches["left"].temporal)
    assert student(scenes(student, "left", 2).batch).shape == (2, 2)


def centred(network, drawn: Planted) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    """Looks at the picture, not at the network: points right, whatever the weights."""
    del network
    found = torch.nn.functional.avg_pool2d(drawn.masks[:, None].double(), 5, 1, 2)[:, 0]
    return {"left": found, "right": found.flip(2)}


def test_a_map_of_the_picture_alone_is_found_out(make: Make) -> None:
    """Negative control, without a training: right places, but they do not depend on the weights."""
    student = stand_in(make()).eval()
    checks = {check.name: check for check in selftest._measure([student, student], "left", centred, runtime=CPU)}
    assert checks["pointing game in the stream"].passed
    assert checks["rank correlation, weights randomised"].value > 0.99
    assert not checks["rank correlation, weights randomised"].passed
    assert not checks["right answers of what was taught"].passed  # nothing was taught


def test_a_value_that_is_not_defined_passes_nothing() -> None:
    assert not Check("x", "left", float("nan"), 0.2, at_least=False).passed
    assert not SelfTest("exact", (Check("x", "left", float("nan"), 0.2, at_least=True),), 0.0).passed


def test_without_pictures_there_is_nothing_to_plant_in() -> None:
    with pytest.raises(MultistreamError, match="no stream sees pictures"):
        self_test(compose({"words": Words()}, classes=CLASSES), runtime=CPU)


@pytest.mark.slow
@pytest.mark.parametrize(("temporal", "fusion"), [("concat", "early"), ("concat", "late"), ("bigru+att", "early")])
def test_a_composition_passes(temporal: str, fusion: str) -> None:
    """Check E11."""
    torch.manual_seed(0)
    network = compose({"left": Toy(), "words": Words()}, classes=CLASSES, temporal=temporal, fusion=fusion)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    found = self_test(network, runtime=CPU)
    assert found.passed, found.to_dict()
    assert found.method == ("exact" if (temporal, fusion) == ("concat", "early") else "integrated")
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


@pytest.mark.slow
def test_broken_explanations_fail_on_a_composition_that_was_taught(make: Make) -> None:
    """Negative controls: mirrored maps, another stream's maps, the other class's evidence."""
    network = make()
    student = teach(network, "left", seed=0, steps=150, runtime=CPU)
    right = selftest._explainer(CPU)

    def mirrored(net, drawn: Planted) -> Mapping[str, Tensor]:  # type: ignore[no-untyped-def]
        return {key: each.flip(2) for key, each in right(net, drawn).items()}

    def exchanged(net, drawn: Planted) -> Mapping[str, Tensor]:  # type: ignore[no-untyped-def]
        found = right(net, drawn)
        return {"left": found["right"], "right": found["left"]}

    def negated(net, drawn: Planted) -> Mapping[str, Tensor]:  # type: ignore[no-untyped-def]
        return {key: -each for key, each in right(net, drawn).items()}

    whole = {check.name: check for check in selftest._measure([student, student], "left", right, runtime=CPU)}
    assert whole["pointing game in the stream"].passed
    for broken in (mirrored, exchanged, negated):
        checks = {check.name: check for check in selftest._measure([student, student], "left", broken, runtime=CPU)}
        assert not checks["pointing game in the stream"].passed, broken.__name__
