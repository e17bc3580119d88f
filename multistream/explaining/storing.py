"""Explanations on disk: one .npz of any number of photos, written in constant memory."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from multistream.explaining.explanation import Arrays, Explanation
from multistream.files import replacing, reserve


class NpzWriter:
    """Collects explanations row by row in files, and makes one .npz of them at the end.

    Keys: `ids`, `classes`, `target` and `against` (N,), -1 where there is none; `logits` (N, K) and `bias` (K), or
    `logits/KEY`, `bias/KEY` and `probability/KEY` where the fusion averages probabilities; `map/KEY/STAGE`
    (N, K, h, w); `vector/KEY` (N, K, D); `tokens/KEY` (N, T, W); `shapley/streams` (N, K, S), `shapley/stages/KEY`
    (N, K, T), `interactions` (N, K, S, S); `attention/KEY` (N, T); `exact/KEY`, `kind/KEY`; `streams`, `stages/KEY`
    name the columns; `method`, `flow`, `scale`, `baseline`. K is 1 where the target alone was kept. Rows of photos
    that could not be used are NaN.
    """

    def __init__(self, path: Path, *, ids: Sequence[str], classes: Sequence[str]) -> None:
        self.path, self.ids, self.classes = path, tuple(ids), tuple(classes)
        self.folder = tempfile.TemporaryDirectory(prefix="multistream-")
        self.arrays: dict[str, NDArray[np.generic]] = {}
        self.about: dict[str, NDArray[np.generic]] = {}
        self.row = 0

    def __enter__(self) -> NpzWriter:
        return self

    def add(self, found: Explanation) -> None:
        """Writes the next photo's row: explanations come in the order of `ids`."""
        if found.arrays is not None:
            column = {name: self.classes.index(name) for name in (found.target, found.against) if name}
            self._put("target", np.array(column[found.target]))
            self._put("against", np.array(column.get(found.against, -1)))
            for name, tensor in named(found.arrays).items():
                self._put(name, tensor.numpy())
            if not self.about:
                self.about = described(found)
        self.row += 1

    def _put(self, name: str, value: NDArray[np.generic]) -> None:
        if name not in self.arrays:
            is_index = value.dtype.kind == "i"
            made = np.lib.format.open_memmap(
                Path(self.folder.name) / f"{len(self.arrays)}.npy",
                mode="w+",
                dtype=np.dtype(np.int64 if is_index else np.float32),
                shape=(len(self.ids), *value.shape),
            )
            reserve(Path(str(made.filename)), size=made.offset + made.nbytes)
            made[:] = -1 if is_index else np.nan
            self.arrays[name] = made
        self.arrays[name][self.row] = value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._write()
        self.arrays.clear()
        self.folder.cleanup()

    def _write(self) -> None:
        for name in [name for name in self.arrays if name.partition("/")[0] == "bias"]:
            rows = np.asarray(self.arrays[name])
            used = rows[~np.isnan(rows).all(1)]
            if len(used) and np.array_equal(used, np.broadcast_to(used[:1], used.shape)):  # one bias for all photos
                self.arrays[name] = used[0].copy()
        names = {"ids": np.array(self.ids), "classes": np.array(self.classes)}
        with replacing(self.path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, array in {**names, **self.about, **self.arrays}.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def named(arrays: Arrays) -> dict[str, Tensor]:
    """One photo's tensors by their names in the file."""

    def under(prefix: str, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"{prefix}/{key}" if key else prefix: tensor for key, tensor in parts.items()}

    maps = {f"map/{k}/{s}": m for k, stages in arrays.maps.items() for s, m in stages.items()}
    return {
        **under("logits", arrays.logits),
        **under("bias", arrays.bias),
        **under("probability", arrays.probabilities),
        **maps,
        **under("vector", arrays.vectors),
        **under("tokens", arrays.tokens),
        "shapley/streams": arrays.shapley,
        **under("shapley/stages", arrays.shapley_stages),
        "interactions": arrays.interactions,
        **under("attention", arrays.attention),
    }


def described(found: Explanation) -> dict[str, NDArray[np.generic]]:
    """What holds for every photo of the file."""
    return {
        "streams": np.array(list(found.shapley)),
        **{f"stages/{key}": np.array(list(stages)) for key, stages in found.shapley_stages.items()},
        **{f"exact/{key}": np.array(exact) for key, exact in found.exact.items()},
        **{f"kind/{key}": np.array(kind) for key, kind in found.kinds.items()},
        "method": np.array(found.method),
        "flow": np.array(found.flow),
        "scale": np.array(found.scale),
        "baseline": np.array(found.baseline),
    }
