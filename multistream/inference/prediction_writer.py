"""Predictions to a file as they come: JSON lines or parquet, in constant memory, and on from where a call ended."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from multistream.data.given_photos import GivenPhoto
from multistream.errors import CannotResume, PluginError, UsageError
from multistream.files import make_folder, write_atomic, writing
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
    """Predicts and writes; returns how many photos had which status. What `out` holds already is not done again.

    `out` ends in .jsonl (an object a line) or .parquet (a folder of files). A second call must be of the same model and
    options, and list the same photos in the same order: CannotResume (exit 78) otherwise.
    """
    out = out.expanduser()
    if out.suffix not in (*LINES, ".parquet"):
        right = f"It must end in {', '.join((*LINES, '.parquet'))}."
        raise UsageError("--out", f"{out.name} has an unknown format.", right=right)
    _check_same(model, out, options)
    photos = as_photos(model, images, say=say)
    writer = _lines if out.suffix in LINES else _parquet
    return writer(model, photos, out, options, say)


def _check_same(model: Model, out: Path, options: Mapping[str, Any]) -> None:
    """Holds what the file was begun with against what is asked now."""
    names = ("missing", "without", "inputs")
    now = {"model": model.sha256, **{name: plain(options.get(name)) for name in names}}
    about = out.with_name(out.name + ".about.json")
    if not out.exists():
        write_atomic(about, json.dumps(now) + "\n")
        return
    if not about.is_file():
        what = f"{about.name} is missing, so the options of the first call are unknown."
        raise CannotResume(out, what, do="Choose a new file.")
    try:
        before = json.loads(about.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CannotResume(about, "it is damaged.", do="Choose a new file.") from error
    if before != now:
        changed = [name for name in now if not isinstance(before, dict) or before.get(name) != now[name]]
        raise CannotResume(out, f"it was started with another {', '.join(changed)}.", do="Choose a new file.")


def _same_photos(out: Path, done: Iterable[str], photos: Iterator[GivenPhoto]) -> int:
    """Passes over the photos that are done, and counts them; CannotResume where they are others."""
    count = 0
    for count, path in enumerate(done, 1):
        photo = next(photos, None)
        now = photo.path if photo else "the list ends"
        if now != path:
            what = f"number {count} is {path}, and now {now}."
            raise CannotResume(out, what, right="The photos must be the same, in the same order.")
    return count


def _lines(
    model: Model, photos: Iterator[GivenPhoto], out: Path, options: Mapping[str, Any], say: Callable[[str], object]
) -> Counter[str]:
    statuses: Counter[str] = Counter()
    kept = _whole_lines(out) if out.exists() else 0
    if kept:
        with out.open("r+b") as file:
            file.truncate(kept)
        done = _same_photos(out, _paths_in(out, statuses), photos)
        say(f"predict: {done:,} photos are already done")
    with writing(out.parent), out.open("a", encoding="utf-8") as text:
        for result in predict(model, photos, **options, whole_groups=True):  # what a second call adds is the same
            statuses[result.status] += 1
            text.write(json.dumps(result.to_dict(), ensure_ascii=True) + "\n")
    return statuses


def _whole_lines(out: Path) -> int:
    """The bytes up to the last line that is whole: a crash may cut one off."""
    with out.open("rb") as file:
        return sum(len(line) for line in file if line.endswith(b"\n"))


def _paths_in(out: Path, statuses: Counter[str]) -> Iterator[str]:
    with out.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                entry = json.loads(line)
                path, status = str(entry["path"]), str(entry["status"])
            except (ValueError, KeyError, TypeError) as error:
                raise CannotResume(f"{out}:{number}", "this is not a prediction.", do="Choose a new file.") from error
            statuses[status] += 1
            yield path


def _parquet(
    model: Model, photos: Iterator[GivenPhoto], out: Path, options: Mapping[str, Any], say: Callable[[str], object]
) -> Counter[str]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        do = "Install it: pip install 'multistream[datasets]'; or write .jsonl."
        raise PluginError("--out", "parquet needs pyarrow, which is not installed.", do=do) from error
    statuses: Counter[str] = Counter()
    parts = sorted(make_folder(out).glob("part-*.parquet"))
    done = 0
    for part in parts:
        try:
            held = parquet.read_table(part, columns=["path", "status"]).to_pydict()
        except (arrow.ArrowException, OSError) as error:
            raise CannotResume(part, f"it is damaged: {error}.", do="Remove it and the files after it.") from error
        statuses.update(held["status"])
        done += _same_photos(out, held["path"], photos)
    if done:
        say(f"predict: {done:,} photos are already done")
    results = predict(model, photos, **options, whole_groups=True)
    for number in itertools.count(len(parts)):
        rows = list(itertools.islice(results, PART))
        if not rows:
            break
        statuses.update(result.status for result in rows)
        content = arrow.BufferOutputStream()
        parquet.write_table(_table(arrow, rows, model.classes), content)
        write_atomic(out / f"part-{number:05d}.parquet", content.getvalue().to_pybytes())
    return statuses


def _table(arrow: Any, rows: list[Prediction], classes: tuple[str, ...]) -> Any:
    """Columns path, status, label, and a float64 column p_CLASS each."""
    types = {"path": arrow.string(), "status": arrow.string(), "label": arrow.string()}
    if any(row.labels is not None for row in rows):
        types["labels"] = arrow.list_(arrow.string())
    columns = {name: arrow.array([getattr(row, name) for row in rows], kind) for name, kind in types.items()}
    columns |= {f"p_{k}": arrow.array([row.probabilities.get(k) for row in rows], arrow.float64()) for k in classes}
    return arrow.table(columns)
