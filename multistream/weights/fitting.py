"""Fitting foreign tensors into a module: strictly, with a list of what did not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from multistream.errors import WeightsError

SHOWN = 4
"""Names that an error lists; the others are counted."""


@dataclass(frozen=True)
class Fitted:
    """How many tensors were loaded, and which of the file had no place by the stream's own word."""

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
    """Copies tensors into a module's state, cast to its types; all must fit, or nothing is changed.

    `rename` gives a foreign key's name here, None where it has no place; `ignore` are prefixes of keys, before or
    after renaming, that have none. Counters of batch norm may be missing. WeightsError lists what is missing,
    unexpected or misshapen.
    """
    own = module.state_dict()
    placed: dict[str, Tensor] = {}
    ignored = []
    for key, tensor in tensors.items():
        name = rename(key) if rename else key
        if name is None or key.startswith(tuple(ignore)) or name.startswith(tuple(ignore)):
            ignored.append(key)
        elif name in placed:
            raise WeightsError(where, f"two tensors of the file are {name}, {key} the second.")
        else:
            placed[name] = tensor
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in placed and name not in counters]
    unexpected = [name for name in placed if name not in own]
    misshapen = [
        f"{name} {tuple(placed[name].shape)} for {tuple(own[name].shape)}"
        for name in placed
        if name in own and placed[name].shape != own[name].shape
    ]
    if missing or unexpected or misshapen:
        told = [_told("missing", missing), _told("unexpected", unexpected), _told("of another shape", misshapen)]
        fits = len(placed) - len(unexpected) - len(misshapen)
        raise WeightsError(
            where,
            f"the file does not fit: {'; '.join(text for text in told if text)}.",
            right=f"{fits} of {len(own)} tensors would fit.",
            do="Is it another architecture or variant? See multistream weights inspect FILE.",
        )
    for name, tensor in placed.items():
        own[name].copy_(tensor)
    return Fitted(len(placed), tuple(ignored))


def _told(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {what} ({', '.join(names[:SHOWN])}{more})"
