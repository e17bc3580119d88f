"""predict: every form of a photo, lazily; a status for what cannot be used."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import multistream as ms
from multistream.data.prefetch import AHEAD, MeasuredPrefetch
from multistream.errors import DataError, UsageError
from multistream.inference import predict as prediction
from multistream.inference.groups import GROUP
from multistream.inference.model import Model
from multistream.nn.threads import threads


@pytest.fixture(scope="module")
def model(both: Path) -> Model:
    return ms.load(both)


def rows(model: Model, images: object, **options: object) -> NDArray[np.float64]:
    found = list(model.predict(images, without=["anp"], **options))  # type: ignore[arg-type]
    assert [each.status for each in found] == ["ok"] * len(found)
    return np.array([list(each.probabilities.values()) for each in found])


@pytest.fixture
def turned(tmp_path: Path) -> Path:
    """A JPEG that lies on its side, and says so."""
    exif = Image.Exif()
    exif[274] = 6
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[:20, :, 0], pixels[:, 60:, 1] = 255, 255
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif)
    return tmp_path / "turned.jpg"


def test_every_form_of_a_photo_is_decoded_alike(model: Model, turned: Path) -> None:
    expected = rows(model, turned)
    with turned.open("rb") as file, Image.open(turned) as lazy:
        forms = [str(turned), turned.read_bytes(), bytearray(turned.read_bytes()), file, lazy]
        assert all(np.array_equal(rows(model, form), expected) for form in forms)
    with Image.open(turned) as loaded:
        loaded.load()
        assert np.array_equal(rows(model, loaded), expected)
        pixels = np.asarray(loaded.transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(rows(model, pixels), expected)


def test_many_photos_of_many_forms(model: Model, photos: Path, turned: Path) -> None:
    array = np.asarray(Image.open(photos / "joy" / "0.png"))
    found = rows(model, [turned, array, io.BytesIO(turned.read_bytes())])
    assert np.array_equal(found[0], found[2])
    assert np.array_equal(found[1], rows(model, np.stack([array] * 3))[0])


BAD = {
    "float32 array": (np.zeros((8, 8, 3), np.float32), "not a photo"),
    "channels first": (np.zeros((3, 20, 20), np.uint8), "not a photo"),
    "no pixels": (np.zeros((0, 8, 3), np.uint8), "empty"),
    "nothing": (None, "not a photo"),
    "a text file": (io.StringIO("abc"), "not a photo"),
    "no bytes": (b"", "empty"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "format EPS not allowed"),
    "float picture": (Image.new("F", (20, 20)), "floating-point values without a known scale"),
    "0 x 0": (Image.new("RGB", (0, 0)), "too small"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_photo_costs_a_status(model: Model, kind: str) -> None:
    image, reason = BAD[kind]
    good = np.full((20, 20, 3), 90, np.uint8)
    found = list(model.predict([image, good], without=["anp"]))  # type: ignore[list-item]
    assert [each.status for each in found] == [reason, "ok"]


def test_photos_are_taken_as_they_come(model: Model) -> None:
    taken = 0

    def coming() -> Iterator[NDArray[np.uint8]]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield np.zeros((16, 16, 3), np.uint8)

    next(model.predict(coming(), without=["anp"]))
    assert taken <= 128


def test_what_is_no_photo_at_all_is_refused(model: Model) -> None:
    with pytest.raises(UsageError, match="int is not a photo"):
        list(model.predict(5, without=["anp"]))  # type: ignore[arg-type]


def test_a_tensor_is_read_as_an_image(model: Model, photos: Path) -> None:
    array = np.asarray(Image.open(photos / "joy" / "0.png"))
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    expected = rows(model, array)
    for given in (tensor, tensor[None], [tensor]):
        assert np.array_equal(rows(model, given), expected)


@pytest.mark.parametrize("tensor", [torch.zeros(3, 8, 8), torch.zeros(8, 8, 3, dtype=torch.uint8), torch.zeros(3)])
def test_a_tensor_that_is_no_image_is_refused(model: Model, tensor: torch.Tensor) -> None:
    with pytest.raises(UsageError, match=r"uint8, channels first: \(3, H, W\)"):
        list(model.predict(tensor, without=["anp"]))
    assert [each.status for each in model.predict([tensor], without=["anp"])] == ["not a photo"]


def test_folders_tell_what_they_pass_over(model: Model, photos: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.txt", ".hidden.png", "@eaDir/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((photos / "joy" / "0.png").read_bytes())
    said: list[str] = []
    found = list(model.predict(tmp_path, without=["anp"], say=said.append))
    assert [Path(each.path).name for each in found] == ["a.png"]
    assert [line.partition(": ")[2] for line in said] == [
        "files that are not images by their name: 1 ignored",
        "hidden or system files and folders: 2 ignored",
    ]


def test_vectors_are_found_by_exact_id_alone(model: Model, photos: Path, vectors: Path, tmp_path: Path) -> None:
    stranger = tmp_path / "joy" / "0.png"
    stranger.parent.mkdir()
    stranger.write_bytes((photos / "joy" / "0.png").read_bytes())
    inputs = {"anp": vectors}
    assert [each.status for each in model.predict([photos / "joy" / "0.png", stranger], inputs=inputs)] == [
        "ok",
        "no vector",
    ]
    assert [each.status for each in model.predict(tmp_path, inputs=inputs)] == ["ok"]  # from the folder given


def test_the_runs_own_photos_need_no_input(model: Model, photos: Path) -> None:
    assert [each.status for each in model.predict(photos / "joy" / "0.png")] == ["ok"]


def test_the_runs_own_photos_are_recognised_through_a_symbolic_link(model: Model, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(photos)
    assert next(model.predict(tmp_path / "linked" / "joy" / "0.png")).status == "ok"


def test_vectors_as_arrays(model: Model, photos: Path, vectors: Path) -> None:
    paths = [photos / "joy" / "0.png", photos / "awe" / "3.png"]
    held = np.load(vectors)
    of = dict(zip(held["ids"].tolist(), held["features"], strict=True))
    in_order = np.stack([of["joy/0.png"], of["awe/3.png"]])
    expected = [each.probabilities for each in model.predict(paths, inputs={"anp": vectors})]
    assert [each.probabilities for each in model.predict(paths, inputs={"anp": in_order})] == expected
    assert [each.probabilities for each in model.predict(paths, inputs={"anp": of})] == expected
    statuses = [each.status for each in model.predict([*paths, paths[0]], inputs={"anp": in_order})]
    assert statuses == ["ok", "ok", "no vector"]
    with pytest.raises(DataError, match=r"number 0 has the shape \(5,\)"):
        list(model.predict(paths, inputs={"anp": in_order[:, :5]}))


def test_a_large_jpeg_is_decoded_small(model: Model, tmp_path: Path) -> None:
    Image.new("RGB", (10_000, 7_000), (90, 20, 200)).save(tmp_path / "phone.jpg")
    assert [each.status for each in model.predict(tmp_path / "phone.jpg", without=["anp"])] == ["ok"]


class Overlap(MeasuredPrefetch):
    """Decodes ahead and computes in one thread from the first group on."""

    def __init__(self) -> None:
        super().__init__(workers=2)
        self.groups = AHEAD

    def decoded(self, seconds: float) -> None:
        """Learns nothing."""


@pytest.fixture
def overlap(monkeypatch: pytest.MonkeyPatch) -> Iterator[Overlap]:
    with threads(2):
        overlap = Overlap()
        monkeypatch.setattr(prediction, "prefetch_for", Mock(return_value=overlap))
        yield overlap


def noise(count: int) -> list[NDArray[np.uint8]]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 40, 40, 3), dtype=np.uint8))


def test_overlapping_gives_the_bits_and_the_order_of_going_by_turns(model: Model, overlap: Overlap) -> None:
    images = noise(3 * GROUP + 5)
    overlapped = rows(model, images)
    overlap.groups = 0
    assert np.array_equal(rows(model, images), overlapped)
    assert len(np.unique(overlapped, axis=0)) == len(images)


@pytest.mark.usefixtures("overlap")
def test_threads_are_given_back_when_photos_or_callers_break_off(model: Model) -> None:
    def breaking() -> Iterator[NDArray[np.uint8]]:
        yield from noise(4 * GROUP)
        raise EOFError

    found = model.predict(breaking(), without=["anp"])
    assert next(found).status == "ok"
    assert torch.get_num_threads() == 2
    with pytest.raises(EOFError):
        list(found)
    assert torch.get_num_threads() == 2
    closed = model.predict(noise(4 * GROUP), without=["anp"])
    next(closed)
    closed.close()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == 2
