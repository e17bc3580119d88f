"""The forms in which vectors lie on a disk (paper section 5), each read into ids, features and vocabulary."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from multistream.data.layouts.delimited_text import read_text
from multistream.data.table import VectorTable
from multistream.data.vectors.deepsentibank import from_scores
from multistream.data.vectors.text import ID_COLUMNS, first_column, from_lines
from multistream.errors import DataError, PluginError, printable

_SHOWN = 5

VOCABULARY = "{}.vocabulary.txt"
"""Where the names of a file NAME that holds numbers alone may lie: one a line."""

MAX_UNPACKED = 2**28
MAX_RATIO = 100
"""An archive may unpack to so many bytes, or to so many times its size, whichever is more."""

DAMAGED = (OSError, EOFError, ValueError, MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What NumPy, zipfile and safetensors raise over files that are not what their names say."""


def from_npz(path: Path) -> VectorTable:
    """Arrays `ids` (N,), `features` (N, D) and perhaps `vocabulary` (D,)."""
    with _readable(path), np.load(path, allow_pickle=False) as arrays:
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ValueError("it is not an archive of arrays")
        _check_unpacked(path, arrays.zip)
        wanted = [name for name in ("ids", "features", "vocabulary") if name in arrays.files]
        found: dict[str, NDArray[Any]] = {name: arrays[name] for name in wanted}
        _check_names(path, found, arrays.files)
    return VectorTable(_texts(path, found["ids"]), found["features"], _texts(path, found.get("vocabulary")))


def from_safetensors(path: Path) -> VectorTable:
    """A tensor `features` (N, D); `ids` and `vocabulary` as JSON lists in the metadata, or as uint8 tensors of UTF-8.

    Such a tensor holds a JSON list, or a name a line.
    """
    with _readable(path), safe_open(path, framework="numpy") as file:
        texts = dict(file.metadata() or {})
        tensors = set(file.keys())
        for name in {"ids", "vocabulary"} & tensors:
            texts[name] = file.get_tensor(name).astype(np.uint8).tobytes().decode()
        _check_names(path, {*texts, *tensors}, {*texts, *tensors})
        try:
            features = file.get_tensor("features")
        except TypeError as error:  # NumPy has no bfloat16
            raise ValueError(f"NumPy does not know the features' type ({error})") from error
        return VectorTable(_listed(texts["ids"]), features, _listed(texts.get("vocabulary", "[]")))


def from_npy(path: Path) -> VectorTable:
    """An array (N, D), with ids in a file next to it."""
    with _readable(path):
        features = np.load(path, allow_pickle=False)
    if not isinstance(features, np.ndarray):
        raise DataError(path, "it is an archive.", do="Give it the extension .npz.")
    return VectorTable(_ids_beside(path), features, _vocabulary_beside(path))


def from_dat(path: Path) -> VectorTable:
    """Caffe's raw float32, n x D row by row, with n ids in a file next to it."""
    ids = _ids_beside(path)
    with _readable(path):
        size = path.stat().st_size
        if size % (4 * max(len(ids), 1)):
            raise ValueError(f"{size:,} bytes are not a whole number of float32 for each of {len(ids):,} ids")
        features = np.fromfile(path, dtype="<f4").reshape(len(ids), -1)
    return VectorTable(ids, features, _vocabulary_beside(path))


def from_parquet(path: Path) -> VectorTable:
    """A column of ids, and either one column of lists (D,) or D columns of numbers, whose names are the vocabulary."""
    where = printable(str(path))
    table = _parquet_table(path, where)
    ids = next((name for name in table.column_names if name.lower() in ID_COLUMNS), None)
    if ids is None:
        right = f"One must be called {', '.join(sorted(ID_COLUMNS)[1:5])}..."
        raise DataError(where, f"no column of ids is among {', '.join(table.column_names[:_SHOWN])}.", right=right)
    names = tuple(str(name) for name in table.column(ids).to_pylist())
    others = [name for name in table.column_names if name != ids]
    lists = [name for name in others if table.schema.field(name).type.num_fields]
    if len(lists) == 1:
        return VectorTable(names, _rows_of_lists(table.column(lists[0]).to_pylist(), where))
    if lists or not others:
        right = "Store one list per row, or one column per number."
        raise DataError(where, f"{len(lists)} columns contain lists.", right=right)
    try:
        columns = [np.asarray(table.column(name).to_numpy(), dtype=np.float32) for name in others]
    except (ValueError, TypeError) as error:
        right = "All columns except the ids must be numbers."
        raise DataError(where, f"a column holds no numbers: {error}.", right=right) from error
    return VectorTable(names, np.stack(columns, axis=1), tuple(others))


def _parquet_table(path: Path, where: str) -> Any:
    """The pyarrow.Table of a file."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        do = "Install it: pip install 'multistream[datasets]'."
        raise PluginError(where, "parquet needs pyarrow, which is not installed.", do=do) from error
    try:
        return pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(where, f"it is not valid parquet: {' '.join(str(error).split())[:200]}.") from error


def _rows_of_lists(rows: Sequence[list[float] | None], where: str) -> NDArray[np.float32]:
    """One list per row as (N, D); DataError names the first row that is missing or of another length."""
    width = len(rows[0]) if rows and rows[0] else 0
    wrong = next((i for i, row in enumerate(rows) if not isinstance(row, list) or len(row) != width), None)
    if wrong is not None:
        raise DataError(f"{where}, row {wrong}", "its list has another length than the first.")
    return np.array(rows, dtype=np.float32).reshape(len(rows), -1)


FORMS: dict[str, Callable[[Path], VectorTable]] = {
    ".npz": from_npz,
    ".npy": from_npy,
    ".csv": from_lines,
    ".tsv": from_lines,
    ".safetensors": from_safetensors,
    ".dat": from_dat,
    ".json": from_scores,
    ".parquet": from_parquet,
}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what a damaged file raises into a DataError."""
    try:
        yield
    except (*DAMAGED, SafetensorError) as error:
        message = printable(" ".join(str(error).split())) or type(error).__name__
        do = "Save text with dtype=str: arrays of objects are pickles." if "pickle" in message else ""
        raise DataError(path, f"it cannot be read: {message.rstrip('.')}.", do=do) from error


def _check_unpacked(path: Path, archive: zipfile.ZipFile | None) -> None:
    """Refuses an archive that unpacks to far more than it is: 3 MB of zeros can become 3 GB."""
    entries = archive.infolist() if archive else []
    unpacked, packed = (sum(getattr(entry, name) for entry in entries) for name in ("file_size", "compress_size"))
    if unpacked > MAX_UNPACKED and unpacked > MAX_RATIO * packed:
        what = f"it unpacks to {unpacked:,} bytes, {unpacked // max(packed, 1):,} times its compressed size."
        do = "If the file is trusted, save it without compression: np.savez."
        raise DataError(path, what, right=f"At most {MAX_RATIO} times.", do=do)


def _check_names(path: Path, found: Iterable[str], held: Iterable[str]) -> None:
    if lacking := sorted({"ids", "features"} - set(found), reverse=True):
        names = sorted(map(printable, held))
        more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
        what = f"it holds no {' and no '.join(lacking)}, but {', '.join(names[:_SHOWN]) or 'nothing'}{more}."
        raise DataError(path, what, right="ids (N,), features (N, D), vocabulary (D,) if known.")


def _texts(path: Path, array: NDArray[Any] | None) -> tuple[str, ...]:
    """An array of text, bytes (as UTF-8) or whole numbers as names."""
    if array is None:
        return ()
    if array.ndim != 1 or array.dtype.kind not in "USiu":
        what = f"names are an array {array.shape} of {array.dtype}."
        raise DataError(path, what, right="They must be a 1-D array of strings.")
    if array.dtype.kind == "S":
        return tuple(name.decode("utf-8", "surrogateescape") for name in array.tolist())
    return tuple(map(str, array.tolist()))


def _listed(text: str) -> tuple[str, ...]:
    """A JSON list, or a name a line."""
    if not text.lstrip().startswith("["):
        return tuple(text.splitlines())
    return tuple(map(str, json.loads(text)))


def _ids_beside(path: Path) -> tuple[str, ...]:
    """The ids of a file that holds numbers alone: a line each, an array of text, or the first column of a CSV."""
    lines, array, table = (path.with_name(path.stem + ending) for ending in (".ids.txt", "_ids.npy", ".csv"))
    if lines.is_file():
        return tuple(read_text(lines).removesuffix("\n").split("\n"))
    if array.is_file():
        with _readable(array):
            return _texts(array, np.load(array, allow_pickle=False))
    if table.is_file():
        return first_column(table)
    looked = ", ".join(printable(place.name) for place in (lines, array, table))
    what = "it holds only numbers, and there is no file of ids next to it."
    raise DataError(path, what, right=f"Looked for {looked}.", do="Create one of them, with one id per row.")


def _vocabulary_beside(path: Path) -> tuple[str, ...]:
    names = path.with_name(VOCABULARY.format(path.stem))
    return tuple(read_text(names).removesuffix("\n").split("\n")) if names.is_file() else ()
