"""Errors that the user can fix, with their exit codes.

Messages are one line: *where: what is wrong, with the value. What is allowed. What to do.* Unprintable characters are
escaped, so that a file's name cannot break a line or a terminal. The command line prints the message and exits with
the error's exit code. All other exceptions are shown with a traceback.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import ClassVar


class MultistreamError(Exception):
    """An error that the user can fix: `where` it is, `what` is wrong, what would be `right`, and what to `do`.

    >>> print(UsageError("training.epochs", "-3 is negative.", right="It must be at least 1."))
    training.epochs: -3 is negative. It must be at least 1.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, where: str | os.PathLike[str], what: str, *, right: str = "", do: str = "") -> None:
        self.where, self.what, self.right, self.do = str(where), what, right, do
        super().__init__(printable(" ".join(filter(None, (f"{where}: {what}", right, do)))))


class MultistreamWarning(UserWarning):
    """A warning about a result; the command line prints it in one line."""


class UsageError(MultistreamError):
    """A command line, recipe or network that is not valid."""


class DataError(MultistreamError):
    """Photos, labels, vectors or maps that cannot be used."""

    exit_code = 65


class WeightsError(MultistreamError):
    """Weights that are missing, damaged or do not fit."""

    exit_code = 69


class PluginError(MultistreamError):
    """A plugin that is missing, broken or breaks its contract."""

    exit_code = 69


class DivergedError(MultistreamError):
    """A loss or gradient in training is not finite."""

    exit_code = 70


class MemoryExhausted(MultistreamError):
    """The device ran out of memory, or a worker process was killed."""

    exit_code = 71


class RunBusy(MultistreamError):
    """Another process holds the run folder."""

    exit_code = 73


class DiskFull(MultistreamError):
    """The disk is full or cannot be written."""

    exit_code = 74


class CannotResume(MultistreamError):
    """A checkpoint that does not fit the requested training."""

    exit_code = 78


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suggestion for an unknown `word`: the nearest known one, if any is near, and the whole list.

    >>> did_you_mean("objekt", ["object", "anp"])
    "Did you mean 'object'? Known: anp, object."
    """
    names = sorted(known)
    return f"{nearest(word, names)}Known: {', '.join(names) or 'none'}."


def nearest(word: str, known: Iterable[str]) -> str:
    """The question whether the nearest known word was meant, followed by a space; "" if none is near."""
    near = get_close_matches(word, list(known), n=1)
    return f"Did you mean {near[0]!r}? " if near else ""


def check_known(names: Iterable[str], known: Iterable[str], *, where: str, what: str = "{name!r} is unknown.") -> None:
    """Raises UsageError for the first of these names that is not known; `what` is the message, with `{name!r}`."""
    known = set(known)
    for name in names:
        if name not in known:
            raise UsageError(where, what.format(name=name), right=did_you_mean(name, known))


def check_choice(option: str, value: str, known: Iterable[str]) -> None:
    """Raises UsageError, with all choices, for a value that is not one of them."""
    if value not in known:
        *some, last = known
        raise UsageError(option, f"{value!r} is unknown.", right=f"{', '.join(some)} or {last}.")


def printable(name: str) -> str:
    """`name` on one line, with unprintable characters (newlines, bytes that are not UTF-8) escaped.

    >>> print(printable("a\\nb.jpg"))
    a\\nb.jpg
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)


def some_of(names: Iterable[object], shown: int = 3) -> str:
    """The first names for a message, and how many more there are.

    >>> some_of(["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    'a.jpg, b.jpg, c.jpg and 1 more'
    """
    texts = list(map(str, names))
    more = f" and {len(texts) - shown:,} more" if len(texts) > shown else ""
    return printable(", ".join(texts[:shown])) + more


def said_by(error: BaseException) -> str:
    """The first line of the message of another library's exception, without a full stop."""
    return str(error).strip().partition("\n")[0][:200].rstrip(".") or type(error).__name__


@contextmanager
def readable(
    where: str | os.PathLike[str],
    *kinds: type[Exception],
    what: str = "it cannot be read",
    right: str = "",
    do: str = "",
) -> Iterator[None]:
    """Turns exceptions of these kinds, which a library raises on a damaged file, into a DataError that quotes them.

    >>> with readable("a.json", ValueError):
    ...     int("x")
    Traceback (most recent call last):
    multistream.errors.DataError: a.json: it cannot be read: invalid literal for int() with base 10: 'x'.
    """
    try:
        yield
    except kinds as error:
        said = getattr(error, "strerror", None) or said_by(error)  # the system's message, without number and path
        raise DataError(where, f"{what}: {said}.", right=right, do=do) from error


@contextmanager
def extra(name: str, where: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Around an import: raises PluginError if the library is not installed; the package's extra `name` installs it."""
    try:
        yield
    except ImportError as error:
        raise PluginError(where, what, do=f"Install it: pip install 'multistream[{name}]'.") from error
