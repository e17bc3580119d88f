"""An optimizer as named tensors and JSON, and back, bit by bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from multistream.errors import CannotResume
from multistream.runs.checkpoint.manifest import JSON

HOW_NOT_WHAT: Final = frozenset({"params", "fused", "foreach", "capturable", "differentiable"})
"""Settings of a parameter group that choose a kernel: they belong to the device, which may change."""


def optimizer_tensors(optimizer: Optimizer, names: Mapping[str, nn.Parameter]) -> tuple[dict[str, Tensor], JSON]:
    """State tensors as `<parameter>/<slot>`, and everything else as JSON. `names` are the names of the parameters.

    A parameter that has never stepped has no state, before as after.
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
    """The names of the parameters of each group."""
    name_of = {parameter: name for name, parameter in names.items()}
    return [[name_of[p] for p in group["params"]] for group in optimizer.param_groups]


def restore_optimizer(
    optimizer: Optimizer, names: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], json: JSON
) -> None:
    """Gives a new optimizer over the same parameters what `optimizer_tensors` returned.

    Raises CannotResume, with the difference, if the optimizer or its parameters are others.
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
    """The optimizer's class, and the parameters and names of settings of each group, as they were saved."""
    try:
        json["values"].items()
        groups = json["groups"]
        return json["kind"], [group["names"] for group in groups], [set(group["settings"]) for group in groups]
    except (KeyError, TypeError, AttributeError) as error:
        raise _differs(f"its JSON lacks {error}") from error


def _check_kind(optimizer: Optimizer, names: Mapping[str, nn.Parameter], json: JSON) -> None:
    """Refuses the state of another optimizer, or of other parameters or groups."""
    kind, groups, settings = _recorded(json)
    if kind != type(optimizer).__name__:
        raise _differs(f"it is of {kind}, not of {type(optimizer).__name__}")
    own = _group_names(optimizer, names)
    if groups != own:
        differing = sorted(set().union(*groups) ^ set().union(*own))[:4]
        what = ", ".join(differing) or "in a different order or different groups"
        raise _differs(f"its parameters differ from the current ones: {what}")
    for saved, group in zip(settings, optimizer.param_groups, strict=True):
        if other := set(_settings(group)) - saved:  # some optimizers add a count to their groups with the first step
            raise _differs(f"its groups have different settings: {', '.join(sorted(other))}")


def _placed(value: Tensor, parameter: nn.Parameter, *, key: str, on_cpu: bool) -> Tensor:
    """A copy on the parameter's device, laid out in memory as it is: kernels round by their order of reading."""
    if value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    if value.ndim:
        raise _differs(f"{key} has the shape {tuple(value.shape)}, its parameter {tuple(parameter.shape)}")
    return value.to("cpu" if on_cpu else parameter.device, copy=True)


def _counts_on_cpu(slot: str, group: Mapping[str, Any]) -> bool:
    """Whether torch keeps this count of steps on the CPU: there it costs no synchronisation."""
    return slot == "step" and not group.get("capturable") and not group.get("fused")


def _settings(group: Mapping[str, Any]) -> dict[str, JSON]:
    """Learning rate, momenta, decay, ... of a parameter group."""
    plain = {name: value.item() if isinstance(value, Tensor) else value for name, value in group.items()}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in plain.items() if name not in HOW_NOT_WHAT}


def _tuples(settings: Mapping[str, JSON]) -> dict[str, JSON]:
    """JSON knows no tuples: betas are one again."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def _differs(what: str) -> CannotResume:
    return CannotResume("optimizer", f"the saved state does not fit: {what}.", do="Train a new run instead.")
