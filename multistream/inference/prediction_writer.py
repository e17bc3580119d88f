"""Streams predictions to a file (JSON lines or parquet) in constant memory, and resumes an interrupted call."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from multistream.data.given_photos import GivenPhoto
from multistream.errors import CannotResume, PluginError, UsageError
from multistream.files import json_object, make_folder, write_atomic, writing
from multistream.inference.groups import GROUP
from multistream.inference.model import Model
from multistream.inference.predict import Prediction, as_photos, predict
from multistream.records import plain

PART = 256 * GROUP
"""Rows of one parquet file."""

LINES = (".jsonl", ".ndjson")


def write_predictions_of(
    model: Model, images: Iterable[str], out: Path, *, options: Mapping[str, Any], say: Callable[[str], object]
) -> Counter[str]:
    """Predicts and writes; returns the number of photos by status. Photos that `out` already contains are skipped.

    `out` ends in .jsonl (one object per line) or .parquet (a folder of files). Raises CannotResume (exit 78) if a
    second call has another model, other options, or another list or order of photos.
    """
    out = out.expanduser()
    if out.suffix not in (*LINES, ".parquet"):
        right = f"It must end in {', '.join((*LINES, '.parquet'))}."
        raise UsageError("--out", f"{out.name} has an unknown format.", right=right)
    _check_same(model, out, options)
    photos = as_photos(model, images, say=say)
    file: _Lines | _Parquet = _Lines(out) if out.suffix in LINES else _Parquet(out, model.classes)
    statuses: Counter[str] = Counter()
    if done := _same_photos(out, _paths(file.done(), statuses), photos):
        say(f"predict: {done:,} photos are already done")
    results = predict(model, photos, **options, whole_groups=True)  # whole groups make resumed results bit-identical
    file.write(_counted(results, statuses))
    return statuses


def _paths(done: Iterable[tuple[str, str]], statuses: Counter[str]) -> Iterator[str]:
    """Yields the paths of finished photos (path, status), and counts their statuses."""
    for path, status in done:
        statuses[status] += 1
        yield path


def _counted(results: Iterable[Prediction], statuses: Counter[str]) -> Iterator[Prediction]:
    for result in results:
        statuses[result.status] += 1
        yield result


def _check_same(model: Model, out: Path, options: Mapping[str, Any]) -> None:
    """Raises CannotResume if the model or options differ from those that the file was started with."""
    names = ("missing", "without", "inputs")
    now = {"model": model.sha256, **{name: plain(options.get(name)) for name in names}}
    about = out.with_name(out.name + ".about.json")
    if not out.exists():
        write_atomic(about, json.dumps(now) + "\n")
        return
    if not about.is_file():
        what = f"{about.name} is missing, so the options of the first call are unknown."
        raise CannotResume(out, what, do="Choose a new file.")
    before = json_object(about.read_bytes(), where=str(about), error=CannotResume)
    if changed := [name for name, value in now.items() if before.get(name) != value]:
        raise CannotResume(out, f"it was started with another {', '.join(changed)}.", do="Choose a new file.")


def _same_photos(out: Path, done: Iterable[str], photos: Iterator[GivenPhoto]) -> int:
    """Skips the finished photos and returns their number. Raises CannotResume if the photos differ."""
    count = 0
    for count, path in enumerate(done, 1):
        photo = next(photos, None)
        now = photo.path if photo else "the list ends"
        if now != path:
            what = f"number {count} is {path}, and now {now}."
            raise CannotResume(out, what, right="The photos must be the same, in the same order.")
    return count


class _Lines:
    """A file with one JSON object per line."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def done(self) -> Iterator[tuple[str, str]]:
        """Yields (path, status) of each line; removes a last line that a crash has truncated."""
        if not self.out.exists():
            return
        with self.out.open("r+b") as file:
            whole = sum(len(line) for line in file if line.endswith(b"\n"))
            file.truncate(whole)
        with self.out.open(encoding="utf-8") as text:
            for number, line in enumerate(text, 1):
                try:
                    entry = json.loads(line)
                    path, status = str(entry["path"]), str(entry["status"])
                except (ValueError, KeyError, TypeError) as error:
                    where, what = f"{self.out}:{number}", "this is not a prediction."
                    raise CannotResume(where, what, do="Choose a new file.") from error
                yield path, status

    def write(self, results: Iterator[Prediction]) -> None:
        """Appends a line for each prediction."""
        with writing(self.out.parent), self.out.open("a", encoding="utf-8") as text:
            for result in results:
                text.write(json.dumps(result.to_dict(), ensure_ascii=True) + "\n")


class _Parquet:
    """A folder of parquet files with PART rows each."""

    def __init__(self, out: Path, classes: tuple[str, ...]) -> None:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            do = "Install it: pip install 'multistream[datasets]'; or write .jsonl."
            raise PluginError("--out", "parquet needs pyarrow, which is not installed.", do=do) from error
        self.out, self.classes, self._arrow, self._parquet = out, classes, pyarrow, parquet
        self.parts = sorted(make_folder(out).glob("part-*.parquet"))

    def done(self) -> Iterator[tuple[str, str]]:
        """Yields (path, status) of each row."""
        for part in self.parts:
            try:
                held = self._parquet.read_table(part, columns=["path", "status"]).to_pydict()
            except (self._arrow.ArrowException, OSError) as error:
                raise CannotResume(part, f"it is damaged: {error}.", do="Remove it and the files after it.") from error
            yield from zip(held["path"], held["status"], strict=True)

    def write(self, results: Iterator[Prediction]) -> None:
        """Writes a file for every PART predictions, and one for the rest."""
        for number in itertools.count(len(self.parts)):
            rows = list(itertools.islice(results, PART))
            if not rows:
                return
            content = self._arrow.BufferOutputStream()
            self._parquet.write_table(_table(self._arrow, rows, self.classes), content)
            write_atomic(self.out / f"part-{number:05d}.parquet", content.getvalue().to_pybytes())


def _table(arrow: Any, rows: list[Prediction], classes: tuple[str, ...]) -> Any:
    """Builds a table with columns path, status, label, and a float64 column p_CLASS for each class."""
    types = {"path": arrow.string(), "status": arrow.string(), "label": arrow.string()}
    if any(row.labels is not None for row in rows):
        types["labels"] = arrow.list_(arrow.string())
    columns = {name: arrow.array([getattr(row, name) for row in rows], kind) for name, kind in types.items()}
    columns |= {f"p_{k}": arrow.array([row.probabilities.get(k) for row in rows], arrow.float64()) for k in classes}
    return arrow.table(columns)
