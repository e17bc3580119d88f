"""Galleries: outcomes, selection of photos, mean maps, and unusual file names."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from matplotlib.text import Text
from PIL import Image

from multistream.explaining.explanation import Explanation, chosen_classes
from multistream.explaining.forward import ForwardPass
from multistream.explaining.gallery import GalleryCollector, MostProbable, write_galleries
from multistream.explaining.gallery_figures import (
    CELLS,
    RIGHT,
    WRONG,
    GalleryPhoto,
    combined,
    draw_classes,
    draw_entries,
    draw_means,
    draw_photos,
)
from multistream.interfaces import FusionOutput

CLASSES = ("awe", "fear", "<b>$x_{$</b>")


def shown(number: int, label: str, left: str, right: str, *, name: str = "") -> GalleryPhoto:
    """Makes a photo with one label, or several separated by |."""
    generator = torch.Generator().manual_seed(number)
    return GalleryPhoto(
        Explanation(
            name or f"{label}/{number}.png",
            "ok",
            label=label,
            labels=tuple(label.split("|")),
            predicted=left,
            target=left,
            decisions={"left": left, "right": right, "words": "awe"},
        ),
        image=torch.randint(0, 256, (3, 32, 32), generator=generator, dtype=torch.uint8),
        aspect=1.5,
        maps={
            "left": torch.full((CELLS, CELLS), float(number)),
            "right": torch.randn(CELLS, CELLS, generator=generator),
        },
        entries={"words": [("misty $mountain_", 0.5, 0.2), ("=cmd()", 0.1, -0.3)]},
    )


def test_outcome_is_all_some_or_none_of_the_streams() -> None:
    assert shown(0, "awe", "awe", "awe").outcome == "all"
    assert shown(0, "awe", "fear", "awe").outcome == "some"
    assert shown(0, "fear|joy", "awe", "awe").outcome == "none"
    assert shown(0, "awe|fear", "fear", "awe").outcome == "all"


def test_early_fusion_decides_by_shapley_values_and_late_fusion_by_heads() -> None:
    shapley_BKS = torch.tensor([[[0.1, 3.0], [0.2, -1.0], [-5.0, 0.0]]])
    early = ForwardPass({}, {}, FusionOutput(torch.zeros(1, 3), {}))
    assert chosen_classes(early, shapley_BKS).tolist() == [[1, 0]]
    own = {"a": torch.tensor([[0.1, 0.2, 0.7]]), "b": torch.tensor([[0.1, 0.2, 0.0]])}
    assert chosen_classes(ForwardPass({}, {}, FusionOutput(torch.zeros(1, 3), own)), shapley_BKS).tolist() == [[2, 1]]


def test_densities_of_stages_add_by_area() -> None:
    flat = combined({"fine": torch.full((8, 8), 1 / 64), "coarse": torch.full((2, 2), 1 / 4)})
    assert torch.allclose(flat, torch.full((CELLS, CELLS), 2.0))


def test_kept_photos_do_not_depend_on_their_order() -> None:
    photos = [shown(i, CLASSES[i % 2], CLASSES[i % 2], "awe") for i in range(40)]
    one, other = GalleryCollector(CLASSES, each=4), GalleryCollector(CLASSES, each=4)
    for photo in photos:
        one.add(photo)
    for photo in reversed(photos):
        other.add(photo)
    assert [s.explanation.path for s in one.examples("all")] == [s.explanation.path for s in other.examples("all")]
    assert [s.explanation.label for s in one.examples("some")] == ["fear"] * 4
    assert sum(len(kept) for kept in one.kept.values()) <= 4 * 3 * 2
    assert one.counts == {"all": 20, "some": 20, "none": 0}
    assert one.differences()["left"]["awe"][0, 0].item() == pytest.approx(19 - 19.5)  # its mean minus that of all


def test_photo_counts_for_each_label_and_is_shown_once() -> None:
    found = GalleryCollector(CLASSES, each=4)
    for photo in (
        shown(0, "awe|fear", "awe", "fear"),
        shown(6, "fear", "fear", "fear"),
        shown(9, "fear", "awe", "awe"),
    ):
        found.add(photo)
    assert found.counts == {"all": 1, "some": 1, "none": 1}
    assert [photo.explanation.label for photo in found.examples("all")] == ["awe|fear"]
    means = found.differences()["left"]
    assert means["awe"][0, 0].item() == pytest.approx(0 - 5)
    assert means["fear"][0, 0].item() == pytest.approx(5 - 5)
    assert found.numbers == {"awe": 1, "fear": 3}


def test_most_probable_photos_do_not_depend_on_batches() -> None:
    probabilities = torch.rand(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = MostProbable(CLASSES, each=4)
    for start in range(0, 50, 7):
        found.add(list(range(start, min(50, start + 7))), probabilities[start : start + 7])
    assert torch.equal(found.places, probabilities.topk(4, dim=0).indices)
    assert torch.equal(found.probabilities, probabilities.topk(4, dim=0).values)


def test_page_of_classes_shows_whether_a_photo_has_the_label() -> None:
    photos = {"awe": [shown(1, "awe|fear", "awe", "fear"), shown(2, "fear", "awe", "awe")], "fear": []}
    figure = draw_classes(photos, total=50)
    first, *_ = figure.axes
    assert first.get_ylabel() == "awe"
    verdicts = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_text().startswith("0.000"))
    assert [text.get_color() for text in verdicts] == [RIGHT, WRONG]
    titles = [axis.get_title(loc="left") for axis in (figure.axes[0], figure.axes[3])]
    assert titles == ["0.000\nlabel awe|fear", "0.000\nlabel fear"]
    assert [axis.get_title(loc="left") for axis in figure.axes[1:3]] == ["left", "right"]


def test_gallery_is_reproducible_and_names_are_plain_text(tmp_path: Path) -> None:
    found = GalleryCollector(CLASSES, each=2)
    for i, (label, left) in enumerate([("awe", "awe"), ("fear", "fear"), (CLASSES[2], "fear"), ("awe", "fear")]):
        found.add(shown(i, label, left, "awe", name=f"../../$e_{{vil$\n{i}\udcff.png"))
    first = write_galleries(found, tmp_path / "a", by_class={"$x_{": [shown(1, "awe", "awe", "awe")]}, how="$how_{$")
    again = write_galleries(found, tmp_path / "b", by_class={"$x_{": [shown(1, "awe", "awe", "awe")]}, how="$how_{$")
    assert [path.name for path in first] == [
        "all-right.png", "some-right.png", "none-right.png", "by-class.png", "mean-maps.png", "words.png",
    ]  # fmt: skip
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
    with Image.open(first[0]) as picture:
        assert min(picture.size) > 300


def test_mean_maps_show_class_count_and_scale() -> None:
    means = {key: {name: torch.ones(CELLS, CELLS) for name in ("awe", "fear")} for key in ("left", "right")}
    figure = draw_means(means, {"awe": 1200, "fear": 7})
    maps, scales = figure.axes[:4], figure.axes[4:]
    assert [axis.get_title(loc="left") for axis in maps] == ["awe (1,200)", "fear (7)", "", ""]
    assert [axis.get_ylabel() for axis in maps] == ["left", "", "right", ""]
    assert [axis.get_ylabel() for axis in scales] == ["logit density"] * 2


def test_photos_are_drawn_in_their_shape_with_their_folder() -> None:
    figure = draw_photos([shown(1, "awe", "awe", "fear", name="elsewhere/awe/1.png")], title="t", how="h")
    height, width = figure.axes[0].images[0].get_array().shape[:2]
    assert width / height == pytest.approx(1.5, abs=0.02)
    assert figure.axes[0].get_title(loc="left").startswith("awe/1.png\n")


def test_ticks_of_scores_do_not_overlap() -> None:
    figure = draw_entries([shown(1, "awe", "awe", "fear")], "words")
    figure.draw_without_rendering()
    for axis in figure.axes[1:]:
        boxes = [tick.label1.get_window_extent() for tick in axis.xaxis.get_major_ticks() if tick.label1.get_text()]
        seen = sorted((box for box in boxes if box.width), key=lambda box: box.x0)
        assert len(seen) >= 2
        assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(seen))


@pytest.mark.parametrize(("kind", "first"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_galleries_in_vector_formats_are_reproducible(tmp_path: Path, kind: str, first: bytes) -> None:
    found = GalleryCollector(CLASSES)
    found.add(shown(1, "awe", "awe", "awe"))
    one = [path.read_bytes() for path in write_galleries(found, tmp_path / "a", by_class={}, how="h", kind=kind)]
    again = [path.read_bytes() for path in write_galleries(found, tmp_path / "b", by_class={}, how="h", kind=kind)]
    assert one == again
    assert all(content.startswith(first) for content in one)
