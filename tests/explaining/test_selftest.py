"""The self-test (check E11): correct explanations pass, broken ones fail."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from multistream import MultiStream, MultistreamError, compose
from multistream.explaining import selftest
from multistream.explaining.planted_scenes import PATCH, SIDE, PlantedScenes, plant, with_small_streams
from multistream.explaining.selftest import (
    SelfTest,
    SelfTestCheck,
    randomised,
    self_test,
    similarity_to_random,
    spearman,
    teach,
)
from multistream.inputs import Map, Vector
from multistream.runtime.device import Runtime
from tests.explaining.conftest import CLASSES, Make, Toy, Words, example

CPU = Runtime(torch.device("cpu"))


def scenes(network, key: str, count: int = 64) -> PlantedScenes:  # type: ignore[no-untyped-def]
    return plant(network.inputs, key, count=count, generator=torch.Generator().manual_seed(3))


def test_cue_is_only_in_the_planted_stream(make: Make) -> None:
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


def test_cue_is_planted_in_input_maps_too() -> None:
    inputs = {"depth": Map("depth", channels=1, size=32, read=lambda path: path), "v": Vector("v", width=4)}  # type: ignore[arg-type, return-value]
    drawn = plant(inputs, "depth", count=3, generator=torch.Generator())
    assert drawn.batch["depth"].shape == (3, 1, SIDE, SIDE)
    assert drawn.batch["depth"].max() <= 1


@pytest.mark.parametrize(("temporal", "fusion"), [("bigru+att", "gated"), ("average", "late")])
def test_small_streams_keep_the_composition(make: Make, temporal: str, fusion: str) -> None:
    network = make(temporal=temporal, fusion=fusion)
    student = with_small_streams(network)
    assert list(student.branches) == list(network.branches)
    assert list(student.branches["left"].taps) == ["low", "middle", "high"]
    assert type(student.fusion) is type(network.fusion)
    assert type(student.branches["left"].temporal) is type(network.branches["left"].temporal)
    assert student(scenes(student, "left", 2).batch).shape == (2, 2)


def centred(network, drawn: PlantedScenes) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    """Returns maps that depend on the image only: they point to the cue for any weights."""
    del network
    found = torch.nn.functional.avg_pool2d(drawn.masks[:, None].double(), 5, 1, 2)[:, 0]
    return {"left": found, "right": found.flip(2)}


def test_map_that_depends_only_on_the_image_fails(make: Make) -> None:
    """Negative control without training: the locations are correct, but do not depend on the weights."""
    student = with_small_streams(make()).eval()
    checks = {check.name: check for check in selftest._measure([student, student], "left", centred, runtime=CPU)}
    assert checks["pointing game in the stream"].passed
    assert checks["rank correlation, weights shuffled"].value > 0.99
    assert not checks["rank correlation, weights shuffled"].passed
    assert not checks["accuracy on planted cues"].passed  # the network is untrained


def test_nan_fails_every_check() -> None:
    assert not SelfTestCheck("x", "left", float("nan"), 0.2, at_least=False).passed
    assert not SelfTest("decomposition", (SelfTestCheck("x", "left", float("nan"), 0.2, at_least=True),), 0.0).passed


def test_network_without_image_streams_raises() -> None:
    with pytest.raises(MultistreamError, match="no stream reads images"):
        self_test(compose({"words": Words()}, classes=CLASSES), runtime=CPU)


@pytest.mark.slow
@pytest.mark.parametrize(("temporal", "fusion"), [("concat", "early"), ("concat", "late"), ("bigru+att", "early")])
def test_composition_passes_the_self_test(temporal: str, fusion: str) -> None:
    """Check E11."""
    torch.manual_seed(0)
    network = compose({"left": Toy(), "words": Words()}, classes=CLASSES, temporal=temporal, fusion=fusion)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    found = self_test(network, runtime=CPU)
    assert found.passed, found.to_dict()
    assert found.method == ("decomposition" if (temporal, fusion) == ("concat", "early") else "integrated-gradients")
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


@pytest.mark.slow
def test_broken_explanations_fail_on_a_trained_composition(make: Make) -> None:
    """Negative controls: mirrored maps, another stream's maps, the other class's evidence."""
    network = make()
    student = teach(network, "left", seed=0, steps=150, runtime=CPU)
    right = selftest._maps_of(CPU)

    def mirrored(net, drawn: PlantedScenes) -> Mapping[str, Tensor]:  # type: ignore[no-untyped-def]
        return {key: each.flip(2) for key, each in right(net, drawn).items()}

    def exchanged(net, drawn: PlantedScenes) -> Mapping[str, Tensor]:  # type: ignore[no-untyped-def]
        found = right(net, drawn)
        return {"left": found["right"], "right": found["left"]}

    def negated(net, drawn: PlantedScenes) -> Mapping[str, Tensor]:  # type: ignore[no-untyped-def]
        return {key: -each for key, each in right(net, drawn).items()}

    whole = {check.name: check for check in selftest._measure([student, student], "left", right, runtime=CPU)}
    assert whole["pointing game in the stream"].passed
    for broken in (mirrored, exchanged, negated):
        checks = {check.name: check for check in selftest._measure([student, student], "left", broken, runtime=CPU)}
        assert not checks["pointing game in the stream"].passed, broken.__name__


def test_rank_correlation_equals_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 9, (4, 50), generator=generator).float() for _ in range(2))
    expected = [spearmanr(x, y).statistic for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert np.allclose(spearman(a, b).numpy(), expected, atol=1e-12)


def look_and_fail(network: MultiStream, batch: dict[str, Tensor], before: dict[str, Tensor]) -> None:
    with randomised(network, seed=1, batch=batch):
        changed = network.state_dict()
        for name in ("fusion.classifier.weight", "branches.left.stream.stages.low.1.running_mean"):
            assert not torch.equal(changed[name], before[name])
        raise RuntimeError("intended")


@pytest.mark.parametrize("training", [True, False])
def test_randomised_weights_are_restored(make: Make, training: bool) -> None:
    """Check E6 for randomisation, including batch norm's statistics and modes, and after an exception."""
    network, batch = make(frozen=False).train(training), example()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    modes = [m.training for m in network.modules()]
    momenta = [m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    with pytest.raises(RuntimeError, match="intended"):
        look_and_fail(network, batch, before)
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    assert modes == [m.training for m in network.modules()]
    assert momenta == [m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(p.grad is None for p in network.parameters())


def test_map_that_depends_only_on_the_image_fails_the_randomisation(make: Make) -> None:
    """Negative control: edges of the image do not depend on the weights."""
    network, batch = make(), example()
    edges = batch["image"].float().diff(dim=3).abs().sum(1)
    assert similarity_to_random(network, lambda: edges, batch=batch, seeds=(0, 1)).min() > 0.999
