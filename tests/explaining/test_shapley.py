"""Shapley values of streams and stages (checks A1, A3, A5, A6)."""

from __future__ import annotations

import pytest
import torch

from multistream.explaining.games import shapley_values
from tests.explaining.conftest import Make, example


def pooled_of(network, size: int = 4):  # type: ignore[no-untyped-def]
    with torch.no_grad():
        return network.pool(example(size))


@pytest.mark.parametrize("baseline", ["mean", "zero", "drop"])
@pytest.mark.parametrize("scale", ["logit", "probability"])
@pytest.mark.parametrize(("temporal", "fusion"), [("concat", "early"), ("bigru+att", "late"), ("concat", "gated")])
def test_streams_sum_to_full_coalition_and_stages_to_their_stream(
    make: Make, baseline: str, scale: str, temporal: str, fusion: str
) -> None:
    network = make(temporal=temporal, fusion=fusion)
    found = shapley_values(network, pooled_of(network), baseline=baseline, scale=scale)  # type: ignore[arg-type]
    assert torch.allclose(found.streams.sum(-1), found.full - found.empty, atol=1e-12)
    for place, key in enumerate(found.keys):
        if found.stages:
            assert torch.allclose(found.stages[key].sum(-1), found.streams[..., place], atol=1e-10)
    assert torch.equal(found.interactions, found.interactions.transpose(-1, -2))


def test_linear_head_gives_each_stream_its_distance_from_the_mean(make: Make) -> None:
    """Check A3: phi = w . (z - mean)."""
    network = make()
    pooled = pooled_of(network)
    found = shapley_values(network, pooled)
    start = 0
    for place, (key, branch) in enumerate(network.branches.items()):
        weights = network.fusion.classifier.weight[:, start : start + branch.out_width]
        start += branch.out_width
        mean = {stage: tap.baseline.expand_as(pooled[key][stage]) for stage, tap in branch.taps.items()}
        expected = (branch(pooled[key]) - branch(mean)) @ weights.T
        assert torch.allclose(found.streams[..., place], expected.double(), atol=1e-5)


def test_stream_values_equal_captum_over_the_fused_vector(make: Make) -> None:
    """Check A2: captum permutes the streams' parts of the vector, a contiguous mask."""
    captum = pytest.importorskip("captum.attr")
    network = make(temporal="bigru+att", fusion="gated")
    pooled = pooled_of(network, 2)
    vectors, means = {}, {}
    with torch.no_grad():
        for key, branch in network.branches.items():
            vectors[key] = branch(pooled[key])
            means[key] = branch({s: t.baseline.expand_as(pooled[key][s]) for s, t in branch.taps.items()})
    widths = [vector.shape[1] for vector in vectors.values()]

    def of_vector(joined: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = network.fusion(dict(zip(vectors, joined.split(widths, 1), strict=True))).logits
        return logits

    mask = torch.repeat_interleave(torch.arange(len(widths)), torch.tensor(widths))[None]
    joined, baseline = (torch.cat(list(parts.values()), 1) for parts in (vectors, means))
    with torch.no_grad():
        theirs = captum.ShapleyValues(of_vector).attribute(joined, baseline, target=1, feature_mask=mask)
    ours = shapley_values(network, pooled).streams[:, 1]
    starts = torch.tensor([0, *widths[:-1]]).cumsum(0)
    assert torch.allclose(ours, theirs[:, starts].double(), atol=1e-6)


def test_equal_streams_get_equal_values(make: Make) -> None:
    """Check A3: equal taps, equal values; stage by stage too."""
    network = make()
    network.branches["right"].load_state_dict(network.branches["left"].state_dict())
    width = network.branches["left"].out_width
    with torch.no_grad():
        weight = network.fusion.classifier.weight
        weight[:, width : 2 * width] = weight[:, :width]
    found = shapley_values(network, pooled_of(network))
    assert torch.allclose(found.streams[..., 0], found.streams[..., 1], atol=1e-6)
    assert torch.allclose(found.stages["left"], found.stages["right"], atol=1e-6)


def test_stream_ignored_by_the_head_gets_zero(make: Make) -> None:
    network = make()
    width = network.branches["left"].out_width
    with torch.no_grad():
        network.fusion.classifier.weight[:, :width] = 0
    found = shapley_values(network, pooled_of(network))
    assert (found.streams[..., 0] == 0).all()


def test_late_fusion_of_two_streams_equals_closed_form() -> None:
    """Check A6: phi_1 = (3 p_1 - p_2) / 4 - prior / 2."""
    from multistream import compose
    from tests.explaining.conftest import CLASSES, Toy

    torch.manual_seed(0)
    network = compose({"one": Toy(), "two": Toy()}, classes=CLASSES, fusion="late").eval()
    network.prior.copy_(torch.tensor([0.5, 0.3, 0.2]))
    with torch.no_grad():
        pooled = network.pool(example())
        p1, p2 = (own.double().softmax(1) for own in network.fuse(pooled).streams.values())
    found = shapley_values(network, pooled, baseline="drop", scale="probability")
    assert torch.allclose(found.streams[..., 0], (3 * p1 - p2) / 4 - network.prior.double() / 2, atol=1e-6)


def test_unknown_baseline_raises(make: Make) -> None:
    from multistream import MultistreamError

    network = make()
    with pytest.raises(MultistreamError, match="mean, zero or drop"):
        shapley_values(network, pooled_of(network), baseline="noise")  # type: ignore[arg-type]
