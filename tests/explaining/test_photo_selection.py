"""Photos to explain, in every form that prediction accepts."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import multistream as ms
from multistream.errors import DataError
from multistream.explaining.overlays import write_overlay
from multistream.inference.model import Model
from multistream.recipe import Recipe
from multistream.runs.model_file import save_model

CLASSES = ("awe", "fear", "joy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    """A model of a photo stream and a stream of vectors of width 4."""
    streams = {"object": "object", "anp": ms.streams["anp"](width=4)}
    network = ms.compose(streams, classes=CLASSES, image_size=32, seed=0).mark_trained()
    save_model(network, folder / "model.safetensors", recipe=Recipe())
    return ms.load(folder, streams={"anp": ms.streams["anp"](width=4)})


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A photo of 48 x 24 pixels with an EXIF rotation."""
    exif = Image.Exif()
    exif[274] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (24, 48, 3), dtype=np.uint8)
    path = tmp_path / "wide.png"
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def test_photo_in_memory_is_explained_like_its_file(model: Model, wide: Path, tmp_path: Path) -> None:
    data, vectors = wide.read_bytes(), np.ones((5, 4))
    forms = [wide, Image.open(wide), data, io.BytesIO(data), str(wide)]
    found = list(ms.explain(model, forms, inputs={"anp": vectors}, device="cpu"))
    assert [(each.status, each.path) for each in found] == [
        ("ok", str(wide) if isinstance(form, Path | str) else "<image>") for form in forms
    ]
    assert len({each.logits["fused"] for each in found}) == 1
    assert [each.arrays.aspect for each in found if each.arrays] == [0.5] * 5
    write_overlay(found[1], tmp_path / "overlay.png")


def test_arrays_and_tensors_get_equal_explanations(model: Model, photos: Path) -> None:
    array = np.asarray(Image.open(photos / "awe" / "0.png"))
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    given = [array, np.stack([array]), tensor, tensor[None], [tensor]]
    found = [next(iter(ms.explain(model, each, inputs={"anp": np.ones(4)}, device="cpu"))) for each in given]
    assert [each.status for each in found] == ["ok"] * 5
    assert len({each.logits["fused"] for each in found}) == 1


def test_vectors_follow_the_order_of_the_photos(model: Model, photos: Path) -> None:
    paths = sorted((photos / "awe").glob("*.png"))[:2]
    rows = np.array([[0, 0, 0, 1], [5, 0, 0, 0]], np.float32)
    by_id = dict(zip(map(str, paths), rows, strict=True))
    several = [list(ms.explain(model, paths, inputs={"anp": given}, device="cpu")) for given in (rows, by_id)]
    assert several[0] == several[1]
    assert several[0][0].arrays is not None
    assert several[0][0].arrays.inputs["anp"].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("rows", [1, 3])
def test_wrong_number_of_vectors_raises(model: Model, photos: Path, rows: int) -> None:
    paths = sorted((photos / "awe").glob("*.png"))[:2]
    with pytest.raises(ms.MultistreamError, match=f"{rows} rows were given for 2 photos"):
        ms.explain(model, paths, inputs={"anp": np.ones((rows, 4))})


@pytest.mark.parametrize("source", [{"a": np.ones(4), "b": np.ones(3)}, {}, {"a": np.ones((2, 4))}, ["four", "words"]])
def test_invalid_vectors_raise_one_line(model: Model, photos: Path, source: object) -> None:
    paths = [photos / "awe" / "0.png", photos / "awe" / "1.png"]
    with pytest.raises(DataError, match="All vectors must be numbers"):
        list(ms.explain(model, paths, inputs={"anp": source}, device="cpu"))  # type: ignore[dict-item]
    if isinstance(source, dict):
        with pytest.raises(DataError, match="All vectors must be numbers"):
            list(model.predict(paths, inputs={"anp": source}, device="cpu"))


def test_invalid_photos_get_the_status_of_prediction(model: Model, photos: Path) -> None:
    given = [photos / "awe" / "0.png", None, np.zeros((8, 8, 3), np.float32), "missing.png"]
    vectors = np.ones((4, 4), np.float32)
    found = list(ms.explain(model, given, inputs={"anp": vectors}, device="cpu"))  # type: ignore[arg-type]
    expected = list(model.predict(given, inputs={"anp": vectors}, device="cpu"))  # type: ignore[arg-type]
    assert [(each.path, each.status) for each in found] == [(each.path, each.status) for each in expected]


@pytest.mark.parametrize("fusion", ["early", "late"])
def test_arrays_and_numbers_have_equal_names(fusion: str, photos: Path) -> None:
    streams = {"object": "object", "anp": ms.streams["anp"](width=4)}
    network = ms.compose(streams, classes=CLASSES, image_size=32, seed=0, fusion=fusion)
    photo = photos / "awe" / "0.png"
    (found,) = ms.explain(Model.of(network), photo, inputs={"anp": np.ones(4)}, device="cpu")
    assert found.arrays is not None
    for name in ("logits", "bias", "remainder"):
        numbers, arrays = getattr(found, name), getattr(found.arrays, name)
        column, _ = found.arrays.columns
        assert {key: float(values[column]) for key, values in arrays.items()} == pytest.approx(numbers)
    assert list(found.arrays.logits) == (["fused"] if fusion == "early" else ["object", "anp"])
