"""Photos and data sets at URLs: in memory and on this machine, which fsspec reads as it reads a cloud."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from multistream.data import open_table, urls
from multistream.data.decoding import BadImage, Decoder, Photo
from multistream.data.given_photos import given_photos
from multistream.errors import DataError, PluginError, UsageError


def png(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryFileSystem]:
    """A storage with memory://set/awe/0.png, ... and memory://set/fear/..."""
    monkeypatch.setenv("MULTISTREAM_CACHE", str(tmp_path / "cache"))
    storage = MemoryFileSystem()
    for number, name in enumerate(("awe/0", "awe/1", "fear/0", "fear/1")):
        storage.pipe_file(f"/set/{name}.png", png(number))
    storage.pipe_file("/set/readme.txt", b"not a photo")
    yield storage
    storage.store.clear()
    storage.pseudo_dirs[:] = [""]


@pytest.mark.usefixtures("memory")
def test_photos_at_urls_have_their_urls_as_ids(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(png(7))
    urls = ["memory://set", (tmp_path / "photo.png").as_uri(), "memory://set/awe/9.png"]
    photos = list(given_photos(urls, limit=10**6))
    found = [f"memory:///set/{name}.png" for name in ("awe/0", "awe/1", "fear/0", "fear/1")]
    assert [photo.path for photo in photos] == [*found, *urls[1:]]
    assert all(photo.ids == (photo.path,) for photo in photos)
    decoder = Decoder(size=16)
    for seed, photo in zip((0, 1, 2, 3, 7), photos[:5], strict=True):
        expected = np.asarray(Image.open(io.BytesIO(png(seed)))).transpose(2, 0, 1)
        [pixels] = [each.pixels for each in decoder.finish([photo.begin(decoder)]) if isinstance(each, Photo)]
        assert np.array_equal(pixels, expected)
    with pytest.raises(BadImage, match="missing"):
        photos[5].begin(decoder)


@pytest.mark.usefixtures("memory")
def test_a_storage_that_fails_costs_one_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> bytes:
        raise RuntimeError("no credentials")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", refuse)
    (photo,) = given_photos("memory://set/awe/0.png", limit=10**6)
    with pytest.raises(BadImage, match=r"cannot be read \(RuntimeError: no credentials\)"):
        photo.begin(Decoder(size=16))
    monkeypatch.setattr(MemoryFileSystem, "isdir", refuse)
    (folder,) = given_photos("memory://set", limit=10**6)
    assert isinstance(folder.content, BadImage)


def test_what_fsspec_cannot_read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="the protocol 'nowhere' is unknown"):
        list(given_photos("nowhere://a.png", limit=10))
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(PluginError, match=r"Install s3fs to access S3.* pip install 'multistream\[urls\]'"):
        list(given_photos("s3://bucket/a.png", limit=10))


def test_a_data_set_at_a_url_is_copied_once(memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []
    get_file = MemoryFileSystem.get_file

    def get(self: MemoryFileSystem, path: str, *rest: object, **options: object) -> None:
        copied.append(path)
        get_file(self, path, *rest, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", get)
    table = open_table("memory://set")
    assert table.ids == ("awe/0.png", "awe/1.png", "fear/0.png", "fear/1.png")
    assert table.path(3).read_bytes() == png(3)
    assert len(copied) == 5
    memory.pipe_file("/set/awe/1.png", png(5))
    memory.pipe_file("/set/fear/2.png", png(6))
    memory.rm_file("/set/fear/0.png")
    again = open_table("memory://set")
    assert again.ids == ("awe/0.png", "awe/1.png", "fear/1.png", "fear/2.png")
    assert again.path(1).read_bytes() == png(5)
    assert copied[5:] == ["/set/awe/1.png", "/set/fear/2.png"]


@pytest.mark.usefixtures("memory")
def test_a_copy_that_was_interrupted_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "AT_ONCE", 2)
    copied: list[str] = []
    get_file = MemoryFileSystem.get_file

    def get(self: MemoryFileSystem, path: str, *rest: object, **options: object) -> None:
        copied.append(path)
        if len(copied) == 4:
            raise OSError("the network is down")
        get_file(self, path, *rest, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", get)
    with pytest.raises(DataError, match="the network is down"):
        open_table("memory://set")
    assert len(open_table("memory://set")) == 4
    assert len(copied) == 4 + 3  # two had been copied


def test_layouts_and_lists_at_urls(memory: MemoryFileSystem) -> None:
    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as archive:
        for name, content in (("0.png", png(0)), ("0.cls", b"awe"), ("1.png", png(1)), ("1.cls", b"fear")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    memory.pipe_file("/shards/train-0.tar", shard.getvalue())
    for source in ("webdataset:memory://shards", "webdataset:memory://shards/train-0.tar"):
        table = open_table(source)
        assert table.ids == ("train-0/0.png", "train-0/1.png")
        assert table.path(1).read_bytes() == png(1)
    memory.pipe_file("/set/labels.csv", b"path,label\nawe/0.png,joy\nfear/1.png,fear\n")
    assert open_table("memory://set/labels.csv").ids == ("awe/0.png", "fear/1.png")
    with pytest.raises(DataError, match="there is no file"):
        open_table("memory://nothing")
