"""Loads the tensors of a weight file into a module, strictly; errors list what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from multistream.errors import WeightsError, some_of
from multistream.weights.tensors import all_start, is_finite

SHOWN = 4
"""Number of names that an error lists; the others are counted."""

LIGHTNING = "model."

COUNTER = "num_batches_tracked"
"""Batch norm's counter, which is missing in files from before torch 0.4.1; its value is then unchanged."""


@dataclass(frozen=True)
class Fitted:
    """The number of loaded tensors, and the keys of the file that the stream ignores."""

    loaded: int
    ignored: tuple[str, ...]


@torch.no_grad()
def fit(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    rename: Callable[[str], str | None] | None = None,
    ignore: Sequence[str] = (),
    where: str = "weights",
) -> Fitted:
    """Copies tensors into a module's state, cast to its types; all must fit, otherwise nothing is changed.

    `rename` returns the module's name for a key in the file, None to ignore it; `ignore` are prefixes of keys to
    ignore, before or after renaming. Raises WeightsError with all tensors that are missing, unexpected, or of another
    shape or kind of number.

    >>> fit(nn.Linear(2, 1), {"w": torch.ones(1, 2), "bias": torch.ones(1)}, rename=lambda k: k.replace("w", "weight"))
    Fitted(loaded=2, ignored=())
    """
    placed, ignored = _placed(_without_lightning(module, tensors), rename, tuple(ignore), where)
    _check_finite(placed, where)
    own = module.state_dict()
    _check_fit(placed, own, where)
    for name, tensor in placed.items():
        own[name].copy_(tensor)
    return Fitted(len(placed), ignored)


def _check_fit(placed: Mapping[str, Tensor], own: Mapping[str, Tensor], where: str) -> None:
    """Raises WeightsError with all differences between these tensors and a module's own."""
    both = {name: (tensor, own[name]) for name, tensor in placed.items() if name in own}
    shapes = [f"{name} {_shape(a)} for {_shape(b)}" for name, (a, b) in both.items() if a.shape != b.shape]
    floats = ((name, a, b) for name, (a, b) in both.items() if a.is_floating_point() != b.is_floating_point())
    dtypes = [f"{name} {type_name(a)} for {type_name(b)}" for name, a, b in floats]
    wrong = {
        "missing": [name for name in own if name not in placed and not name.endswith(COUNTER)],
        "unexpected": [name for name in placed if name not in own],
        "with another shape": shapes,
        "with another dtype": dtypes,
    }
    if message := "; ".join(f"{len(names)} {what} ({some_of(names, SHOWN)})" for what, names in wrong.items() if names):
        fits = max(len(both) - len(shapes) - len(dtypes), 0)
        raise WeightsError(
            where,
            f"the file does not fit: {message}.",
            right=f"{fits} of {len(own)} tensors would fit.",
            do="It may be another architecture or variant: see multistream weights inspect FILE.",
        )


def _without_lightning(module: nn.Module, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Removes the attribute name under which Lightning modules hold a network, if all tensors start with it."""
    is_own = any(name.startswith(LIGHTNING) for name in module.state_dict())
    if is_own or not all_start(tensors, LIGHTNING):
        return tensors
    return {name.removeprefix(LIGHTNING): tensor for name, tensor in tensors.items()}


def _check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            count = int((~tensor.isfinite()).sum())
            what = f"{name} holds {count:,} numbers that are NaN or infinite."
            raise WeightsError(where, what, right="All weights must be finite.", do="Download the file again.")


def _placed(
    tensors: Mapping[str, Tensor], rename: Callable[[str], str | None] | None, ignore: tuple[str, ...], where: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Returns the tensors by the module's names, and the ignored keys."""
    placed: dict[str, Tensor] = {}
    ignored = []
    for key, tensor in tensors.items():
        name = rename(key) if rename else key
        if name is None or key.startswith(ignore) or name.startswith(ignore):
            ignored.append(key)
        elif name in placed:
            raise WeightsError(where, f"two tensors of the file are {name} here, {key} the second.")
        else:
            placed[name] = tensor
    return placed, tuple(ignored)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def type_name(tensor: Tensor) -> str:
    """Returns a tensor's type without the library's name, such as float32."""
    return str(tensor.dtype).removeprefix("torch.")
