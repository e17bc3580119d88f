"""JPEGs decoded many at once; here torchvision's decoder for the CPU stands in for nvJPEG."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from multistream.data import gpu_decoding, loading
from multistream.data.decoding import BadImage, Decoder, Encoded, Photo
from multistream.data.gpu_decoding import GpuDecoder, why_not
from multistream.data.loading import Photos, check_decoder, loaded, make_decoder
from multistream.data.table import Table
from multistream.errors import MultistreamWarning, UsageError
from multistream.inputs import Image as ImageInput
from multistream.recipe import DataSettings

# torchvision 0.29 deprecates its decoders in favour of torchcodec.
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")

NVJPEG = DataSettings(decoder="nvjpeg")


def picture(width: int = 96, height: int = 64, *, seed: int = 0) -> Image.Image:
    """Smooth colours, as photos have."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=95, subsampling=0, **options)
    return file.getvalue()


def oriented(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(image, exif=exif)


def gpu(size: int = 32, **options: Any) -> GpuDecoder:
    return GpuDecoder(size=size, device="cpu", **options)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many JPEGs went through each call."""
    counts: list[int] = []
    plain = GpuDecoder._pixels

    def counting(self: GpuDecoder, files: Sequence[Encoded]) -> list[NDArray[np.uint8]]:
        counts.append(len(files))
        return plain(self, files)

    monkeypatch.setattr(GpuDecoder, "_pixels", counting)
    return counts


@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_pillows(decoded: list[int], resize: Any, orientation: int) -> None:
    """But for rounding, and for a crop's border: Pillow's antialiasing looks beyond it."""
    data = oriented(picture(), orientation)
    ours = gpu(resize=resize).decode(data, path=Path("a.jpg")).pixels
    theirs = Decoder(size=32, resize=resize, draft=False).decode(data, path=Path("a.jpg")).pixels
    assert decoded == [1]
    assert ours.dtype == np.uint8
    assert ours.flags.c_contiguous
    difference = np.abs(ours.astype(int) - theirs)
    assert difference[:, 1:-1, 1:-1].max() <= 2
    assert difference.mean() <= 0.5


def test_grey(decoded: list[int]) -> None:
    data = jpeg(picture().convert("L"))
    ours = gpu().decode(data, path=Path("a.jpg")).pixels
    assert decoded == [1]
    assert np.array_equal(ours[0], ours[1])
    assert np.abs(ours.astype(int) - Decoder(size=32).decode(data, path=Path("a.jpg")).pixels).max() <= 2


def _png() -> bytes:
    file = io.BytesIO()
    picture().save(file, format="PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [_png(), jpeg(picture().convert("CMYK")), jpeg(picture()) + b"a camera's own data"],
    ids=["PNG", "CMYK", "data behind the end"],
)
def test_other_files_are_pillows(decoded: list[int], data: bytes) -> None:
    ours = gpu().decode(data, path=Path("a")).pixels
    assert decoded == []
    assert np.array_equal(ours, Decoder(size=32).decode(data, path=Path("a")).pixels)


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_half_a_photo_is_refused(decoded: list[int], keep: float) -> None:
    data = jpeg(picture())
    with pytest.raises(BadImage, match="truncated"):
        gpu().decode(data[: int(len(data) * keep)], path=Path("half.jpg"))
    assert decoded == []


def test_limits_hold(decoded: list[int]) -> None:
    with pytest.raises(BadImage, match="too large"):
        gpu(max_pixels=1000).decode(jpeg(picture()), path=Path("a.jpg"))
    with pytest.raises(BadImage, match="too small"):
        gpu(min_side=65).decode(jpeg(picture()), path=Path("a.jpg"))
    assert decoded == []


def fail(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def _pixels(_: GpuDecoder, __: Sequence[Encoded]) -> list[NDArray[np.uint8]]:
        raise error

    monkeypatch.setattr(GpuDecoder, "_pixels", _pixels)


def test_what_the_gpu_refuses_pillow_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, RuntimeError("unsupported sampling"))
    data = jpeg(picture())
    ours = gpu().decode(data, path=Path("a.jpg")).pixels
    assert np.array_equal(ours, Decoder(size=32).decode(data, path=Path("a.jpg")).pixels)


def test_a_full_gpu_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(MemoryError, match="CUDA out of memory"):
        gpu().decode(jpeg(picture()), path=Path("a.jpg"))


def test_many_are_decoded_together(decoded: list[int]) -> None:
    files = [jpeg(picture(seed=seed)) for seed in range(5)]
    alone = [gpu().decode(data, path=Path("a.jpg")).pixels for data in files]
    decoded.clear()
    begun = [gpu().begin(data, path=Path("a")) for data in (*files[:2], _png(), *files[2:])]
    photos = gpu().finish(begun)
    assert decoded == [5]
    pixels = [photo.pixels for photo in photos if isinstance(photo, Photo)]
    assert np.array_equal(pixels.pop(2), Decoder(size=32).decode(_png(), path=Path("a")).pixels)
    assert all(map(np.array_equal, pixels, alone))


def test_a_bad_file_does_not_spoil_the_others() -> None:
    good = gpu().begin(jpeg(picture()), path=Path("good.jpg"))
    bad = Encoded(b"no JPEG", Path("bad.jpg"), (96, 64))
    first, second, third = gpu().finish([good, bad, good])
    assert isinstance(first, Photo)
    assert isinstance(third, Photo)
    assert np.array_equal(first.pixels, third.pixels)
    assert isinstance(second, BadImage)
    assert second.reason == "not an image"


def test_no_call_is_larger_than_memory_allows(decoded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_decoding, "PIXELS", 3 * 96 * 64)
    photos = gpu().finish([gpu().begin(jpeg(picture()), path=Path("a.jpg"))] * 8)
    assert len(photos) == 8
    assert decoded == [3, 3, 2]


def test_loading_decodes_a_batch_at_once(decoded: list[int], tmp_path: Path) -> None:
    """In the order of the table; a damaged file is left out."""
    for number in range(6):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(picture(seed=number))[: 200 if number == 3 else None])
    ids = tuple(f"{number}.jpg" for number in range(6))
    table = Table("photos", tmp_path, ids, np.arange(6) % 2, ("awe", "fear"))
    photos = Photos(table, gpu(), on_bad_image="report")
    batches = list(loaded(photos, np.arange(6), batch_size=4, workers=2))
    assert decoded == [3, 2]
    assert [batch["index"].tolist() for batch in batches] == [[0, 1, 2], [4, 5]]
    assert photos.bad == {3: "truncated"}
    assert np.array_equal(batches[1]["image"][1].numpy(), photos[5]["image"])


def test_caches_tell_them_apart() -> None:
    assert gpu().version != Decoder(size=32).version
    assert gpu().version.startswith(Decoder(size=32).version)


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training is refused; what was trained so is used with Pillow, and says so."""
    monkeypatch.setattr(loading, "no_nvjpeg", lambda: "there is no CUDA device")
    with pytest.raises(UsageError, match=r"data\.decoder: nvjpeg is not available: there is no CUDA device"):
        check_decoder(NVJPEG)
    with pytest.warns(MultistreamWarning, match="Pillow is used, and some predictions may differ"):
        decoder = make_decoder({"object": ImageInput(size=32)}, NVJPEG)
    assert type(decoder) is Decoder


def test_a_torchvision_without_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the reason that is given, not a traceback."""
    monkeypatch.setitem(sys.modules, "multistream.data.gpu_decoding", None)
    with pytest.raises(UsageError, match=r"data\.decoder: nvjpeg is not available: import of"):
        check_decoder(NVJPEG)
    with pytest.warns(MultistreamWarning, match="Pillow is used"):
        assert type(make_decoder({"object": ImageInput(size=32)}, NVJPEG)) is Decoder


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_why_there_is_none() -> None:
    assert why_not("cuda") == "there is no CUDA device"
    assert why_not("cpu") == ""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_nvjpeg(decoded: list[int], mode: str) -> None:
    """A grey level on average from Pillow's."""
    decoder = make_decoder({"object": ImageInput(size=32)}, NVJPEG)
    assert type(decoder) is GpuDecoder
    data = oriented(picture().convert(mode), 6)
    decoded.clear()  # whether it works was tried with a picture
    ours = decoder.decode(data, path=Path("a.jpg")).pixels
    theirs = Decoder(size=32, draft=False).decode(data, path=Path("a.jpg")).pixels
    assert decoded == [1]
    assert np.abs(ours.astype(int) - theirs).mean() <= 1
