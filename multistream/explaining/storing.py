"""Explanations on disk: an .npz of any number of photos, written in constant memory, and overlays to look at."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.explaining.explainer import Explained
from multistream.files import replacing


class NpzWriter:
    """Collects explanations row by row in files, and makes one .npz of them at the end.

    Keys: `ids`, `classes`, `target`; `logits` (N, K) and `bias` (K), or `logits/KEY` and `bias/KEY` with
    `probability/KEY` where the fusion averages probabilities; `map/KEY/STAGE` (N, K, h, w); `vector/KEY` (N, K, D);
    `shapley/streams` (N, K, S); `exact/KEY`. With `every_class` False, K is the target alone. Rows of photos that
    could not be used are NaN.
    """

    def __init__(self, path: Path, *, ids: Sequence[str], classes: Sequence[str], every_class: bool) -> None:
        self.path, self.ids, self.classes, self.every_class = path, tuple(ids), tuple(classes), every_class
        self.folder = tempfile.TemporaryDirectory(prefix="multistream-")
        self.arrays: dict[str, NDArray[np.generic]] = {}

    def __enter__(self) -> NpzWriter:
        return self

    def add(self, found: Explained) -> None:
        """Writes a chunk's rows."""
        parts, rows, shapley = found.decomposition, found.indices.numpy(), found.attribution.streams
        targets = torch.tensor(found.targets)
        self._rows("target", rows, targets)
        for name, logits in parts.logits.items():
            end = f"/{name}" if name else ""
            self._rows(f"logits{end}", rows, logits if self.every_class else logits.gather(1, targets[:, None]))
            bias = parts.bias[name].expand_as(logits)
            self._rows(f"bias{end}", rows, bias if self.every_class else bias.gather(1, targets[:, None]))
        for key, own in parts.probabilities.items():
            self._rows(f"probability/{key}", rows, own)
        for key, stages in parts.maps.items():
            for stage, maps in stages.items():
                self._rows(f"map/{key}/{stage}", rows, self._chosen(maps, targets))
        for key, entries in parts.vectors.items():
            self._rows(f"vector/{key}", rows, self._chosen(entries, targets))
        self._rows("shapley/streams", rows, self._chosen(shapley, targets))
        for key, exact in parts.exact.items():
            self.arrays[f"exact/{key}"] = np.array(exact)

    def _chosen(self, values: Tensor, targets: Tensor) -> Tensor:
        """(B, K, ...), or (B, 1, ...) of each photo's target."""
        return values if self.every_class else values[torch.arange(len(values)), targets].unsqueeze(1)

    def _rows(self, name: str, rows: NDArray[np.int64], values: Tensor) -> None:
        array = values.detach().cpu().numpy()
        if name not in self.arrays:
            file = Path(self.folder.name) / f"{len(self.arrays)}.npy"
            kind = np.dtype(np.int64) if name == "target" else np.dtype(np.float32)
            made = np.lib.format.open_memmap(file, mode="w+", dtype=kind, shape=(len(self.ids), *array.shape[1:]))
            made[:] = -1 if name == "target" else np.nan
            self.arrays[name] = made
        self.arrays[name][rows] = array

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._write()
        self.arrays.clear()
        self.folder.cleanup()

    def _write(self) -> None:
        self.arrays |= {"ids": np.array(self.ids), "classes": np.array(self.classes)}
        for name in [name for name in self.arrays if name.startswith("bias") and self.every_class]:
            rows = np.asarray(self.arrays[name])
            if np.array_equal(rows, np.broadcast_to(rows[:1], rows.shape)):  # one bias for all photos
                self.arrays[name] = rows[0].copy()
        with replacing(self.path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, array in self.arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def write_overlays(found: Explained, folder: Path) -> list[Path]:
    """A PNG for each photo: the photo, and the target's signed map of every stage over it, on one colour scale."""
    from matplotlib.figure import Figure  # a second of import that only overlays need

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for row, explanation in enumerate(found.explanations):
        maps = {k: {s: m[row, found.targets[row]] for s, m in v.items()} for k, v in found.decomposition.maps.items()}
        if found.images is None or not maps:
            continue
        photo = found.images[row].permute(1, 2, 0).numpy()
        # Densities, not sums: a stage of 7 x 7 pixels would outshine one of 112 x 112 by its pixels' size alone.
        dense = {k: {s: m * m.numel() for s, m in v.items()} for k, v in maps.items()}
        limit = max(float(m.abs().max()) for v in dense.values() for m in v.values()) or 1.0
        columns = 1 + max(len(v) for v in dense.values())
        figure = Figure(figsize=(2.2 * columns, 2.5 * len(dense)), layout="constrained")
        axes = figure.subplots(len(dense), columns, squeeze=False)
        for line, (key, stages) in zip(axes, dense.items(), strict=True):
            for place, axis in enumerate(line):
                axis.set_axis_off()
                name = list(stages)[place - 1] if 0 < place <= len(stages) else ""
                if place == 0 or name:
                    axis.imshow(photo, extent=(0, 1, 0, 1))
                axis.set_title(f"{key} {name}".strip() if place else explanation.predicted, fontsize=9)
                if name:
                    shown = axis.imshow(
                        stages[name].cpu().numpy(), cmap="PuOr_r", vmin=-limit, vmax=limit, alpha=0.65,
                        extent=(0, 1, 0, 1), interpolation="bilinear",
                    )  # fmt: skip
        figure.colorbar(shown, ax=axes, shrink=0.7, label=f"for {explanation.target}, logits if it were so everywhere")
        path = folder / f"{int(found.indices[row]):05d}-{Path(explanation.path).stem}.png"
        figure.savefig(path, dpi=110, metadata={"Software": None})
        written.append(path)
    return written
