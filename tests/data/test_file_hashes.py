"""Hashing of many files: the right bytes, each file once, whatever changed, in little memory."""

from __future__ import annotations

import hashlib
import os
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from multistream.data import file_hashes
from multistream.data.file_hashes import digests_at, digests_of, hashes_of_files
from multistream.data.hash_index import SETTLED, HashIndex
from multistream.data.table import Table
from multistream.errors import DataError, MultistreamWarning

LONG_AGO = 1_600_000_000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MULTISTREAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing takes place so long after the files were written that their state counts."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 2 * SETTLED)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read, by name."""
    names: list[str] = []
    plain = file_hashes._sha256

    def counted(path: str) -> bytes:
        names.append(Path(path).name)
        return plain(path)

    monkeypatch.setattr(file_hashes, "_sha256", counted)
    return names


def table_of(root: Path, count: int) -> Table:
    root.mkdir(exist_ok=True)
    ids = tuple(f"{i}.jpg" for i in range(count))
    for i, name in enumerate(ids):
        (root / name).write_bytes(f"photo {i}".encode())
    return Table("set", root, ids, np.zeros(count, np.int64), ("joy",))


def true_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_photo_has_the_hash_of_its_bytes(tmp_path: Path) -> None:
    table = table_of(tmp_path / "set", 200)
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count

    digests = digests_of(table, range(50, 200), tick=tick)
    assert done == len(digests) == 150
    assert dict(digests) == {i: true_hash(table.path(i)) for i in range(50, 200)}
    with pytest.raises(KeyError):
        digests[49]


def test_a_file_larger_than_what_is_read_at_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(2**18 + 1))
    (found,) = hashes_of_files([tmp_path / "a"], count=1, folder=tmp_path)
    assert found.tobytes().hex() == true_hash(tmp_path / "a")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"b: it cannot be read: No such file"):
        hashes_of_files([tmp_path / "b"], count=1, folder=tmp_path)


def test_digests_that_other_ranks_found() -> None:
    digests = digests_at(np.array([2, 0]), np.array([[1] * 32, [2] * 32], np.uint8), size=4)
    assert list(digests) == [0, 2]
    assert digests[2] == "01" * 32


@pytest.mark.usefixtures("later")
def test_a_second_call_reads_only_what_has_changed(tmp_path: Path, read: list[str]) -> None:
    table = table_of(tmp_path / "set", 100)
    first = digests_of(table, range(100))
    assert len(read) == 100
    read.clear()
    (table.root / "7.jpg").write_bytes(b"photo X")  # as long as before
    (table.root / "new.jpg").write_bytes(b"new")
    os.replace(table.root / "new.jpg", table.root / "8.jpg")
    second = digests_of(table, range(100))
    assert sorted(read) == ["7.jpg", "8.jpg"]
    assert second[7] == true_hash(table.path(7)) != first[7]
    assert {**second, 7: "", 8: ""} == {**first, 7: "", 8: ""}


@pytest.mark.usefixtures("later")
def test_bytes_that_change_under_the_old_times_are_noticed(tmp_path: Path, read: list[str]) -> None:
    table = table_of(tmp_path / "set", 1)
    os.utime(table.path(0), (LONG_AGO, LONG_AGO))
    digests_of(table, [0])
    table.path(0).write_bytes(b"photo X")
    os.utime(table.path(0), (LONG_AGO, LONG_AGO))
    assert digests_of(table, [0])[0] == true_hash(table.path(0))
    assert len(read) == 2


def test_what_was_written_a_moment_ago_is_read_again(tmp_path: Path, read: list[str], cache: Path) -> None:
    """A second write within a clock tick leaves size and times as they are."""
    table = table_of(tmp_path / "set", 3)
    for _ in range(2):
        digests_of(table, range(3))
    assert len(read) == 6
    assert not cache.exists()


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_index_only_costs_time(tmp_path: Path, read: list[str], cache: Path, damage: bytes | None) -> None:
    table = table_of(tmp_path / "set", 5)
    first = digests_of(table, range(5))
    (file,) = (cache / "hashes").iterdir()
    content = bytearray(file.read_bytes())
    content[50] ^= 1
    file.write_bytes(content if damage is None else damage)
    assert dict(digests_of(table, range(5))) == dict(first)
    assert len(read) == 10


@pytest.mark.usefixtures("later")
def test_what_was_hashed_before_an_error_is_kept(tmp_path: Path, read: list[str]) -> None:
    table = table_of(tmp_path / "set", 5000)
    table.path(4999).unlink()
    with pytest.raises(DataError, match=r"4999.jpg: it cannot be read"):
        digests_of(table, range(5000))
    read.clear()
    digests_of(table, range(4000))
    assert not read


@pytest.mark.usefixtures("later")
def test_two_processes_that_hash_other_parts_keep_both(tmp_path: Path, read: list[str]) -> None:
    table = table_of(tmp_path / "set", 10)
    before = HashIndex.load(table.root)  # the second one opens before the first has saved
    digests_of(table, range(5))
    before.save(before.rows)
    digests_of(table, range(5, 10))
    read.clear()
    digests_of(table, range(10))
    assert not read


@pytest.mark.usefixtures("later")
def test_a_cache_that_cannot_be_written_is_told_once(tmp_path: Path, cache: Path) -> None:
    table = table_of(tmp_path / "set", 3)
    cache.write_text("in the way")
    with pytest.warns(MultistreamWarning, match=r"hashes: the cache is not writable"):
        digests = digests_of(table, range(3))
    assert digests[2] == true_hash(table.path(2))


def test_the_memory_of_a_hashed_photo(tmp_path: Path) -> None:
    """A future for each file took 2 kB, and each digest as text 113 bytes more."""
    (tmp_path / "a").write_bytes(b"photo")
    count = 20_000
    table = Table("set", tmp_path, ("a",) * count, np.zeros(count, np.int64), ("joy",))
    digests_of(table, range(10))
    tracemalloc.start()
    digests_of(table, np.arange(count))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / count < 300
