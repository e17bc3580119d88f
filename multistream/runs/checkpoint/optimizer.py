"""Converts an optimizer to named tensors and JSON, and restores it bit by bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from multistream.errors import CannotResume
from multistream.runs.checkpoint.manifest import JSON

HOW_NOT_WHAT: Final = frozenset({"params", "fused", "foreach", "capturable", "differentiable"})
"""Settings of a parameter group that select a kernel: they depend on the device, which may change."""


def optimizer_tensors(optimizer: Optimizer, names: Mapping[str, nn.Parameter]) -> tuple[dict[str, Tensor], JSON]:
    """Returns state tensors as `<parameter>/<slot>`, and everything else as JSON. `names` are the parameters' names.

    A parameter that was never updated has no state, neither saved nor restored.
    """
    name_of: dict[Tensor, str] = {parameter: name for name, parameter in names.items()}
    tensors: dict[str, Tensor] = {}
    values: dict[str, JSON] = {}
    for parameter, slots in optimizer.state.items():
        for slot, value in slots.items():
            (tensors if isinstance(value, Tensor) else values)[f"{name_of[parameter]}/{slot}"] = value
    settings = map(_settings, optimizer.param_groups)
    groups = [
        {"names": own, "settings": values} for own, values in zip(_group_names(optimizer, names), settings, strict=True)
    ]
    return tensors, {"kind": type(optimizer).__name__, "groups": groups, "values": values}


def _group_names(optimizer: Optimizer, names: Mapping[str, nn.Parameter]) -> list[list[str]]:
    """Returns the names of the parameters of each group."""
    name_of = {parameter: name for name, parameter in names.items()}
    return [[name_of[p] for p in group["params"]] for group in optimizer.param_groups]


def restore_optimizer(
    optimizer: Optimizer, names: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], json: JSON
) -> None:
    """Restores the output of `optimizer_tensors` in a new optimizer over the same parameters.

    Raises CannotResume, with the difference, if the optimizer or its parameters differ.
    """
    _check_kind(optimizer, names, json)
    states: dict[Tensor, dict[str, Any]] = {}
    group_of = {p: group for group in optimizer.param_groups for p in group["params"]}
    for key, value in [*json["values"].items(), *tensors.items()]:
        name, _, slot = key.rpartition("/")
        if name not in names or names[name] not in group_of:
            raise _differs(f"it holds {key}, which belongs to no parameter of this optimizer")
        parameter = names[name]
        if isinstance(value, Tensor):
            value = _placed(value, parameter, key=key, on_cpu=_counts_on_cpu(slot, group_of[parameter]))
        states.setdefault(parameter, {})[slot] = value
    optimizer.state.clear()
    optimizer.state.update(states)
    for group, saved in zip(optimizer.param_groups, json["groups"], strict=True):
        group.update(_tuples(saved["settings"]))


def _recorded(json: JSON) -> tuple[str, list[list[str]], list[set[str]]]:
    """Returns the saved optimizer class, and for each group its parameters and the names of its settings."""
    try:
        json["values"].items()
        groups = json["groups"]
        return json["kind"], [group["names"] for group in groups], [set(group["settings"]) for group in groups]
    except (KeyError, TypeError, AttributeError) as error:
        raise _differs(f"its JSON lacks {error}") from error


def _check_kind(optimizer: Optimizer, names: Mapping[str, nn.Parameter], json: JSON) -> None:
    """Raises CannotResume for the state of another optimizer, or of other parameters or groups."""
    kind, groups, settings = _recorded(json)
    if kind != type(optimizer).__name__:
        raise _differs(f"it is of {kind}, not of {type(optimizer).__name__}")
    own = _group_names(optimizer, names)
    if groups != own:
        differing = sorted(set().union(*groups) ^ set().union(*own))[:4]
        what = ", ".join(differing) or "in a different order or different groups"
        raise _differs(f"its parameters differ from the current ones: {what}")
    for saved, group in zip(settings, optimizer.param_groups, strict=True):
        if other := set(_settings(group)) - saved:  # some optimizers add a counter to their groups in the first step
            raise _differs(f"its groups have different settings: {', '.join(sorted(other))}")


def _placed(value: Tensor, parameter: nn.Parameter, *, key: str, on_cpu: bool) -> Tensor:
    """Copies a value to the parameter's device with its memory layout, which determines the rounding of kernels."""
    if value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    if value.ndim:
        raise _differs(f"{key} has the shape {tuple(value.shape)}, its parameter {tuple(parameter.shape)}")
    return value.to("cpu" if on_cpu else parameter.device, copy=True)


def _counts_on_cpu(slot: str, group: Mapping[str, Any]) -> bool:
    """Returns whether torch keeps this step counter on the CPU, where it needs no synchronisation."""
    return slot == "step" and not group.get("capturable") and not group.get("fused")


def _settings(group: Mapping[str, Any]) -> dict[str, JSON]:
    """Returns the settings of a parameter group: learning rate, momenta, weight decay, ..."""
    plain = {name: value.item() if isinstance(value, Tensor) else value for name, value in group.items()}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in plain.items() if name not in HOW_NOT_WHAT}


def _tuples(settings: Mapping[str, JSON]) -> dict[str, JSON]:
    """Converts lists to tuples, which JSON does not have: betas is a tuple again."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def _differs(what: str) -> CannotResume:
    return CannotResume("optimizer", f"the saved state does not fit: {what}.", do="Train a new run instead.")
