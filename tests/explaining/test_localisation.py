"""Masks of photos: boxes and images, resized like the network's input; the pointing game and its chance level."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from multistream import MultistreamError
from multistream.data.table import Table
from multistream.explaining.localisation import LocalisationMeter, energy_in, masks_of, points_into


@pytest.fixture
def table(tmp_path: Path) -> Table:
    for name, size in (("a.png", (40, 20)), ("b.png", (20, 20))):
        Image.new("RGB", size).save(tmp_path / name)
    return Table("photos", tmp_path, ("a.png", "b.png"), np.zeros(2, dtype=np.int64), ("x",))


def boxes(folder: Path, *rows: str, columns: str = "path,left,top,right,bottom") -> Path:
    path = folder / "boxes.csv"
    path.write_text("\n".join([columns, *rows]) + "\n")
    return path


def test_boxes_are_squashed_or_cropped_like_the_photo(table: Table, tmp_path: Path) -> None:
    source = boxes(tmp_path, "a.png,20,0,40,10", "b.png,0,0,5,20", "b.png,15,0,20,20")
    squashed = masks_of(table, source, size=10, resize="squash")
    assert squashed(0)[:5, 5:].all()
    assert squashed(0).sum() == 25
    assert squashed(1)[:, [0, 1, 8, 9]].all()  # two boxes of a photo form one mask
    assert not squashed(1)[:, 3:7].any()
    cropped = masks_of(table, source, size=10, resize="crop")
    assert cropped(0).sum() == 25  # the upper right quarter of the central square of 20


def test_masks_can_be_a_folder_of_images(table: Table, tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    for name, size in (("a.png", (40, 20)), ("b.png", (20, 20))):
        picture = Image.new("L", size)
        picture.paste(200, (0, 0, size[0] // 2, size[1]))
        picture.save(folder / name)
    read = masks_of(table, folder, size=8, resize="squash")
    assert read(0)[:, :4].all()
    assert not read(0)[:, 4:].any()


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        (["a.png,0,0,9,9"], "path,left,top,right,bottom", "1 of 2 photos have no box, for example b.png"),
        (["a.png,0,0,9"], "path,left,top,right", "bottom are missing"),
        (["a.png,0,0,x,9"], "path,left,top,right,bottom", "line 2: a box coordinate is not a number"),
        (["a.png,9,0,9,9"], "path,left,top,right,bottom", "contains no pixel"),
    ],
)
def test_invalid_boxes_raise(table: Table, tmp_path: Path, rows: list[str], columns: str, said: str) -> None:
    with pytest.raises(MultistreamError, match=said):
        masks_of(table, boxes(tmp_path, *rows, columns=columns), size=10, resize="squash")


def test_box_outside_the_photo_raises(table: Table, tmp_path: Path) -> None:
    read = masks_of(table, boxes(tmp_path, "a.png,90,90,99,99", "b.png,0,0,9,9"), size=10, resize="squash")
    with pytest.raises(MultistreamError, match="empty"):
        read(0)


def test_noise_maps_score_at_chance_and_true_maps_above() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(400, 16, 16, dtype=torch.bool)
    masks[:, :4, :8] = True
    noise = torch.rand(400, 16, 16, generator=generator)
    places = LocalisationMeter()
    for start in range(0, 400, 50):
        places.add("noise", noise[start : start + 50], masks[start : start + 50])
        places.add("true", (noise + 2 * masks)[start : start + 50], masks[start : start + 50])
    by_name = {place.stream: place for place in places.results()}
    assert by_name["noise"].n == 400
    assert by_name["noise"].chance == pytest.approx(1 / 8)
    low, high = by_name["noise"].pointing_ci95
    assert low < 1 / 8 < high
    assert by_name["noise"].energy == pytest.approx(1 / 8, abs=0.01)
    assert by_name["true"].pointing == 1.0
    assert by_name["true"].energy_ci95[0] > 0.4


def test_energy_and_pointing_of_small_maps() -> None:
    maps = torch.tensor([[[1.0, 3.0], [-9.0, 0.0]], [[0.0, -1.0], [0.0, 0.0]]])
    masks = torch.tensor([[[False, True], [True, False]]] * 2)
    assert energy_in(maps, masks)[0] == 0.75
    assert energy_in(maps, masks)[1].isnan()  # no positive value
    assert points_into(maps, masks).tolist() == [True, False]
    with pytest.raises(ValueError, match="one shape"):
        energy_in(maps, masks[:, :1])
