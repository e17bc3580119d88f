"""A feature store of 10^7 synthetic rows: time to open it, memory, and the training of a head on it.

    python -m benchmarks.many_rows [--rows 10000000] [--width 16] [--folder FOLDER]

Needs 1.4 GB of disk in FOLDER (default: the system's temporary folder), in a new folder that is removed at the end.
The measurement runs in a separate process after the rows are written, so the files are in the page cache.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from multistream.features.store import SHARD, FeatureStore

IDENTITY = {"stream": "synthetic"}
CLASSES = 8
BLOCK = 16 * SHARD
"""Rows that training holds in memory at once, from 16 shards."""


def names(start: int, stop: int) -> list[str]:
    """Returns the sha256 of these rows' files."""
    return [hashlib.sha256(row.to_bytes(8, "little")).hexdigest() for row in range(start, stop)]


def labels(features: Tensor) -> Tensor:
    """Returns labels (N,) by a linear rule that a head can learn."""
    rule = torch.randn(features.shape[1], CLASSES, generator=torch.Generator().manual_seed(1))
    return (features @ rule).argmax(1)


def write(folder: Path, rows: int, width: int) -> None:
    """Fills the store, shard by shard, with the code of extraction."""
    chance = torch.Generator().manual_seed(0)
    store = FeatureStore.open(folder, IDENTITY, warn=print)
    for start in range(0, rows, SHARD):
        stop = min(start + SHARD, rows)
        store.add(names(start, stop), {"stage": torch.randn(stop - start, width, generator=chance)})
    store.refresh()


def measure(folder: Path, rows: int, width: int) -> None:
    """Opens the store, and trains a head for one epoch; prints seconds, peak memory and accuracy."""
    began, before = time.perf_counter(), peak()
    store = FeatureStore.open(folder, IDENTITY, warn=print)
    print(f"opened {rows:,} rows in {time.perf_counter() - began:.2f} s; memory {before} -> {peak()} MiB")
    head, began = nn.Linear(width, CLASSES), time.perf_counter()
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.01)
    starts = torch.arange(0, rows, BLOCK)
    *training, test = starts[torch.randperm(len(starts), generator=torch.Generator().manual_seed(2))].tolist()
    for start in training:
        for batch in block(store, start, rows, width).split(1024):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(batch), labels(batch)).backward()
            optimizer.step()
    held_out = block(store, test, rows, width)
    accuracy = float((head(held_out).argmax(1) == labels(held_out)).float().mean())
    print(f"trained a head in {time.perf_counter() - began:.0f} s; peak {peak()} MiB; accuracy {accuracy:.1%}")


def block(store: FeatureStore, start: int, rows: int, width: int) -> Tensor:
    """Reads the rows of one block in a random order, (n, width)."""
    stop = min(start + BLOCK, rows)
    features = torch.empty(stop - start, width)
    order = torch.randperm(stop - start, generator=torch.Generator().manual_seed(start))
    lacking = store.read(names(start, stop), {"stage": features}, order.tolist())
    assert not lacking, f"{len(lacking)} rows are missing"
    return features


def peak() -> int:
    """Returns the peak memory of this process in MiB (Linux; getrusage would include its parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def main() -> None:
    """Writes the rows, and measures in a new process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10**7)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", action="store_true", help="only measure an existing store")
    options = parser.parse_args()
    if options.measure:
        measure(options.folder, options.rows, options.width)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        began = time.perf_counter()
        write(Path(folder), options.rows, options.width)
        print(f"wrote {options.rows:,} rows in {time.perf_counter() - began:.0f} s; peak {peak()} MiB", flush=True)
        given = ["--rows", str(options.rows), "--width", str(options.width), "--folder", folder, "--measure"]
        subprocess.run([sys.executable, "-m", "benchmarks.many_rows", *given], check=True)


if __name__ == "__main__":
    main()
