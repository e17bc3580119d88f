"""Opening: from what a user types after --data to a Table."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from inspect import Parameter
from pathlib import Path
from typing import Any

from multistream.data.layouts.csv_table import sheet
from multistream.data.layouts.folders import folders
from multistream.data.table import Table
from multistream.data.urls import is_url, local_copy
from multistream.errors import DataError, UsageError, did_you_mean
from multistream.registry import datasets, find, owner_of, signature
from multistream.spec import Spec

DEMO = "demo"
VOTES = "votes"
"""The label with which training has the distributions of votes as its targets."""

_LAYOUT = re.compile(r"(?P<name>\w+(@[\w.-]+)?):(?!//)")
"""How a source with a layout's name begins; a URL does not."""


def open_table(source: str, *, label: str = "", allow_outside: bool = False, strict: bool = False) -> Table:
    """The data set that `source` names: "" the demo set, LAYOUT:PATH a named layout, else a folder or a CSV file.

    `label` chooses among the labels of a layout that has several. Paths may begin with ~. `allow_outside` lets a data
    set name files outside its folder; `strict` makes errors of what is otherwise skipped and reported. In place of a
    path there may be a URL (s3://, https://, ...): what lies there is copied once below the user's cache.
    """
    options: dict[str, Any] = {"label": label, "allow_outside": allow_outside, "strict": strict}
    name, rest = _split(source)
    if name:
        return _of_layout(name, _path(rest) if rest else None, options)
    path = _path(source)
    if (unknown := _LAYOUT.match(source)) and not path.exists():
        word = unknown["name"]
        raise UsageError("data", f"{word!r} is not a layout.", right=did_you_mean(word, datasets))
    if path.is_file():
        return sheet(path, **options)
    if label:
        what = f"{source} has one label per image, so {label!r} cannot be chosen."
        raise UsageError("data.label", what, do="Omit --label, or name the layout, for example emotion6:PATH.")
    if path.is_dir():
        return folders(path, allow_outside=allow_outside, strict=strict)
    what = "it is neither a folder nor a regular file." if path.exists() else "no such file or folder."
    raise DataError(path, what, do="Pass a folder of photos by class, or a CSV.")


def absolute_source(source: str) -> str:
    """`source` with its path absolute, so that it means the same from any folder; URLs and names stay.

    >>> absolute_source("emotion6:/data/e6")
    'emotion6:/data/e6'
    """
    name, rest = _split(source)
    path = rest if name else source
    if "://" in source or not path:
        return source
    return source.removesuffix(path) + os.path.abspath(Path(path).expanduser())


def _split(source: str) -> tuple[str, str]:
    """The layout that a source names and its path, "" for what it does not name; a path may have a layout's name."""
    name, colon, rest = (source or DEMO).partition(":")
    is_path = not colon and bool(source) and Path(source).expanduser().exists()
    return ("", "") if is_path or name.partition("@")[0] not in datasets else (name, rest)


def _path(text: str) -> Path:
    """Where a data set lies; that of a copy, where it is at a URL. The photos of a CSV lie next to it."""
    if not is_url(text):
        return Path(text).expanduser()
    folder, _, name = text.rpartition("/")
    return local_copy(folder) / name if name.lower().endswith((".csv", ".tsv")) else local_copy(text)


def _of_layout(text: str, path: Path | None, options: Mapping[str, Any]) -> Table:
    """The table of a layout; it gets what its signature names of `options`, and must know a label that is asked for."""
    name, _, distribution = text.partition("@")
    part = find("dataset", name, distribution=distribution or None)
    factory = part.resolve()
    parameters = signature(part, factory).parameters
    _check_use(name, path, options["label"], parameters)
    given = {"path": path, **options}
    chosen = {key: value for key, value in given.items() if key in parameters and value not in (None, "")}
    owner = owner_of("dataset", Spec.parse(text, key="data", where="data"), where="data")
    with owner.running():
        table = factory(**chosen)
    if not isinstance(table, Table):
        raise owner.broken(f"it returns a {type(table).__name__}; it must return a multistream.data.table.Table")
    if fault := table.fault():
        raise owner.broken(fault)
    if options["label"] == VOTES and table.votes is None:
        raise owner.broken(f"its label {VOTES!r} has no votes; the Table must hold them")
    return table


def _check_use(name: str, path: Path | None, label: str, parameters: Mapping[str, Parameter]) -> None:
    """UsageError for a path that is missing or not taken, and for a label that a layout does not know."""
    of_path = parameters.get("path")
    if path is None and of_path and of_path.default is of_path.empty:
        raise UsageError("data", f"{name!r} needs a path.", right=f"Write {name}:PATH.")
    if path and not of_path:
        raise UsageError("data", f"{name!r} does not take a path.", right=f"Write {name} alone.")
    if label and "label" not in parameters:
        raise UsageError("data.label", f"{name!r} has one label per image.", do="Omit --label.")
