"""Saves and restores the optimizer, as named tensors and JSON, and the states of random generators, bit by bit."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
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


def rng_tensors() -> dict[str, Tensor]:
    """Returns the states of torch's generators (CPU; each CUDA device if in use), NumPy's global and Python's."""
    kind, keys, position, has_normal, normal = np.random.get_state()
    version, words, kept = random.getstate()
    states = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "numpy_at": torch.tensor([position, has_normal]),
        "numpy_normal": torch.tensor(normal, dtype=torch.float64),
        "python": torch.tensor([version, *words]),
        "python_normal": torch.tensor([] if kept is None else [kept], dtype=torch.float64),
    }
    assert kind == "MT19937", "numpy's global generator has no other kind"
    if torch.cuda.is_initialized():
        states |= {f"cuda_{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore_rng(tensors: Mapping[str, Tensor]) -> None:
    """Sets the generators to the output of `rng_tensors`. Raises CannotResume, without any change, if it does not fit.

    A CUDA device that does not exist is skipped: a run may be resumed on another device.
    """
    devices = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    try:
        cuda = {index: tensors[f"cuda_{index}"] for index in devices if f"cuda_{index}" in tensors}
        cpu, numpy, python = tensors["torch"], _numpy_state(tensors), _python_state(tensors)
        # Other generators are set first as a test, because some generators fail half-way.
        torch.Generator().set_state(cpu)
        np.random.RandomState().set_state(numpy)
        random.Random().setstate(python)
        for index, state in cuda.items():
            torch.Generator(f"cuda:{index}").set_state(state)
    except (LookupError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise CannotResume(
            "rng", f"the random generator states do not fit: {error}.", do="Use another checkpoint."
        ) from error
    torch.set_rng_state(cpu)
    np.random.set_state(numpy)
    random.setstate(python)
    for index, state in cuda.items():
        torch.cuda.set_rng_state(state, index)


def _numpy_state(tensors: Mapping[str, Tensor]) -> tuple[str, NDArray[np.uint32], int, int, float]:
    position, has_normal = tensors["numpy_at"].tolist()
    # from a list, so that numbers out of range raise an error
    keys = np.array(tensors["numpy"].tolist(), dtype=np.uint32)
    return "MT19937", keys, position, has_normal, tensors["numpy_normal"].item()


def _python_state(tensors: Mapping[str, Tensor]) -> tuple[int, tuple[int, ...], float | None]:
    version, *words = tensors["python"].tolist()
    kept = tensors["python_normal"]
    return version, tuple(words), float(kept) if kept.numel() else None
