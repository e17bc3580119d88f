"""The result of a weight file's reader (tensors by name, notes), and errors that readers raise."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from multistream.errors import said_by


class Malformed(ValueError):
    """A file's content does not match its format. The text is a clause; `what` and `do` complete the message."""

    what = "this is not a {format} file, or it is damaged: {clause}."
    do = "Download it again, or save only a state_dict: torch.save(model.state_dict(), FILE)."


class MoreThanTensors(Malformed):
    """An undamaged file that contains an object of a class that is not read."""

    what = "this {format} file holds {clause}: loading it could run arbitrary code."
    do = "Save only the tensors: torch.save(model.state_dict(), FILE)."


class Unsupported(Malformed):
    """An undamaged file, in a form that is not read."""

    what = "this {format} file is not supported: {clause}."
    do = ""


def expect(condition: bool, otherwise: str) -> None:
    """Raises Malformed with this clause unless the condition holds."""
    if not condition:
        raise Malformed(otherwise)


@contextmanager
def malformed(clause: str, *errors: type[Exception]) -> Iterator[None]:
    """Converts `errors` that a library raises on a damaged file to Malformed; a Malformed is re-raised unchanged."""
    try:
        yield
    except Malformed:
        raise
    except errors as error:
        raise Malformed(f"{clause}: {said_by(error)}") from error


def is_finite(tensor: Tensor) -> bool:
    """Returns whether a tensor has neither NaN nor infinity."""
    return bool(tensor.isfinite().all())


def all_start(names: Collection[str], prefix: str) -> bool:
    """Returns whether there are names, and all of them start with `prefix`."""
    return bool(names) and all(name.startswith(prefix) for name in names)


@dataclass(frozen=True)
class Contents:
    """Tensors on the CPU in their stored types; `notes` report what was renamed, permuted or unwrapped.

    `unused` names other sets of weights in the file.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    compressed: bool = False
