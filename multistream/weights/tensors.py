"""What a reader hands over: tensors by name, and what it noticed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from multistream.errors import said_by


class Malformed(ValueError):
    """A file is not what it claims to be. Its text is a clause; `what` and `do` make the message."""

    what = "this is not a {format} file, or it is damaged: {clause}."
    do = "Download it again, or save only a state_dict: torch.save(model.state_dict(), FILE)."


class MoreThanTensors(Malformed):
    """A whole file of its kind, that holds an object of a class that is not read."""

    what = "this {format} file holds {clause}: loading it could run arbitrary code."
    do = "Save only the tensors: torch.save(model.state_dict(), FILE)."


class Unsupported(Malformed):
    """A whole file of its kind, in a form that is not read."""

    what = "this {format} file is not supported: {clause}."
    do = ""


def expect(condition: bool, otherwise: str) -> None:
    """Raises Malformed with this clause unless the condition holds."""
    if not condition:
        raise Malformed(otherwise)


@contextmanager
def malformed(clause: str, *errors: type[Exception]) -> Iterator[None]:
    """Turns what a library makes of a damaged file, `errors`, into Malformed; a Malformed passes as it is."""
    try:
        yield
    except Malformed:
        raise
    except errors as error:
        raise Malformed(f"{clause}: {said_by(error)}") from error


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds no NaN and no infinity."""
    return bool(tensor.isfinite().all())


def all_start(names: Collection[str], prefix: str) -> bool:
    """Whether there are names, and all of them start with `prefix`."""
    return bool(names) and all(name.startswith(prefix) for name in names)


@dataclass(frozen=True)
class Contents:
    """Tensors on the CPU in their stored types; `notes` say what was renamed, permuted or unwrapped.

    `unused` names other sets of weights in the file.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    compressed: bool = False
