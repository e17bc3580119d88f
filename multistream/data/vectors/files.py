"""Files of vectors (paper section 5): readers of all formats, and checks of their content."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from multistream.data.layouts.delimited_text import read_text
from multistream.data.layouts.parquet import pyarrow_for
from multistream.data.table import VectorTable
from multistream.data.vectors.deepsentibank import from_scores
from multistream.data.vectors.text import ID_COLUMNS, first_column, from_lines
from multistream.errors import DataError, readable, said_by, some_of
from multistream.files import replacing

_SHOWN = 5

VOCABULARY = "{}.vocabulary.txt"
"""The file with the vocabulary of a file that holds only numbers: one name per line."""

MAX_UNPACKED = 2**28
MAX_RATIO = 100
"""The limits of an archive's unpacked size, in bytes and relative to its size; the larger one applies."""

DAMAGED = (OSError, EOFError, ValueError, MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""Exceptions that NumPy, zipfile and safetensors raise on damaged files."""


def from_npz(path: Path) -> VectorTable:
    """Reads arrays `ids` (N,), `features` (N, D) and optionally `vocabulary` (D,)."""
    with _readable(path):
        arrays = np.load(path, allow_pickle=False)
    if isinstance(arrays, np.ndarray):
        raise DataError(path, "it is a single array.", do="Rename it so that it ends in .npy.")
    with _readable(path), arrays:
        _check_unpacked(path, arrays.zip.infolist())
        found = {name: arrays[name] for name in arrays.files if name in ("ids", "features", "vocabulary")}
        _check_names(path, found, arrays.files)
    vocabulary = found.get("vocabulary", np.array([], dtype=np.str_))
    return VectorTable(_texts(path, found["ids"]), found["features"], _texts(path, vocabulary))


def from_safetensors(path: Path) -> VectorTable:
    """Reads a tensor `features` (N, D); `ids` and `vocabulary` are in the metadata, or uint8 tensors of UTF-8.

    Each is a JSON list, or has one name per line.
    """
    with _readable(path), safe_open(path, framework="numpy") as file:
        texts = dict(file.metadata() or {})
        tensors = set(file.keys())
        for name in {"ids", "vocabulary"} & tensors:
            texts[name] = file.get_tensor(name).astype(np.uint8).tobytes().decode()
        _check_names(path, {*texts, *tensors}, {*texts, *tensors})
        with readable(path, TypeError, what="NumPy does not know the features' type"):  # NumPy has no bfloat16
            features = file.get_tensor("features")
        return VectorTable(_listed(texts["ids"]), features, _listed(texts.get("vocabulary", "[]")))


def from_npy(path: Path) -> VectorTable:
    """Reads an array (N, D), with ids in a file next to it."""
    with _readable(path):
        features = np.load(path, allow_pickle=False)
    if not isinstance(features, np.ndarray):
        raise DataError(path, "it is an archive.", do="Rename it so that it ends in .npz.")
    return VectorTable(_ids_beside(path), features, _vocabulary_beside(path))


def from_dat(path: Path) -> VectorTable:
    """Reads Caffe's raw float32, n x D row by row, with n ids in a file next to it."""
    ids = _ids_beside(path)
    with _readable(path):
        size = path.stat().st_size
        if size % (4 * max(len(ids), 1)):
            raise ValueError(f"{size:,} bytes are not a whole number of float32 for each of {len(ids):,} ids")
        features = np.fromfile(path, dtype="<f4").reshape(len(ids), -1)
    return VectorTable(ids, features, _vocabulary_beside(path))


def from_parquet(path: Path) -> VectorTable:
    """Reads a column of ids, and one column of lists (D,), or D columns of numbers, whose names are the vocabulary."""
    arrow = pyarrow_for(path)
    with readable(path, arrow.ArrowException, OSError, what="it is not valid parquet"):
        table = arrow.parquet.read_table(path)
    ids = next((name for name in table.column_names if name.lower() in ID_COLUMNS), None)
    if ids is None:
        right = f"One must be called {', '.join(sorted(ID_COLUMNS)[1:5])}..."
        raise DataError(path, f"no column of ids is among {some_of(table.column_names, _SHOWN)}.", right=right)
    names = tuple(map(str, table.column(ids).to_pylist()))
    others = table.drop_columns(ids)
    lists = [field.name for field in others.schema if field.type.num_fields]
    if len(lists) == 1:
        return VectorTable(names, _rows_of_lists(table.column(lists[0]).to_pylist(), path))
    if lists or not others.num_columns:
        right = "Store one list per row, or one column per number."
        raise DataError(path, f"{len(lists)} columns contain lists.", right=right)
    right = "All columns except the ids must be numbers."
    with readable(path, ValueError, TypeError, what="a column holds no numbers", right=right):
        columns = [np.asarray(column.to_numpy(), dtype=np.float32) for column in others.columns]
    return VectorTable(names, np.stack(columns, axis=1), tuple(others.column_names))


def _rows_of_lists(rows: Sequence[list[float] | None], path: Path) -> NDArray[np.float32]:
    """Converts one list per row to (N, D); DataError for the first row that is missing or has another length."""
    lengths = [-1 if row is None else len(row) for row in rows]
    wrong = next((i for i, length in enumerate(lengths) if length != max(lengths[0], 0)), None)
    if wrong is not None:
        raise DataError(f"{path}, row {wrong}", "its list differs in length from the first.")
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
    """Converts exceptions on a damaged file to DataError."""
    try:
        yield
    except (*DAMAGED, SafetensorError) as error:
        message = said_by(error)
        do = "Save text with dtype=str: arrays of objects are pickles." if "pickle" in message else ""
        raise DataError(path, f"it cannot be read: {message}.", do=do) from error


def _check_unpacked(path: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Raises DataError for an archive that is far larger when unpacked: 3 MB of zeros can become 3 GB."""
    unpacked, packed = sum(entry.file_size for entry in entries), sum(entry.compress_size for entry in entries)
    if unpacked > max(MAX_UNPACKED, MAX_RATIO * packed):
        what = f"it unpacks to {unpacked:,} bytes, {unpacked // max(packed, 1):,} times its compressed size."
        do = "If the file is trusted, save it without compression: np.savez."
        raise DataError(path, what, right=f"At most {MAX_RATIO} times.", do=do)


def _check_names(path: Path, found: Iterable[str], held: Iterable[str]) -> None:
    if lacking := sorted({"ids", "features"} - set(found), reverse=True):
        what = f"it holds no {' and no '.join(lacking)}, but {some_of(sorted(held), _SHOWN) or 'nothing'}."
        raise DataError(path, what, right="ids (N,), features (N, D), vocabulary (D,) if known.")


def _texts(path: Path, array: NDArray[Any]) -> tuple[str, ...]:
    """Converts an array of text, bytes (as UTF-8) or integers to names."""
    if array.ndim != 1 or array.dtype.kind not in "USiu":
        what = f"names are an array {array.shape} of {array.dtype}."
        raise DataError(path, what, right="They must be a 1-D array of strings.")
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "surrogateescape")
    return tuple(map(str, array.tolist()))


def _listed(text: str) -> tuple[str, ...]:
    """Parses a JSON list, or text with one name per line."""
    if not text.lstrip().startswith("["):
        return tuple(text.splitlines())
    return tuple(map(str, json.loads(text)))


def _ids_beside(path: Path) -> tuple[str, ...]:
    """The ids of a file that holds only numbers: one per line, an array of text, or the first column of a CSV."""
    readers = {".ids.txt": _lines, "_ids.npy": _text_array, ".csv": first_column}
    for ending, read in readers.items():
        if (file := path.with_name(path.stem + ending)).is_file():
            return read(file)
    what = "it holds only numbers, and there is no file of ids next to it."
    right = f"Looked for {', '.join(path.stem + ending for ending in readers)}."
    raise DataError(path, what, right=right, do="Create one of them, with one id per row.")


def _vocabulary_beside(path: Path) -> tuple[str, ...]:
    names = path.with_name(VOCABULARY.format(path.stem))
    return _lines(names) if names.is_file() else ()


def _lines(path: Path) -> tuple[str, ...]:
    return tuple(read_text(path).removesuffix("\n").split("\n"))


def _text_array(path: Path) -> tuple[str, ...]:
    with _readable(path):
        return _texts(path, np.load(path, allow_pickle=False))


def read_vectors(path: Path) -> VectorTable:
    """Reads a file of vectors in any supported format (paper section 5); never runs a pickle.

    .npz and .safetensors hold ids, features (N, D) and optionally a vocabulary; .csv and .tsv an id and D numbers per
    line; .npy and Caffe's .dat (raw float32) only the numbers, with the ids in a file next to them; DeepSentiBank's
    .json scores by name; .parquet an id and a list, or one column per number. DataError if the file has another format,
    is damaged or inconsistent.
    """
    right = f"Vectors are read from {', '.join(FORMS)} files."
    if path.is_dir():
        raise DataError(path, "it is a folder.", right=right)
    if path.suffix.lower() not in FORMS:
        what = (
            f"the extension {path.suffix} is not a known vector format."
            if path.suffix
            else "the file name has no extension."
        )
        raise DataError(path, what, right=right)
    if not path.is_file():
        raise DataError(path, "no such file.", do="Check the path.")
    found = FORMS[path.suffix.lower()](path)
    _check(found, path)
    with np.errstate(over="ignore"):  # values beyond float32 become Inf, which `join` counts
        return replace(found, features=np.ascontiguousarray(found.features, dtype=np.float32))


def write_vectors(path: Path, vectors: VectorTable) -> None:
    """Writes an .npz file for `read_vectors`, atomically."""
    if path.suffix.lower() != ".npz":
        raise DataError(path, f"{path.suffix!r} is not written.", right="It must be .npz.")
    with replacing(path, needed=vectors.features.nbytes) as file:
        np.savez(
            file,
            ids=np.array(vectors.ids, dtype=np.str_),
            features=vectors.features.astype(np.float32, copy=False),
            vocabulary=np.array(vectors.vocabulary, dtype=np.str_),
        )


def _check(found: VectorTable, where: Path) -> None:
    """Raises DataError if the features are not numbers, or the shapes are inconsistent."""
    features = found.features
    if features.dtype.kind not in "fiub":
        raise DataError(where, f"the features are {features.dtype}.", right="They must be numbers.")
    if features.ndim != 2 or len(features) != len(found.ids) or not features.size:
        right = f"With {len(found.ids):,} ids they must be ({len(found.ids)}, D)."
        raise DataError(where, f"the features have the shape {features.shape}.", right=right)
    if found.vocabulary and len(found.vocabulary) != features.shape[1]:
        what = f"the vocabulary has {len(found.vocabulary):,} names for {features.shape[1]:,} numbers per image."
        raise DataError(where, what, right="They must be equal.")
