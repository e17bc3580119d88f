"""Scanning: what is found, and that nothing is found where there is nothing."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multistream.data.decoding import Decoder
from multistream.data.layouts.data_source import open_table
from multistream.data.scan import COPIES, scan


def photo(path: Path, seed: int) -> Path:
    """Writes a picture of coarse noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((80, 60)).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part in ("train", "test"):
        for label in ("joy", "fear"):
            for number in range(4):
                photo(
                    tmp_path / part / label / f"{number}.png", hash((part == "train", label == "joy", number)) % 2**32
                )
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_a_clean_set(root: Path, workers: int) -> None:
    ticks: list[int] = []
    found = scan(open_table(str(root)), Decoder(32), workers=workers, tick=ticks.append)
    assert found.is_clean
    assert (found.images, dict(found.classes), sum(ticks)) == (16, {"fear": 8, "joy": 8}, 16)
    assert json.loads(json.dumps(found.to_dict()))["unreadable"] == []


def test_what_is_found(root: Path) -> None:
    (root / "train/joy/empty.jpg").write_bytes(b"")
    content = (root / "train/joy/0.png").read_bytes()
    (root / "train/joy/half.png").write_bytes(content[: len(content) // 2])
    (root / "test/fear/copy.png").write_bytes(content)
    (root / "train/joy/copy.png").write_bytes((root / "train/joy/1.png").read_bytes())
    Image.new("RGB", (50, 50), (240, 240, 240)).save(root / "train/joy/white.jpg")
    frames = [Image.open(io.BytesIO(content)), Image.new("RGB", (80, 60))]
    frames[0].save(root / "train/fear/moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    found = scan(open_table(str(root)), Decoder(32))
    assert {each.id: each.reason for each in found.unreadable} == {
        "train/joy/empty.jpg": "empty",
        "train/joy/half.png": "truncated",
    }
    pairs = {("test/fear/copy.png", "train/joy/0.png"), ("train/joy/1.png", "train/joy/copy.png")}
    assert set(found.duplicates) == pairs
    assert found.across_parts == found.contradictory == (("test/fear/copy.png", "train/joy/0.png"),)
    assert found.one_colour == ("train/joy/white.jpg",)
    assert dict(found.remarks) == {"first frame": 1}
    assert not found.is_clean


def test_placeholders(root: Path) -> None:
    gone = photo(root / "train/joy/gone0.png", 99)
    for number in range(1, COPIES):
        Image.open(gone).save(root / f"train/fear/gone{number}.jpg", quality=95 - number)
    found = scan(open_table(str(root)), Decoder(32))
    assert [len(group) for group in found.same_picture] == [COPIES]
    assert found.duplicates == ()
    (root / "train/joy/gone0.png").unlink()
    assert scan(open_table(str(root)), Decoder(32)).same_picture == ()


def test_parts_from_elsewhere(photos: Callable[..., Path]) -> None:
    root = photos("a/1.png", "b/2.png")
    (root / "a/3.png").write_bytes((root / "a/1.png").read_bytes())
    table = open_table(str(root))
    assert scan(table, Decoder(32)).across_parts == ()
    found = scan(table, Decoder(32), parts={"train": np.array([0, 2]), "test": np.array([1])})
    assert found.across_parts == (("a/1.png", "a/3.png"),)
