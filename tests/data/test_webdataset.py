"""Tar shards in WebDataset's form: ids, parts and labels; what cannot be used is an error that names the sample."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multistream.data import open_table
from multistream.errors import DataError
from multistream.recipe import Recipe
from multistream.training.train import train


def photo(seed: int, form: str = "png") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def shard(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def samples(start: int, count: int) -> list[tuple[str, bytes]]:
    """Photos of two classes, each with its label in .cls."""
    labels = (b"awe", b"fear\n")
    found = []
    for n in range(start, start + count):
        found += [(f"{n:04}.png", photo(n)), (f"{n:04}.cls", labels[n % 2])]
    return found


def test_a_sample_is_the_files_that_share_a_key(tmp_path: Path) -> None:
    shard(tmp_path / "set" / "train-000.tar", samples(0, 4))
    described = ("./a/1.json", b'{"label": "fear", "mood": 3}')
    shard(tmp_path / "set" / "test-000.tgz", [("./a/1.jpg", photo(5, "jpeg")), described])
    table = open_table(f"webdataset:{tmp_path / 'set'}")
    assert table.ids == ("test-000/a/1.jpg", *(f"train-000/{n:04}.png" for n in range(4)))
    assert table.classes == ("awe", "fear")
    assert table.labels.tolist() == [1, 0, 1, 0, 1]
    assert table.parts == ("test", *["train"] * 4)
    assert table.path(1).read_bytes() == photo(0)
    other = open_table(f"webdataset:{tmp_path / 'set' / 'test-000.tgz'}", label="mood")
    assert (other.ids, other.classes) == (("test-000/a/1.jpg",), ("3",))


def test_it_is_unpacked_once_and_again_where_a_shard_changes(tmp_path: Path) -> None:
    file = shard(tmp_path / "a.tar", samples(0, 2))
    first = open_table(f"webdataset:{file}")
    written = first.path(0).stat().st_mtime_ns
    assert open_table(f"webdataset:{file}").path(0).stat().st_mtime_ns == written
    shard(file, samples(2, 4))
    again = open_table(f"webdataset:{file}")
    assert again.root != first.root
    assert len(again.ids) == 4


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([("1.png", photo(1))], r"sample 1: there is no label"),
        ([("1.cls", b"awe")], r"sample 1: no photo is among cls"),
        ([("1.png", photo(1)), ("1.json", b"[1]")], r"its \.json file holds no label"),
        ([("1.png", photo(1)), ("1.json", json.dumps({"label": 1.5}).encode())], r"1\.5 is not a label"),
        ([("1.png", photo(1)), ("1.cls", b" ")], r"' ' is not a label"),
        ([("../1.png", photo(1)), ("../1.cls", b"awe")], r"leads outside the archive"),
        ([*samples(0, 2), ("0000.json", b"{}")], r"sample 0000: the files of one photo are not next to each other"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, members: Sequence[tuple[str, bytes]], says: str) -> None:
    file = shard(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=says):
        open_table(f"webdataset:{file}")
    assert not list(tmp_path.glob("*.png"))


def test_what_is_no_tar(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no \.tar file"):
        open_table(f"webdataset:{tmp_path}")
    (tmp_path / "a.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match="cannot be read as tar"):
        open_table(f"webdataset:{tmp_path}")
    whole = shard(tmp_path / "a.tar", samples(0, 4)).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:2000])
    with pytest.raises(DataError, match="cannot be read as tar"):
        open_table(f"webdataset:{tmp_path}")


def test_a_run_of_shards_is_the_run_of_the_same_files(recipe: Recipe, tmp_path: Path) -> None:
    """Same order of ids, so the same splits, epochs and weights, bit for bit."""
    members = samples(0, 30)
    shard(tmp_path / "a.tar", members)
    for name, content in members[::2]:
        (tmp_path / name).write_bytes(content)
    lines = ["path,label", *(f"{n:04}.png,{('awe', 'fear')[n % 2]}" for n in range(30))]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    found, sources = {}, {"tar": f"webdataset:{tmp_path / 'a.tar'}", "csv": str(tmp_path / "a.csv")}
    sources["url"] = f"webdataset:{(tmp_path / 'a.tar').as_uri()}"
    for name, source in sources.items():
        own = recipe.updated({"data": {"source": source}, "training": {"epochs": 1}})
        found[name] = train(own, out=tmp_path / name).parts["test"].to_dict()
    assert found["tar"] == found["csv"] == found["url"]
