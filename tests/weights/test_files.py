"""What is not a weight file at all, and files that were damaged on their way."""

from __future__ import annotations

import hashlib
import io
import os
import random
import resource
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from multistream.errors import WeightsError
from multistream.weights import files as reading
from multistream.weights import read_tensors

Write = Callable[[str, bytes], Path]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.pth", "no such file"),
        ("folder", "it is not a file"),
        ("photo.jpg", "its format is unknown"),
        ("a" * 300 + ".pth", "cannot be read"),
        ("nul\0.pth", "no such file"),
    ],
)
def test_what_cannot_be_a_weight_file(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 some photo")
    with pytest.raises(WeightsError, match=says) as caught:
        read_tensors(tmp_path / name)
    assert caught.value.exit_code == 69
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(WeightsError, match="it is not a file"):
        read_tensors(tmp_path / "pipe.pth")


def test_a_file_that_is_too_large_is_not_opened(tmp_path: Path) -> None:
    with (tmp_path / "huge.pth").open("wb") as file:
        file.truncate(reading.MOST_BYTES + 1)  # sparse: it takes no room
    with pytest.raises(WeightsError, match=r"17,179,869,185 bytes\. The limit is 17,179,869,184"):
        read_tensors(tmp_path / "huge.pth")


@pytest.mark.parametrize("suffix", [*reading.BY_SUFFIX, ""])
def test_zeros_are_refused_whatever_they_are_called(suffix: str, write: Write) -> None:
    with pytest.raises(WeightsError, match=r"this is no|its format is unknown"):
        read_tensors(write(f"zeros{suffix}", bytes(10_000)))


def test_the_checksum_is_that_of_the_file(write: Write) -> None:
    data = save({"a": torch.ones(2)})
    assert read_tensors(write("a.safetensors", data)).sha256 == hashlib.sha256(data).hexdigest()


@pytest.fixture
def corpus(make_caffe: Callable[..., bytes], layers: dict[str, tuple[Tensor, ...]]) -> dict[str, bytes]:
    """A good file of every format."""
    tensors = {f"module.{name}.{n}": tensor for name, both in layers.items() for n, tensor in enumerate(both)}
    files = {"a.safetensors": save(tensors, metadata={"made": "by hand"})}
    for zipped, name in ((True, "zip.pth"), (False, "old.pth.tar")):
        buffer = io.BytesIO()
        torch.save({"epoch": 3, "state_dict": tensors}, buffer, _use_new_zipfile_serialization=zipped)
        files[name] = buffer.getvalue()
    files["v1.caffemodel"] = make_caffe(layers, v1=True, old_shape=True)
    files["v2.caffemodel"] = make_caffe(layers, packed=False)
    files["mean.binaryproto"] = b"\x08\x01\x10\x03\x18\x04\x20\x04\x2a\xc0\x01" + bytes(192)
    return files


EXTREMES = (
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x80",
    b"\xff\xff\xff\x7f",
    b"\x00" * 8,
    b"\xff" * 8,
    b"\x00" * 7 + b"\x40",
)


def mutated(data: bytes, draw: random.Random) -> bytes:
    """A damaged copy: bits flipped, bytes overwritten, cut out, doubled or put in, or the end missing."""
    changed = bytearray(data)
    # The interesting part of a large file is its head, and of a zip its end.
    near = draw.choice((len(data), 400, 100))
    at = draw.randrange(min(near, len(data)))
    at = len(data) - 1 - at if draw.random() < 0.3 else at
    match draw.randrange(6):
        case 0:
            for _ in range(draw.choice((1, 1, 2, 8))):
                changed[draw.randrange(max(at, 1))] ^= 1 << draw.randrange(8)
        case 1:
            changed[at : at + 1] = bytes([draw.randrange(256)])
        case 2:
            extreme = draw.choice(EXTREMES)
            changed[at : at + len(extreme)] = extreme
        case 3:
            del changed[at : at + draw.choice((1, 2, 4, 8, 1000))]
        case 4:
            changed[at:at] = changed[at : at + draw.choice((1, 4, 16, 500))]
        case 5:
            del changed[at:]
    return bytes(changed)


def repacked(data: bytes, draw: random.Random) -> bytes:
    """A zip with one damaged part and right checksums, so that the damage reaches what reads the part."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        parts = {name: old.read(name) for name in old.namelist()}
        damaged = next(name for name in parts if name.endswith("data.pkl")) if draw.random() < 0.8 else [*parts][-1]
        for name, part in parts.items():
            new.writestr(name, mutated(part, draw) if name == damaged else part)
    return buffer.getvalue()


def fuzz(corpus: dict[str, bytes], tmp_path: Path, *, count: int, seed: int) -> int:
    """Reads `count` damaged files; how many were refused. Each is quick, and none takes memory."""
    draw = random.Random(seed)
    refused = 0
    for name, data in corpus.items():
        read_tensors(_written(tmp_path / name, data))  # the good one; warms up every reader
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        name = draw.choice(list(corpus))
        damage = repacked if name == "zip.pth" and draw.random() < 0.7 else mutated
        path = _written(tmp_path / name, damage(corpus[name], draw))
        start = time.perf_counter()
        try:
            found = read_tensors(path)
            for tensor in found.tensors.values():
                tensor.to(torch.float32).sum()  # what was let through lies in memory that is there
        except WeightsError:
            refused += 1
        assert time.perf_counter() - start < 5, name
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 50_000, f"{grown:,} kB"
    return refused


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_damaged_files_give_our_error_alone(corpus: dict[str, bytes], tmp_path: Path) -> None:
    assert fuzz(corpus, tmp_path, count=600, seed=0) > 300


@pytest.mark.slow
def test_10_000_damaged_files_give_our_error_alone(corpus: dict[str, bytes], tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["model_weights/c/c/kernel:0"] = torch.ones(3, 3, 4, 5).numpy()
        file.attrs["layer_names"] = [b"c"]
    corpus["a.h5"] = (tmp_path / "a.h5").read_bytes()
    assert fuzz(corpus, tmp_path, count=10_000, seed=1) > 5000
