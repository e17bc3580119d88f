"""predict on 20,000 photos: memory use, and its speed against one thread, alternating phases, and fixed prefetching.

    python -m benchmarks.many_photos [--photos 20000] [--pairs 9] [--size 32]

The photos are 64 JPEGs of 1600 x 1200, repeated in a list; the network is a random `object` with small inputs, so that
decoding dominates. All variants run in one process, one after the other, on chunks of the same list.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import torch

from benchmarks.conftest import interleaved
from benchmarks.many_rows import peak
from benchmarks.test_data import write_photo
from multistream import compose
from multistream.data.prefetch import AHEAD, Prefetch
from multistream.inference import predict as prediction
from multistream.inference.model import Model
from multistream.nn.threads import threads
from multistream.recipe import Recipe
from multistream.runtime.malloc import keep_memory

FILES = 64
CHUNK = 1024
"""Photos per measurement."""


def random_model(size: int) -> Model:
    """Builds a random `object` network with this input size, marked as trained."""
    torch.manual_seed(0)
    network = compose(["object"], classes=("awe", "fear"), image_size=size)
    network.mark_trained(torch.tensor([0.5, 0.5]))
    return Model(network.eval(), Recipe(), Path("random"), sha256="")


@contextmanager
def one_thread() -> Iterator[None]:
    """Decodes photos in the thread that runs the network, which is the only one."""
    with mock.patch.object(prediction, "available_workers", return_value=0), threads(1):
        yield


def prefetching(groups: int) -> AbstractContextManager[object]:
    """Always decodes this many groups ahead; with 0, all cores decode a group, then all compute it."""
    return mock.patch.object(prediction, "prefetch_for", return_value=Prefetch(groups))


WAYS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "predict": nullcontext,
    "one thread": one_thread,
    "by turns": lambda: prefetching(0),
    "decoding ahead": lambda: prefetching(AHEAD),
}
"""`predict` itself, and alternatives. Decoding ahead is its method on a GPU: all cores decode and compute."""


def photos(folder: Path, count: int) -> Iterator[str]:
    """Yields this many paths."""
    files = sorted(map(str, folder.glob("*.jpg")))
    return itertools.islice(itertools.cycle(files), count)


def run(model: Model, folder: Path, count: int, way: str) -> None:
    """Predicts this many photos."""
    with WAYS[way]():
        found = sum(each.status == "ok" for each in model.predict(photos(folder, count)))
    assert found == count


def main() -> None:
    """Writes the photos, and prints speeds, ratios and memory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=int, default=20_000)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--size", type=int, default=32)
    options = parser.parse_args()
    keep_memory()  # as on the command line
    model = random_model(options.size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(FILES):
            write_photo(folder / f"{number:02}.jpg", (1600, 1200), seed=number)
        for way in [way for way in WAYS if way != "predict"]:
            count = min(CHUNK, options.photos)
            found = interleaved(
                lambda count=count: run(model, folder, count, "predict"),
                lambda count=count, way=way: run(model, folder, count, way),
                pairs=options.pairs,
                warmup=1,
            )
            print(f"predict against {way}: {found}; {count / found.ours:,.0f} photos/s", flush=True)
        began, memory, seen = time.perf_counter(), [], 0
        for _ in model.predict(photos(folder, options.photos)):
            seen += 1
            if seen % (options.photos // 4) == 0:
                memory.append(peak())
        seconds = time.perf_counter() - began
        print(f"{seen:,} photos in {seconds:.1f} s; peak of memory after each quarter, MiB: {memory}")


if __name__ == "__main__":
    main()
