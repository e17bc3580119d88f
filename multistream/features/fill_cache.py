"""`extract`: computes the features of a set of photos once, caches and verifies them, and writes them to a file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from multistream.console import Console
from multistream.data.loading import skipped_lines
from multistream.data.views import IDENTITY, parse_views
from multistream.errors import DataError, printable
from multistream.features.export import columns_of, write_features
from multistream.features.extraction import exchange
from multistream.features.subject import ExtractionRequest, Subject, subject_of
from multistream.features.tasks import Task, own_rows, plan_tasks, run_tasks, union
from multistream.features.verify import Verified, chosen_rows, verify
from multistream.interfaces import Stream
from multistream.nn.modules import evaluating
from multistream.nn.threads import threads
from multistream.recipe import Recipe
from multistream.runtime.distributed import ALONE, Ranks, processes


@dataclass(frozen=True)
class Filled:
    """Extraction of one stream in one view: number of cached and of computed images, and the cache folder."""

    stream: str
    view: str
    found: int
    computed: int
    folder: str


@dataclass(frozen=True)
class Extraction:
    """The result of `extract`. `bad` are photos that cannot be decoded, by id, with the reason."""

    data: str
    images: int
    bad: Mapping[str, str]
    streams: Sequence[Filled]
    seconds: float
    images_per_second: float
    """Speed for the computed images; 0 if all were cached."""
    out: str = ""
    width: int = 0
    verified: Verified | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the output of `extract --json`."""
        return asdict(self)


def extract(
    source: str | Path | Recipe,
    *,
    data: str = "",
    label: str = "",
    inputs: Mapping[str, str] | None = None,
    views: Sequence[str] = (IDENTITY,),
    stages: Sequence[str] = (),
    out: str | Path | None = None,
    sample: int | None = None,
    seed: int = 0,
    device: str = "",
    precision: str = "",
    streams: Mapping[str, Stream] | None = None,
    console: Console | None = None,
) -> Extraction:
    """Computes the features of a run's or recipe's streams for all photos of a data set, and stores them in the cache.

    `out` is an .npz for ids, features (N, D) and vocabulary, of the given `stages` (STAGE or KEY/STAGE) or of all.
    `sample` images (0: all) are recomputed and compared bit for bit with the cache; DataError names the first that
    differs. Memory use does not grow with the number of features, and an interrupted call can be continued. `streams`
    supplies the streams that were passed as instances. They are not extracted, because an instance's settings are
    unknown.
    """
    request = ExtractionRequest(data, label, inputs or {}, device, precision, streams or {})
    path = _npz(out) if out is not None else None
    started = time.perf_counter()
    width, verified = 0, None
    with processes() as ranks:
        console = (console or Console(quiet=True)) if ranks.is_first else Console.silent()
        views = parse_views(",".join(views))
        subject = subject_of(source, request, say=console.say)
        columns = columns_of(subject, views, stages)
        with threads(subject.settings.threads):
            filled, tasks, speed = _fill(subject, views, console, ranks)
            if ranks.is_first and path is not None:  # only rank 0 writes and verifies
                width = write_features(path, columns, tasks, subject.photos)
            if ranks.is_first and sample is not None:
                verified = _verify(tasks, subject, sample, seed, console)
        ranks.wait_for_first()
    photos = subject.photos
    return Extraction(
        data=photos.table.name,
        images=len(photos),
        bad={printable(photos.table.ids[i]): reason for i, reason in sorted(photos.bad.items())},
        streams=filled,
        seconds=round(time.perf_counter() - started, 3),
        images_per_second=speed,
        out=str(out or ""),
        width=width,
        verified=verified,
    )


def _npz(out: str | Path) -> Path:
    path = Path(out).expanduser()
    if path.suffix.lower() != ".npz":
        raise DataError("--out", f"{path.name} does not end in .npz.", do="Choose a name that ends in .npz.")
    return path


def _fill(
    subject: Subject, views: Sequence[str], console: Console, ranks: Ranks
) -> tuple[list[Filled], list[Task], float]:
    """Computes the features that the cache lacks; returns (results, tasks for all photos, images per second)."""
    photos, runtime = subject.photos, subject.runtime
    wanted = dict.fromkeys(views, np.arange(len(photos)))
    whole = plan_tasks(subject.pictures, photos, wanted, runtime=runtime, say=console.say)
    tasks = [replace(task, rows=own_rows(task.rows, task.digests, ranks)) for task in whole]
    for task in (*tasks, *whole):
        task.read({})
    ranks.from_first(None)  # no rank writes before all ranks have counted the cached images
    for task in whole:
        console.say(task.progress_note())
    started = time.perf_counter()
    bad = _compute(tasks, subject, console, ranks)
    seconds = time.perf_counter() - started
    for task in whole:
        task.cache.refresh()  # finds the shards that other ranks have written
    for line in skipped_lines(photos.table, {i: photos.bad[i] for i in bad}):
        console.warn(line)
    computed = len(union(task.missing for task in whole)) - len(bad)
    return [_filled(task, bad) for task in whole], whole, round(max(computed, 0) / seconds, 1)


def _compute(tasks: Sequence[Task], subject: Subject, console: Console, ranks: Ranks) -> set[int]:
    """Computes this rank's part of the missing features; returns the photos that any rank could not decode."""
    label = "features" if ranks.size == 1 else f"features, part 1 of {ranks.size}"
    workers, total = ranks.workers(subject.settings.workers), len(union(task.missing for task in tasks))
    with console.progress(total, label) as bar, evaluating(subject.network):
        bad = run_tasks(
            tasks, subject.photos, runtime=subject.runtime, workers=workers, tick=bar.advance, sink=lambda *_: None
        )
    return set(exchange({}, subject.photos, bad, ranks))


def _filled(task: Task, bad: set[int]) -> Filled:
    computed = len(set(task.missing.tolist()) - bad)
    return Filled(task.key, task.view, len(task.rows) - len(task.missing), computed, str(task.cache.folder))


def _verify(tasks: Sequence[Task], subject: Subject, sample: int, seed: int, console: Console) -> Verified:
    total, workers = len(chosen_rows(subject, sample, seed=seed)), ALONE.workers(subject.settings.workers)
    with console.progress(total, "verify") as bar, evaluating(subject.network):
        return verify(tasks, subject, sample, seed=seed, workers=workers, tick=bar.advance)
