"""train and evaluate on a folder of so many photos: seconds and the most memory of each command.

    python -m benchmarks.many_files [--photos 1000000] [--folder FOLDER]

The photos are JPEGs of 32 x 32 pixels and 800 bytes, all of different bytes, in eight classes; the only stream reads
vectors of 8 numbers, so that what is measured is all that happens per photo but decoding. A million photos take 4 GB
of disk in FOLDER (a new one in the system's temporary folder), which is removed at the end.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from multistream.data.table import VectorTable
from multistream.data.vectors.files import write_vectors

CLASSES = ("amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness")
WIDTH = 8


def write(folder: Path, photos: int) -> None:
    """Writes the photos, and vectors by which a class can be recognised more often than not."""
    chance = np.random.default_rng(0)
    content = BytesIO()
    Image.fromarray(chance.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((32, 32)).save(content, "JPEG")
    for name in CLASSES:
        (folder / "photos" / name).mkdir(parents=True)
    labels = np.arange(photos) % len(CLASSES)
    ids = tuple(f"{CLASSES[k]}/{i:08}.jpg" for i, k in enumerate(labels.tolist()))
    for i, name in enumerate(ids):
        (folder / "photos" / name).write_bytes(content.getvalue() + i.to_bytes(8))  # decoders stop before these
    vectors = chance.standard_normal((photos, WIDTH), dtype=np.float32)
    vectors[np.arange(photos), labels] += 1.5
    write_vectors(folder / "anp.npz", VectorTable(ids, vectors, tuple(f"word {k}" for k in range(WIDTH))))


def measure(title: str, *words: str, folder: Path) -> None:
    """Runs `multistream WORDS`, and prints its seconds and the most memory that it had (Linux: maxrss in KiB)."""
    environment = {**os.environ, "MULTISTREAM_CACHE": str(folder / "cache")}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "multistream", *words], env=environment, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, f"{words[0]} ended with status {status}"
    seconds, processor = time.perf_counter() - began, used.ru_utime + used.ru_stime
    print(f"{title}: {seconds:.0f} s, {processor:.0f} s of processors, peak {used.ru_maxrss // 1024:,} MiB", flush=True)


def main() -> None:
    """Writes the photos, and measures a first and a second training, an evaluation and a report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=int, default=10**6)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write(folder, options.photos)
        time.sleep(3)  # what was written a moment ago is hashed again
        data = ("--data", str(folder / "photos"), "--input", f"anp={folder / 'anp.npz'}")
        settings = ("--streams", "anp", "--epochs", "1", "--batch-size", "1024", "--quiet")
        measure("train", "train", *data, *settings, "--out", str(folder / "first"), folder=folder)
        measure("train again", "train", *data, *settings, "--out", str(folder / "second"), folder=folder)
        measure("evaluate", "evaluate", str(folder / "second"), folder=folder)
        measure("report", "report", str(folder / "second"), folder=folder)


if __name__ == "__main__":
    main()
