"""Writer of explanations: one .npz of any number of photos, in constant memory."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from multistream.explaining.explanation import FUSED, Explanation, ExplanationArrays
from multistream.files import replacing, temporary, writing

Value = TypeVar("Value")


class NpzWriter:
    """Writes explanations row by row to temporary files next to the target, and joins them into one .npz at the end.

    Keys: `ids`, `classes`, `target` and `against` (N,), -1 if there is none; `logits` and `bias` (N, K), or
    `logits/KEY`, `bias/KEY` and `probability/KEY` if the fusion averages probabilities, with `remainder/KEY` in place
    of `bias/KEY` if the sum is not exact; `map/KEY/STAGE` (N, K, h, w); `vector/KEY` (N, K, D); `tokens/KEY`
    (N, T, W); `shapley/streams` (N, K, S), `shapley/stages/KEY` (N, K, T), `interactions` (N, K, S, S);
    `attention/KEY` (N, T); `exact/KEY`, `kind/KEY`; `streams`, `stages/KEY` name the columns; `method`, `flow`,
    `scale`, `baseline`. K is 1 if only the target was kept. Rows of photos that could not be used are NaN.

    Entering it raises DiskFull (exit 74) if the folder cannot be written, before any photo is explained.
    """

    def __init__(self, path: Path, *, ids: Sequence[str], classes: Sequence[str]) -> None:
        self.path, self.ids, self.classes = path.expanduser(), tuple(ids), tuple(classes)
        self.columns: dict[str, NpzColumn] = {}
        self.about: dict[str, NDArray[np.generic]] = {}
        self.row = 0

    def __enter__(self) -> NpzWriter:
        with ExitStack() as stack:
            folder = self.path.absolute().parent
            self.folder = stack.enter_context(temporary(folder, noun="npz"))
            stack.enter_context(writing(folder))
            self.folder.mkdir()
            self.stack = stack.pop_all()
        return self

    def add(self, found: Explanation) -> None:
        """Writes the next photo's row; explanations must be added in the order of `ids`."""
        if found.arrays is not None:
            column = {name: self.classes.index(name) for name in (found.target, found.against) if name}
            self._put("target", np.array(column[found.target]))
            self._put("against", np.array(column.get(found.against, -1)))
            for name, tensor in arrays_by_name(found.arrays).items():
                self._put(name, tensor.numpy())
            self._note(facts_of(found))
        self.row += 1

    def _put(self, name: str, value: NDArray[np.generic]) -> None:
        if name not in self.columns:
            is_index = value.dtype.kind == "i"
            kind: np.dtype[np.generic] = np.dtype(np.int64 if is_index else np.float32)
            empty = np.full(value.shape, -1 if is_index else np.nan, dtype=kind)
            file = self.stack.enter_context((self.folder / str(len(self.columns))).open("w+b"))
            self.columns[name] = NpzColumn(file, empty)
        self.columns[name].put(self.row, value)

    def _note(self, facts: dict[str, NDArray[np.generic]]) -> None:
        """Keeps the facts that hold for all photos; a sum counts as exact only if it is exact for every photo."""
        for name, fact in facts.items():
            if name not in self.about or (name.startswith("exact/") and not fact):
                self.about[name] = fact
                if name.startswith("exact/"):
                    kind = name.replace("exact/", "kind/", 1)
                    self.about[kind] = facts[kind]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.stack:  # a full disk raises the same error while photos are explained and while the file is written
            if error is not None:
                raise error
            self._write()

    def _write(self) -> None:
        names = {"ids": np.array(self.ids), "classes": np.array(self.classes)}
        with replacing(self.path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, array in {**names, **self.about}.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
            for name, column in self.columns.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    column.copy(member, rows=len(self.ids))


@dataclass
class NpzColumn:
    """The rows of one array in a file. It is not memory-mapped: a full disk then raises an error, not a signal."""

    file: IO[bytes]
    empty: NDArray[np.generic]
    """The row written for a photo that could not be used."""
    rows: int = 0

    def put(self, row: int, value: NDArray[np.generic]) -> None:
        """Writes the row of one photo, and empty rows for skipped photos before it."""
        self._fill(row)
        self.file.write(np.ascontiguousarray(value, dtype=self.empty.dtype).tobytes())
        self.rows += 1

    def _fill(self, row: int) -> None:
        for _ in range(row - self.rows):
            self.file.write(self.empty.tobytes())
        self.rows = row

    def copy(self, target: IO[bytes], *, rows: int) -> None:
        """Copies the rows to `target` as a .npy array (rows, ...)."""
        shape = (rows, *self.empty.shape)
        header = {"descr": np.lib.format.dtype_to_descr(self.empty.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(target, header)
        self._fill(rows)
        self.file.seek(0)
        shutil.copyfileobj(self.file, target, 1 << 20)


def arrays_by_name(arrays: ExplanationArrays) -> dict[str, Tensor]:
    """Returns one photo's tensors by their keys in the file."""
    return {
        **_by_classifier("logits", arrays.logits),
        **_by_classifier("bias", arrays.bias),
        **_by_classifier("remainder", arrays.remainder),
        **_under("probability", arrays.probabilities),
        **_under("map", {f"{key}/{stage}": m for key, stages in arrays.maps.items() for stage, m in stages.items()}),
        **_under("vector", arrays.vectors),
        **_under("tokens", arrays.tokens),
        "shapley/streams": arrays.shapley,
        **_under("shapley/stages", arrays.shapley_stages),
        "interactions": arrays.interactions,
        **_under("attention", arrays.attention),
    }


def _under(prefix: str, parts: Mapping[str, Value]) -> dict[str, Value]:
    return {f"{prefix}/{key}": value for key, value in parts.items()}


def _by_classifier(prefix: str, parts: Mapping[str, Value]) -> dict[str, Value]:
    """Names a stream's values `prefix/KEY`, and those of the whole network `prefix`."""
    return {prefix if name == FUSED else f"{prefix}/{name}": value for name, value in parts.items()}


def facts_of(found: Explanation) -> dict[str, NDArray[np.generic]]:
    """Returns the arrays that hold for all photos of the file."""
    facts = {
        "streams": list(found.shapley),
        **_under("stages", {key: list(stages) for key, stages in found.shapley_stages.items()}),
        **_under("exact", found.exact),
        **_under("kind", found.kinds),
        **{name: getattr(found, name) for name in ("method", "flow", "scale", "baseline")},
    }
    return {name: np.array(fact) for name, fact in facts.items()}
