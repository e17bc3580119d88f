"""Draft decoding of real photos at 12 megapixels: faster, and nothing that a network sees is another."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from multistream import compose
from multistream.data.images import Decoder
from multistream.data.layouts import open_table

SHARED = Path(__file__).parents[3] / "shared"
EMOTION6, WEIGHTS = SHARED / "data" / "emotion6", SHARED / "weights" / "mobilenet_v2_imagenet.safetensors"
pytestmark = pytest.mark.skipif(
    not (EMOTION6.is_dir() and WEIGHTS.is_file()), reason="../shared/data/emotion6 or ../shared/weights is not here"
)
SIZE = (4000, 3000)


def enlarged(source: Path, target: Path) -> Path:
    """A photo as a 12-megapixel JPEG."""
    with Image.open(source) as photo:
        photo.convert("RGB").resize(SIZE, Image.Resampling.BICUBIC).save(target, quality=90)
    return target


def both_ways(rows: NDArray[np.int64], folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8], float]:
    """The photos (N, 3, 224, 224) with drafts and without, and how many times as long the latter take."""
    table = open_table(f"emotion6:{EMOTION6}", label="keyword")
    draft, whole = Decoder(size=224), Decoder(size=224, draft=False)
    pixels: tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]] = ([], [])
    seconds: tuple[list[float], list[float]] = ([], [])
    for row in rows:
        path = enlarged(table.path(int(row)), folder / "photo.jpg")
        for decoder, taken, found in zip((draft, whole), seconds, pixels, strict=True):
            start = time.perf_counter()
            found.append(decoder.read(path))
            taken.append(time.perf_counter() - start)
    return np.stack(pixels[0]), np.stack(pixels[1]), float(np.median(np.divide(seconds[1], seconds[0])))


def test_pixels_differ_by_less_than_a_grey_level(tmp_path: Path) -> None:
    draft, whole, ratio = both_ways(np.arange(0, 1980, 330), tmp_path)
    assert np.abs(draft.astype(np.int16) - whole.astype(np.int16)).mean() <= 1
    assert ratio > 3  # 5 on a machine of one's own: benchmarks/test_data.py; here others may work beside


@pytest.mark.slow
def test_predictions_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Six keywords told apart by a linear head on Multi-GAP features: at least 99 of 100 stay what they were."""
    table = open_table(f"emotion6:{EMOTION6}", label="keyword")
    chance = np.random.default_rng(0).permutation(len(table))
    train, test = chance[:300], chance[300:400]
    known = np.stack([Decoder(size=224).read(table.path(int(row))) for row in train])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
    classifier.fit(features(known), table.labels[train])
    draft, whole, ratio = both_ways(test, tmp_path)
    difference = np.abs(draft.astype(np.int16) - whole.astype(np.int16)).mean()
    agree = (classifier.predict(features(draft)) == classifier.predict(features(whole))).mean()
    with capsys.disabled():
        print(f"\ndrafts: {ratio:.1f}x as fast, {difference:.2f} grey levels, {agree:.1%} of predictions agree")
    assert difference <= 1
    assert agree >= 0.99


@torch.no_grad()
def features(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What all taps of `object` pool, side by side, (N, 488)."""
    network = compose(["object"], classes=["a"], weights={"object": str(WEIGHTS)}).eval()
    batches = torch.from_numpy(pixels).split(20)
    pooled = [torch.cat(list(network.pool({"image": batch})["object"].values()), dim=1) for batch in batches]
    return torch.cat(pooled).numpy()
