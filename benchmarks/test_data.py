"""Photos: JPEG draft mode at 12 megapixels, and the time that a fine-tuning epoch waits for its data."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.subjects import ours
from multistream.data.decode_workers import decoded_in_processes
from multistream.data.decoding import Decoder
from multistream.data.gpu_decoding import on_gpu
from multistream.data.loading import Photos
from multistream.data.table import Table
from multistream.parts.losses import CrossEntropy
from multistream.recipe import TrainingSettings
from multistream.runtime.device import Runtime, available_workers
from multistream.training.feeds import PhotoFeed
from multistream.training.optimizers import make_optimizer
from multistream.training.step import Objective

Report = Callable[..., Any]
PHOTOS, BATCH = 96, 16


def write_photo(path: Path, size: tuple[int, int], seed: int) -> None:
    """Writes a JPEG like a photo: amplitudes fall with frequency, and most detail is in luminance."""
    chance = np.random.default_rng(seed)
    picture = np.full((size[1], size[0], 3), 128, dtype=np.float32)
    for side in (4, 8, 16, 32, 64, 128, 256):
        octave = chance.normal(size=(side, side)) + 0.3 * chance.normal(size=(3, side, side))
        for channel in range(3):
            smooth = Image.fromarray(octave[channel].astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
            picture[..., channel] += 80 * side**-0.75 * np.asarray(smooth)
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def test_drafts_of_12_megapixels(tmp_path: Path, report: Report) -> None:
    path = tmp_path / "photo.jpg"
    write_photo(path, (4000, 3000), seed=0)
    draft, whole = Decoder(size=224), Decoder(size=224, draft=False)
    found = report("decoding 12 megapixels, drafts", lambda: draft.read(path), lambda: whole.read(path))
    difference = np.abs(draft.read(path).astype(np.int16) - whole.read(path).astype(np.int16)).mean()
    assert found.low > 5
    assert difference <= 1


def test_waiting_for_photos(tmp_path: Path, fast: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    """Measures the fraction of a fine-tuning epoch of `object` in which the step waits for the next batch."""
    for number in range(PHOTOS):
        write_photo(tmp_path / f"{number:03}.jpg", (640, 480), seed=number)
    ids = tuple(f"{number:03}.jpg" for number in range(PHOTOS))
    table = Table("photos", tmp_path, ids, np.arange(PHOTOS) % 8, tuple("abcdefgh"))
    labels = torch.from_numpy(np.asarray(table.labels)).to(fast.device)
    settings = TrainingSettings(batch_size=BATCH, flips=("horizontal",))
    feed = PhotoFeed(Photos(table, Decoder(size=224)), labels, settings, fast, workers=available_workers())
    network = ours(["object"], fast).train()
    objective = Objective(network, criterion=CrossEntropy(), runtime=fast, pooled=False)
    optimizer = make_optimizer(network, settings, fast)
    waited = 0.0
    started = asked = time.perf_counter()
    for batch in feed.training(np.arange(PHOTOS), epoch=0):
        waited += time.perf_counter() - asked
        objective(batch.given, batch.labels)[0].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if fast.device.type == "cuda":
            torch.cuda.synchronize()
        asked = time.perf_counter()
    share = waited / (asked - started)
    with capsys.disabled():
        print(f"\n{'waiting for photos in a fine-tuning epoch':42} {share:.1%} of {asked - started:.1f} s")
    assert share < 0.2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_decoding_on_a_gpu(tmp_path: Path, report: Report) -> None:
    """256 JPEGs of 640 x 480: nvJPEG in groups of 32, against Pillow in threads and in processes."""
    for number in range(8):
        write_photo(tmp_path / f"{number}.jpg", (640, 480), seed=number)
    groups = [[tmp_path / f"{number % 8}.jpg" for number in range(32)]] * 8
    pillow, workers = Decoder(size=224), available_workers()
    nvjpeg = on_gpu(pillow)

    def on_the_gpu() -> None:
        for group in groups:
            nvjpeg.finish([nvjpeg.begin(path.read_bytes(), path=path) for path in group])

    def in_threads() -> None:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(pillow.read, chain.from_iterable(groups)))

    def in_processes() -> None:
        list(decoded_in_processes(pillow, groups, workers=workers, ahead=0, timeout=60))

    report("decoding 256 JPEGs, GPU against threads", on_the_gpu, in_threads, pairs=5)
    report("decoding 256 JPEGs, GPU against processes", on_the_gpu, in_processes, pairs=5)
