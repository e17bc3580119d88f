"""Extracts pooled features for a training, fits taps on the training split, and reports undecodable photos."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.commands import command_line
from multistream.console import Console
from multistream.data.file_hashes import Digests, digests_at, digests_of
from multistream.data.loading import skipped_lines
from multistream.errors import DataError, printable
from multistream.features import GROUP, Extracted, extract
from multistream.nn.row_means import mean_of_rows
from multistream.runtime.distributed import ALONE, Ranks
from multistream.runtime.memory import exhausted
from multistream.training.prepare import Prepared
from multistream.training.stop import Interrupted, Stop


class TrainingFeatures:
    """Runs a training's streams on its photos; reports each excluded photo once."""

    def __init__(
        self,
        prepared: Prepared,
        folder: Path,
        *,
        console: Console,
        stop: Stop,
        ranks: Ranks = ALONE,
        digests: Mapping[int, str] | None = None,
    ) -> None:
        self.prepared, self.folder, self.console, self.stop, self.ranks = prepared, folder, console, stop, ranks
        self.digests = digests
        self._named: set[str] = set()

    def __call__(
        self, parts: Iterable[NDArray[np.int64]], *, views: Sequence[str] = (), keys: Collection[str] | None = None
    ) -> Extracted:
        """Extracts these streams (default: all) for the photos of these parts; for the training split also in `views`.

        With many ranks each rank computes its share of the photos, and all get the whole result.
        """
        chosen = np.sort(np.concatenate(list(parts)))
        with self.console.progress(len(chosen), "features") as bar:

            def tick(done: int) -> None:
                bar.advance(done)
                if self.stop():
                    raise Interrupted(self.stop.signal, command_line("train", "--resume", self.folder))

            runtime, photos = self.prepared.runtime, self.prepared.photos
            what = f"{GROUP} images do not fit at once into the memory of {runtime}."
            elsewhere = ", or --device cpu" if runtime.device.type != "cpu" else ""
            do = f"Use smaller images, for example --set data.image_size=128{elsewhere}."
            with exhausted("features", what, do=do):
                extracted = extract(
                    self.prepared.network,
                    photos,
                    chosen,
                    runtime=runtime,
                    workers=self.prepared.workers,
                    tick=tick,
                    say=self.console.say,
                    turned=dict.fromkeys(views, self.prepared.parts.train),
                    keys=keys,
                    ranks=self.ranks,
                    digests=self.digests,
                )
        self.name_left_out(photos.bad, read=chosen, valid=extracted.valid)
        return extracted

    def name_left_out(self, bad: dict[int, str], *, read: NDArray[np.int64], valid: Tensor | None = None) -> None:
        """Warns about photos that cannot be decoded (`bad`, or not `valid`), and classes without a decodable photo."""
        table = self.prepared.table
        lines = skipped_lines(table, bad)
        usable = np.isin(read, list(bad), invert=True) if valid is None else valid.numpy()[read]
        labels, count = table.labels[read], len(table.classes)
        total, left = np.bincount(labels, minlength=count), np.bincount(labels[usable], minlength=count)
        for k in np.flatnonzero((total > 0) & (left == 0)):
            lines.append(f"class {printable(table.classes[k])}: none of its {total[k]:,} photos can be decoded")
        for line in lines:
            if line not in self._named:
                self.console.warn(line)
        self._named.update(lines)


def hashed(prepared: Prepared, *, console: Console) -> Digests:
    """Returns the sha256 of every photo of the parts, by index. Each file is read once, by one of the ranks."""
    table, ranks = prepared.table, prepared.ranks
    chosen = np.sort(np.concatenate(list(prepared.parts.named().values())))
    own = ranks.portion(chosen)
    with console.progress(len(own), "hashes" if ranks.size == 1 else f"hashes, part 1 of {ranks.size}") as bar:
        digests = digests_of(table, own, tick=bar.advance)
    if ranks.size == 1:
        return digests
    texts = ranks.gather(digests.sha256[own].tobytes().hex())
    return digests_at(chosen, np.frombuffer(bytes.fromhex("".join(texts)), np.uint8).reshape(-1, 32), size=len(table))


def training_rows(extracted: Extracted, train: NDArray[np.int64]) -> Tensor:
    """Returns the rows of the training split that could be decoded. Raises DataError (exit 65) if there are none."""
    rows = torch.from_numpy(train)
    rows = rows[extracted.valid[rows]]
    if not len(rows):
        raise nothing_to_train_on()
    return rows


def nothing_to_train_on() -> DataError:
    """The error for a training split in which no photo can be decoded."""
    what = "no photo of the training split can be decoded."
    return DataError("data", what, do="multistream data scan lists the error of each file.")


def fit_taps(prepared: Prepared, extracted: Extracted) -> None:
    """Fits the standardisation of the extracted streams' taps on the training split."""
    rows = training_rows(extracted, prepared.parts.train)
    prepared.network.fit(extracted.to(prepared.runtime.device), rows)


def set_baselines(prepared: Prepared, extracted: Extracted) -> None:
    """Sets the training means (baselines) of the taps of all streams, including trained streams and vector streams."""
    rows = training_rows(extracted, prepared.parts.train)
    for key, branch in prepared.network.branches.items():
        if key in prepared.network.loaded_branches and branch.stream.is_frozen:
            continue  # an unchanged branch of another run keeps the mean of its own training
        for stage, tap in branch.taps.items():
            tap.baseline.copy_(mean_of_rows(extracted.features[key][stage][rows]))
