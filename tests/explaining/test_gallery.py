"""Galleries: who was right, which photos are shown, mean maps, and pictures whose names cannot do harm."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from multistream.explaining.gallery import SIDE, Collector, Entry, Shown, decisions_of, together
from multistream.explaining.gallery_figures import draw_means, write_galleries

CLASSES = ("awe", "fear", "<b>$x_{$</b>")


def shown(number: int, label: str, left: str, right: str, *, name: str = "") -> Shown:
    generator = torch.Generator().manual_seed(number)
    return Shown(
        name=name or f"{label}/{number}.png",
        label=label,
        predicted=left,
        target=left,
        image=torch.randint(0, 256, (3, 32, 32), generator=generator, dtype=torch.uint8),
        maps={"left": torch.full((SIDE, SIDE), float(number)), "right": torch.randn(SIDE, SIDE, generator=generator)},
        decisions={"left": left, "right": right, "words": "awe"},
        entries={"words": [Entry("misty $mountain_", 0.5, 0.2), Entry("=cmd()", 0.1, -0.3)]},
    )


def test_outcomes() -> None:
    assert shown(0, "awe", "awe", "awe").outcome == "all"
    assert shown(0, "awe", "fear", "awe").outcome == "some"
    assert shown(0, "fear", "awe", "awe").outcome == "none"


def test_early_fusion_decides_by_shapley_values_and_late_by_its_own_heads() -> None:
    shapley = torch.tensor([[0.1, 3.0], [0.2, -1.0], [-5.0, 0.0]])
    assert decisions_of(CLASSES, probabilities={}, shapley_KS=shapley, keys=["a", "b"]) == {"a": "fear", "b": "awe"}
    own = {"a": torch.tensor([0.1, 0.2, 0.7])}
    assert decisions_of(CLASSES, probabilities=own, shapley_KS=shapley, keys=["a"]) == {"a": CLASSES[2]}


def test_densities_of_stages_add_by_area() -> None:
    flat = together({"fine": torch.full((8, 8), 1 / 64), "coarse": torch.full((2, 2), 1 / 4)})
    assert torch.allclose(flat, torch.full((SIDE, SIDE), 2.0))


def test_few_are_kept_class_by_class_whatever_the_order() -> None:
    photos = [shown(i, CLASSES[i % 2], CLASSES[i % 2], "awe") for i in range(40)]
    one, other = Collector(CLASSES, each=4), Collector(CLASSES, each=4)
    for photo in photos:
        one.add(photo)
    for photo in reversed(photos):
        other.add(photo)
    assert [s.name for s in one.examples("all")] == [s.name for s in other.examples("all")]
    assert [s.label for s in one.examples("some")] == ["fear"] * 4
    assert sum(len(kept) for kept in one.kept.values()) <= 4 * 3 * 2
    assert one.counts == {"all": 20, "some": 20, "none": 0}
    assert one.means()["left"]["awe"][0, 0].item() == pytest.approx(sum(range(0, 40, 2)) / 20)


def test_pictures_are_the_same_each_time_and_names_are_names(tmp_path: Path) -> None:
    found = Collector(CLASSES, each=2)
    for i, (label, left) in enumerate([("awe", "awe"), ("fear", "fear"), (CLASSES[2], "fear"), ("awe", "fear")]):
        found.add(shown(i, label, left, "awe", name=f"../../$e_{{vil$\n{i}\udcff.png"))
    first = write_galleries(found, tmp_path / "a", how="$how_{$")
    again = write_galleries(found, tmp_path / "b", how="$how_{$")
    assert [path.name for path in first] == [
        "all-right.png", "some-right.png", "none-right.png", "mean-maps.png", "words.png",
    ]  # fmt: skip
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
    with Image.open(first[0]) as picture:
        assert min(picture.size) > 300


def test_mean_maps_name_their_classes_and_counts() -> None:
    means = {key: {name: torch.ones(SIDE, SIDE) for name in ("awe", "fear")} for key in ("left", "right")}
    figure = draw_means(means, {"awe": 1200, "fear": 7})
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["awe (1,200)", "fear (7)", "", ""]
    assert [axis.get_ylabel() for axis in figure.axes] == ["left", "", "right", ""]
