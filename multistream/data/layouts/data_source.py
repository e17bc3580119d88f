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


def open_table(source: str, *, label: str = "", allow_outside: bool = False, strict: bool = False) -> Table:
    """The data set that `source` names: "" the demo set, LAYOUT:PATH a named layout, else a folder or a CSV file.

    `label` chooses among the labels of a layout that has several. Paths may begin with ~. `allow_outside` lets a data
    set name files outside its folder; `strict` makes errors of what is otherwise skipped and reported. In place of a
    path there may be a URL (s3://, https://, ...): what lies there is copied once below the user's cache.
    """
    options = {"label": label, "allow_outside": allow_outside, "strict": strict}
    if not source:
        return _of_layout(DEMO, None, options)
    name, colon, rest = source.partition(":")
    if colon and _is_layout(name):
        return _of_layout(name, _path(rest) if rest else None, options)
    path = _path(source)
    if not is_url(source) and colon and re.fullmatch(r"\w+(@[\w.-]+)?", name) and not path.exists():
        raise UsageError("data", f"{name!r} is not a layout.", right=did_you_mean(name, datasets))
    if source in datasets and not path.exists():
        return _of_layout(source, None, options)
    if path.is_file():
        return sheet(path, label=label, allow_outside=allow_outside, strict=strict)
    if label:
        what = f"{source} has one label per image, so {label!r} cannot be chosen."
        raise UsageError("data.label", what, do="Omit --label, or name the layout, for example emotion6:PATH.")
    if path.is_dir():
        return folders(path, allow_outside=allow_outside, strict=strict)
    if path.exists():
        raise DataError(path, "it is neither a folder nor a regular file.", do="Pass a folder of photos, or a CSV.")
    raise DataError(path, "no such file or folder.", do="Pass a folder of photos by class, or a CSV.")


def absolute_source(source: str) -> str:
    """`source` with its path absolute, so that it means the same from any folder; URLs and names stay.

    >>> absolute_source("emotion6:/data/e6")
    'emotion6:/data/e6'
    """
    name, colon, rest = source.partition(":")
    if not source or "://" in source:
        return source
    if colon and _is_layout(name):
        return f"{name}:{os.path.abspath(Path(rest).expanduser())}" if rest else source
    path = Path(source).expanduser()
    return source if source in datasets and not path.exists() else os.path.abspath(path)


def _is_layout(name: str) -> bool:
    """Whether a name, perhaps NAME@DISTRIBUTION, is that of a layout."""
    return name.partition("@")[0] in datasets


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
    given = {key: value for key, value in options.items() if key in parameters and (key != "label" or value)}
    owner = owner_of("dataset", Spec.parse(text, key="data", where="data"), where="data")
    with owner.running():
        table = factory(**given) if path is None else factory(path, **given)
    if not isinstance(table, Table):
        raise owner.broken(f"it returns a {type(table).__name__}; it must return a multistream.data.table.Table")
    if fault := table.fault():
        raise owner.broken(fault)
    if options["label"] == VOTES and table.votes is None:
        raise owner.broken(f"its label {VOTES!r} has no votes; the Table must hold them")
    return table


def _check_use(name: str, path: Path | None, label: str, parameters: Mapping[str, Parameter]) -> None:
    """UsageError for a path that is missing or not taken, and for a label that a layout does not know."""
    first = next(iter(parameters.values()), None)
    if path is None and first is not None and first.name == "path" and first.default is first.empty:
        raise UsageError("data", f"{name!r} needs a path.", right=f"Write {name}:PATH.")
    if path is not None and "path" not in parameters:
        raise UsageError("data", f"{name!r} does not take a path.", right=f"Write {name} alone.")
    if label and "label" not in parameters:
        raise UsageError("data.label", f"{name!r} has one label per image.", do="Omit --label.")
