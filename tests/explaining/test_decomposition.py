"""The exact sum (checks E3), and where there is none."""

from __future__ import annotations

import pytest
import torch

from multistream.explaining.decomposition import Decomposer, decompose, sum_of_parts
from multistream.explaining.observing import observe
from multistream.explaining.targets import Target
from multistream.runtime.device import Runtime
from tests.explaining.conftest import CLASSES, Make, example

CPU = Runtime(torch.device("cpu"))


@pytest.mark.parametrize("temporal", ["concat", "average"])
def test_every_logit_is_the_sum_of_its_parts(make: Make, temporal: str) -> None:
    network, batch = make(temporal=temporal, fusion="early"), example()
    found = decompose(network, batch, runtime=CPU)
    total = sum(sum_of_parts(found, key) for key in network.branches) + found.bias[""]
    logits = network(batch).double()
    assert ((total - logits).abs() <= 1e-5 * logits.abs().clamp_min(1)).all()
    assert all(found.exact.values())
    assert found.residual().max() < 1e-5


@pytest.mark.parametrize("fusion", ["late", "gated"])
def test_where_probabilities_are_fused_each_streams_logits_are_sums(make: Make, fusion: str) -> None:
    network, batch = make(fusion=fusion), example()
    found = decompose(network, batch, runtime=CPU)
    output = network.fuse(network.pool(batch))
    for key in network.branches:
        total = sum_of_parts(found, key) + found.bias[key]
        assert torch.allclose(total, output.streams[key].double(), atol=1e-5)
    if fusion == "late":
        mean = torch.stack(list(found.probabilities.values())).mean(0)
        assert torch.allclose(mean, output.logits.double().softmax(1), atol=1e-6)


def test_bias_is_what_no_evidence_gives(make: Make) -> None:
    network = make()
    nothing = {k: {s: torch.zeros(1, t.pooled_width) for s, t in b.taps.items()} for k, b in network.branches.items()}
    found = decompose(network, example(), runtime=CPU)
    assert torch.allclose(found.bias[""], network.classify(nothing)[0], atol=1e-6)


@pytest.mark.parametrize(("temporal", "fusion"), [("bigru", "early"), ("bigru+att", "late"), ("bigru+att", "gated")])
def test_what_is_not_linear_is_marked(make: Make, temporal: str, fusion: str) -> None:
    found = decompose(make(temporal=temporal, fusion=fusion), example(), runtime=CPU)
    assert not found.exact["left"]


def test_the_residual_sees_a_missing_part(make: Make) -> None:
    """Negative control: a map that is taken away must show."""
    found = decompose(make(), example(), runtime=CPU)
    found.maps["left"]["high"].zero_()
    assert found.residual().min() > 1e-3


@pytest.mark.parametrize("frozen", [True, False])
def test_nothing_of_the_network_changes(make: Make, frozen: bool) -> None:
    """Check E6."""
    network = make(frozen=frozen).train()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    modes = [m.training for m in network.modules()]
    decompose(network, example(), runtime=CPU)
    assert modes == [m.training for m in network.modules()]
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_modes_come_back_after_an_exception(make: Make) -> None:
    network = make().train()
    modes = [m.training for m in network.modules()]
    with pytest.raises(KeyError):
        decompose(network, {"image": example()["image"]}, runtime=CPU)
    assert modes == [m.training for m in network.modules()]


@pytest.mark.parametrize("fusion", ["early", "late"])
@pytest.mark.parametrize("against", ["", "awe"])
def test_one_class_alone_is_the_same_as_among_all(make: Make, fusion: str, against: str) -> None:
    network = make(fusion=fusion)
    seen = observe(network, example(), runtime=CPU)
    chosen = Target("fear", against).of(seen.fused, torch.full((4,), -1), CLASSES)
    every, one = Decomposer(network).decompose(seen), Decomposer(network).decompose(seen, chosen)
    for key, stages in every.maps.items():
        for stage, maps in stages.items():
            assert one.maps[key][stage].shape[1] == 1
            assert torch.allclose(one.maps[key][stage][:, 0], chosen.pick(maps), atol=1e-6)
    assert torch.allclose(one.vectors["words"][:, 0], chosen.pick(every.vectors["words"]), atol=1e-6)
    assert one.residual().max() < 1e-5
