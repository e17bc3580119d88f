"""Opens the data set of --data as a Table."""

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
"""The label for which the training targets are the distributions of votes."""

_LAYOUT = re.compile(r"(?P<name>\w+(@[\w.-]+)?):(?!//)")
"""Matches the start of a source with a layout's name, but not of a URL."""


def open_table(source: str, *, label: str = "", allow_outside: bool = False, strict: bool = False) -> Table:
    """Opens the data set `source`: "" is the demo set, LAYOUT:PATH a named layout, others are folders or CSV files.

    `label` chooses among the labels of a layout with several. Paths may begin with ~. `allow_outside` allows files
    outside the data set's folder; with `strict`, files that are otherwise skipped and reported raise errors. The path
    may be a URL (s3://, https://, ...), whose files are copied once into the user's cache folder.
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
    """`source` with an absolute path, so that it is valid in any folder; URLs and names are unchanged.

    >>> absolute_source("emotion6:/data/e6")
    'emotion6:/data/e6'
    """
    name, rest = _split(source)
    path = rest if name else source
    if "://" in source or not path:
        return source
    return source.removesuffix(path) + os.path.abspath(Path(path).expanduser())


def _split(source: str) -> tuple[str, str]:
    """The layout and the path in a source, "" if it has none; an existing path with a layout's name is a path."""
    name, colon, rest = (source or DEMO).partition(":")
    is_path = not colon and bool(source) and Path(source).expanduser().exists()
    return ("", "") if is_path or name.partition("@")[0] not in datasets else (name, rest)


def _path(text: str) -> Path:
    """The local path of a data set; of a copy if it is a URL. For a CSV the whole folder is copied, with the photos."""
    if not is_url(text):
        return Path(text).expanduser()
    folder, _, name = text.rpartition("/")
    return local_copy(folder) / name if name.lower().endswith((".csv", ".tsv")) else local_copy(text)


def _of_layout(text: str, path: Path | None, options: Mapping[str, Any]) -> Table:
    """The table of a layout, which is called with those `options` that are in its signature.

    Raises UsageError if it does not accept the path or label, PluginError if its table is not valid.
    """
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
    """Raises UsageError for a path that is missing or not accepted, and for a label that a layout does not accept."""
    of_path = parameters.get("path")
    if path is None and of_path and of_path.default is of_path.empty:
        raise UsageError("data", f"{name!r} needs a path.", right=f"Write {name}:PATH.")
    if path and not of_path:
        raise UsageError("data", f"{name!r} does not take a path.", right=f"Write {name} alone.")
    if label and "label" not in parameters:
        raise UsageError("data.label", f"{name!r} has one label per image.", do="Omit --label.")
