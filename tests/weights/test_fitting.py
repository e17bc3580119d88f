"""Fitting: all or nothing, and an error that says what did not fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from multistream.errors import WeightsError
from multistream.weights import fit


def module() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def state(**changes: Tensor | None) -> dict[str, Tensor]:
    """Random tensors for all of `module`; a change replaces one (`0_weight`), None takes it away."""
    draw = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(tensor.shape, generator=draw) if tensor.is_floating_point() else torch.tensor(7)
        for name, tensor in module().state_dict().items()
    }
    for name, tensor in changes.items():
        key = name.removeprefix("at_").replace("_", ".", 1)
        if tensor is None:
            del tensors[key]
        else:
            tensors[key] = tensor
    return tensors


def test_everything_is_copied_and_cast() -> None:
    net, tensors = module(), state()
    halves = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    fitted = fit(net, halves)
    assert (fitted.loaded, fitted.ignored) == (9, ())
    for name, tensor in net.state_dict().items():
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor, halves[name].to(tensor.dtype))


def test_places_stay_the_same_objects() -> None:
    """Optimisers and shared stages hold on to parameters: they are filled, not replaced."""
    net = module()
    before = {name: id(parameter) for name, parameter in net.named_parameters()}
    fit(net, state())
    assert {name: id(parameter) for name, parameter in net.named_parameters()} == before


def test_renaming_and_ignoring() -> None:
    foreign = {f"body.{name}": tensor for name, tensor in state().items()}
    foreign |= {"classifier.weight": torch.ones(3), "aux.weight": torch.ones(1)}

    def rename(key: str) -> str | None:
        return None if key.startswith("aux.") else key.removeprefix("body.")

    net = module()
    fitted = fit(net, foreign, rename=rename, ignore=("classifier.",))
    assert (fitted.loaded, fitted.ignored) == (9, ("classifier.weight", "aux.weight"))
    assert torch.equal(net[0].weight, foreign["body.0.weight"])


def test_counters_of_batch_norm_may_be_missing() -> None:
    net = module()
    assert fit(net, state(at_1_num_batches_tracked=None)).loaded == 8
    assert net[1].num_batches_tracked == 0


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (state(at_0_weight=None), r"1 missing \(0\.weight\)\. 8 of 9 tensors would fit\."),
        (state(at_1_running_var=None), r"1 missing \(1\.running_var\)"),
        (state(at_4_weight=torch.ones(1)), r"1 unexpected \(4\.weight\)\. 9 of 9 tensors would fit\."),
        (state(at_0_weight=torch.ones(4, 3, 5, 5)), r"1 with another shape \(0\.weight 4x3x5x5 for 4x3x3x3\)"),
        (state(at_3_bias=torch.tensor(1.0)), r"1 with another shape \(3\.bias scalar for 2\)"),
        (state(at_0_bias=torch.ones(4, dtype=torch.int8)), r"1 with another dtype \(0\.bias int8 for float32\)"),
        ({}, r"8 missing \(0\.weight, 0\.bias, 1\.weight, 1\.bias and 4 more\)\. 0 of 9 tensors would fit\."),
    ],
)
def test_what_does_not_fit_is_told_and_nothing_is_changed(tensors: dict[str, Tensor], says: str) -> None:
    net = module()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(WeightsError, match=r"^weights\.object: the file does not fit: " + says):
        fit(net, tensors, where="weights.object")
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_two_tensors_for_one_place_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"two tensors of the file are 0\.weight here, b\.0\.weight the second"):
        fit(module(), {"a.0.weight": torch.ones(1), "b.0.weight": torch.ones(1)}, rename=lambda key: key[2:])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named_and_nothing_changed(value: float) -> None:
    net, tensors = module(), dict(state())
    before = net[0].weight.detach().clone()
    tensors["0.bias"] = torch.full((4,), value)
    with pytest.raises(WeightsError, match=r"^weights: 0\.bias holds 4 numbers that are NaN or infinite"):
        fit(net, tensors)
    assert torch.equal(net[0].weight, before)


def test_the_name_under_which_lightning_holds_a_network_is_taken_off() -> None:
    net = module()
    fit(net, {f"model.{name}": tensor for name, tensor in state().items()})
    own = nn.ModuleDict({"model": nn.Linear(2, 2)})
    fit(own, own.state_dict())  # a network's own word stays
