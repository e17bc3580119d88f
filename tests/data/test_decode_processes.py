"""Photos decoded in processes are those that threads decode; a killed process, Ctrl-C and a bad photo are borne."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor
from PIL import Image

from multistream.data import loading
from multistream.data.decode_workers import decode_files, decoded_in_processes
from multistream.data.decoding import BadImage, Decoder, Photo
from multistream.data.loading import Photos, loaded
from multistream.data.prefetch import AHEAD, Prefetch
from multistream.data.table import Table
from multistream.errors import DataError, MemoryExhausted

COUNT = 20
DECODER = Decoder(size=16)
BOTH = Prefetch(AHEAD, processes=True)


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    """No process outlives the tests."""
    yield
    get_reusable_executor().shutdown(wait=True, kill_workers=True)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    chance = np.random.default_rng(0)
    paths = [tmp_path / f"{number:02}.jpg" for number in range(COUNT)]
    for path in paths:
        Image.fromarray(chance.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture
def photos(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> Photos:
    """Twenty photos with vectors, one of them damaged; so few are worth processes here."""
    files[5].write_bytes(files[5].read_bytes()[:400])
    monkeypatch.setattr(loading, "PHOTOS", COUNT)
    monkeypatch.setattr(loading, "CORES", 2)
    ids = tuple(path.name for path in files)
    table = Table("photos", files[0].parent, ids, np.arange(COUNT) % 2, ("awe", "fear"))
    vectors = {"anp": np.arange(2 * COUNT, dtype=np.float32).reshape(COUNT, 2)}
    return Photos(table, DECODER, vectors=vectors, on_bad_image="report")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many processes each call asked for."""
    counts: list[int] = []

    def counting(*arguments: Any, workers: int, **named: Any) -> Iterator[Any]:
        counts.append(workers)
        return decoded_in_processes(*arguments, workers=workers, **named)

    monkeypatch.setattr(loading, "decoded_in_processes", counting)
    return counts


def children() -> set[int]:
    """The processes that this one has started."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(after_name[1]) == os.getpid():
            found.add(int(stat.parent.name))
    return found


def test_batches_are_those_of_threads(photos: Photos, calls: list[int]) -> None:
    order = np.random.default_rng(1).permutation(COUNT)
    threads = list(loaded(photos, order, batch_size=3, workers=2))
    assert calls == []
    processes = list(loaded(photos, order, batch_size=3, workers=2, prefetch=BOTH))
    assert calls == [2]
    assert len(processes) == len(threads) == 7
    for ours, theirs in zip(processes, threads, strict=True):
        assert ours.keys() == theirs.keys() == {"image", "anp", "index"}
        assert all(ours[name].equal(theirs[name]) for name in ours)
    assert photos.bad == {5: "truncated"}


def test_a_bad_photo_stops_where_it_shall(photos: Photos, calls: list[int]) -> None:
    photos.on_bad_image = "error"
    with pytest.raises(BadImage, match=r"05\.jpg: truncated"):
        list(loaded(photos, range(COUNT), batch_size=3, workers=2, prefetch=BOTH))
    assert calls == [2]


@pytest.mark.parametrize("why", ["few photos", "one worker", "maps", "another decoder", "a CPU"])
def test_threads_decode_where_processes_do_not_pay(photos: Photos, calls: list[int], why: str) -> None:
    class Own(Decoder):
        pass

    indices = range(COUNT - (why == "few photos"))
    if why == "maps":
        photos.maps["depth"] = lambda _: np.zeros((1, 16, 16), dtype=np.float32)
    if why == "another decoder":
        photos.decoder = Own(size=16)
    prefetch = Prefetch(AHEAD) if why == "a CPU" else BOTH
    batches = list(loaded(photos, indices, batch_size=8, workers=1 if why == "one worker" else 2, prefetch=prefetch))
    assert calls == []
    assert sum(len(batch["index"]) for batch in batches) == len(indices) - 1


def test_a_photo_that_takes_for_ever_is_named(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> Iterator[Any]:
        raise TimeoutError
        yield

    monkeypatch.setattr(loading, "decoded_in_processes", never)
    with pytest.raises(DataError, match=r"07\.jpg: it is still being read after 300 s"):
        list(loaded(photos, np.roll(np.arange(COUNT), -7), batch_size=3, workers=2, prefetch=BOTH))


def test_a_slow_group_ends_the_processes(files: list[Path]) -> None:
    with pytest.raises(TimeoutError):
        list(decoded_in_processes(DECODER, [files] * 50, workers=1, ahead=0, timeout=1e-9))
    found = decoded_in_processes(DECODER, [files], workers=1, ahead=0, timeout=60)
    assert len(next(found)) == COUNT


def test_a_killed_process_is_told(files: list[Path]) -> None:
    before = children()
    found = decoded_in_processes(DECODER, [files] * 50, workers=2, ahead=0, timeout=60)
    assert all(isinstance(each, Photo) for each in next(found))
    for process in children() - before:
        os.kill(process, signal.SIGKILL)
    with pytest.raises(MemoryExhausted, match="a process that decodes photos was killed") as caught:
        list(found)
    assert "runtime.workers=3" in str(caught.value)
    again = decoded_in_processes(DECODER, [files], workers=2, ahead=0, timeout=60)
    assert len(next(again)) == COUNT


def test_interrupts_are_the_parents(files: list[Path]) -> None:
    get_reusable_executor().shutdown(wait=True, kill_workers=True)
    before = children()
    found = decoded_in_processes(DECODER, [files] * 50, workers=2, ahead=0, timeout=60)
    next(found)
    workers = children() - before
    for process in workers:
        os.kill(process, signal.SIGINT)
    assert sum(map(len, found)) == 49 * COUNT
    assert workers <= children()


def test_what_a_process_does(files: list[Path]) -> None:
    files[1].write_bytes(b"")
    first, second = decode_files(DECODER, files[:2])
    assert isinstance(first, Photo)
    assert np.array_equal(first.pixels, DECODER.read(files[0]))
    assert isinstance(second, BadImage)
    assert second.reason == "empty"


def test_processes_end_after_their_parent(files: list[Path]) -> None:
    code = f"""
import sys, time
from pathlib import Path
from multistream.data import decode_workers
from multistream.data.decoding import Decoder
files = [Path(name) for name in {[str(path) for path in files]!r}]
next(decode_workers.decoded_in_processes(Decoder(size=16), [files] * 50, workers=2, ahead=0, timeout=60))
print("begun", flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "begun\n"
    assert len(members(parent.pid)) > 2
    parent.kill()
    parent.wait()
    end = time.monotonic() + 15
    while members(parent.pid) and time.monotonic() < end:
        time.sleep(0.2)
    assert not members(parent.pid)


def members(session: int) -> list[str]:
    """The living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, *fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if state != "Z" and int(fields[2]) == session:
            found.append(stat.parent.name)
    return found
