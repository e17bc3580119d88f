"""Draft decoding of real photos at 12 megapixels: faster, and nothing that a network sees is another."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from multistream import load, train
from multistream.data.decoding import Decoder
from multistream.data.layouts.data_source import open_table
from multistream.inference.model import Model
from multistream.recipe import Recipe
from multistream.runs.predictions_file import read_predictions

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
    """What a trained run says of its test photos, enlarged to 12 megapixels.

    The aim is 99 of 100 that stay what they were. It is missed: 98 to 99 do, and probabilities moved by up to .04
    (docs/design.md says what would reach it, and why it is not done). The bound guards what there is.
    """
    settings = ["data.label=keyword", "runtime.precision=fp32"]
    network = {"streams": {"object": "object"}, "weights": {"object": str(WEIGHTS)}}
    recipe = Recipe().updated({"data": {"source": f"emotion6:{EMOTION6}"}, "network": network}).with_settings(settings)
    run = train(recipe, out=tmp_path / "run").folder
    tested = set(read_predictions(run / "predictions.csv").paths)
    table = open_table(f"emotion6:{EMOTION6}", label="keyword")
    rows = np.array([i for i, name in enumerate(table.ids) if name in tested], dtype=np.int64)
    draft, whole, ratio = both_ways(rows, tmp_path)
    difference = np.abs(draft.astype(np.int16) - whole.astype(np.int16)).mean()
    agree = (labels(load(run), draft) == labels(load(run), whole)).mean()
    with capsys.disabled():
        print(f"\ndrafts: {len(rows)} photos, {ratio:.1f}x as fast, {difference:.2f} grey levels, {agree:.1%} agree")
    assert difference <= 1
    assert agree >= 0.97


@torch.no_grad()
def labels(model: Model, pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The predicted class of photos (N, 3, 224, 224)."""
    batches = torch.from_numpy(pixels).split(20)
    found: NDArray[np.int64] = torch.cat([model.network({"image": batch}).argmax(1) for batch in batches]).numpy()
    return found
