"""Photos per second of fine-tuning and of extraction, on 1 and 2 ranks of one machine.

    python -m benchmarks.ranks [--photos 512] [--ranks 1 2] [--rounds 3]

Each measurement is a user's command under torchrun, with a separate cache. A rank has one torch thread; a single rank
also runs with two. For fine-tuning the second epoch counts, to exclude start-up and the first epoch's page faults.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from benchmarks.test_data import write_photo

CLASSES = 8
STREAM = ["--streams", "object", "--weights", "object=random", "--precision", "fp32", "--device", "cpu", "--quiet"]
FINE_TUNING = ["--freeze", "none", "--epochs", "2", "--batch-size", "32", "--set", "data.split=90/5/5"]


def write_photos(folder: Path, count: int) -> Path:
    """Writes class folders with this many JPEGs of 640 x 480."""
    for number in range(count):
        place = folder / f"class {number % CLASSES}" / f"{number:05}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        write_photo(place, (640, 480), seed=number)
    return folder


def command(ranks: int, threads: int, place: Path, *words: str | Path) -> str:
    """Runs a multistream command on this many ranks, and returns its output."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m", "multistream"]
    variables = {"OMP_NUM_THREADS": str(threads), "MULTISTREAM_CACHE": str(place / "cache")}
    line = [sys.executable, *launcher, *map(str, words)]
    return subprocess.run(line, env={**os.environ, **variables}, check=True, capture_output=True, text=True).stdout


def fine_tuning(ranks: int, threads: int, photos: Path, place: Path) -> float:
    """Returns photos per second of the second epoch's steps and validation."""
    command(ranks, threads, place, "train", "--data", photos, *STREAM, *FINE_TUNING, "--out", place / "run")
    last = json.loads((place / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    read = (place / "run" / "split.csv").read_text()
    return (read.count(",train,") + read.count(",val,")) / float(last["seconds"])


def extraction(ranks: int, threads: int, photos: Path, place: Path) -> float:
    """Returns photos per second of an extraction into an empty cache."""
    printed = command(ranks, threads, place, "extract", "--data", photos, *STREAM, "--json")
    return float(json.loads(printed)["images_per_second"])


def main() -> None:
    """Prints a table: the median of the rounds, and their range."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=int, default=512)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ways = [*((ranks, 1) for ranks in options.ranks), (1, 2)]
    found: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        photos = write_photos(Path(name) / "photos", options.photos)
        for turn in range(options.rounds):  # alternately, so that noise affects all variants
            for ranks, threads in ways:
                place = Path(name) / f"{turn}-{ranks}-{threads}"
                for work in (fine_tuning, extraction):
                    rate = work(ranks, threads, photos, place / work.__name__)
                    found[work.__name__, ranks, threads].append(rate)
    print("| work | ranks | threads a rank | photos/s | range |\n|---|---|---|---|---|")
    for (work_name, ranks, threads), rates in sorted(found.items()):
        span = f"{min(rates):.0f} to {max(rates):.0f}"
        print(f"| {work_name} | {ranks} | {threads} | {statistics.median(rates):.0f} | {span} |")


if __name__ == "__main__":
    main()
