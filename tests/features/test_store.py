"""The cache on disk: kills, two processes at once, damage, and shards that are written in good time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from multistream.features import index, store
from multistream.features.store import FeatureStore, Shards
from tests.features.conftest import Ask, make_network
from tests.features.test_cache import same

ROOT = Path(__file__).parents[2]


def filling(folder: Path, *, kill_at: int = 0) -> subprocess.Popen[str]:
    """Another process that fills the cache."""
    command = [sys.executable, "-m", "tests.features.filling", str(folder), "0", str(kill_at)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, **pipes)


def shards(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/*.safetensors"))


def opened(folder: Path, warned: list[str] | None = None) -> FeatureStore:
    return FeatureStore.open(folder, {"stream": "object"}, warn=(warned if warned is not None else []).append)


def features(rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return {"one": torch.rand(rows, 3, generator=chance), "two": torch.rand(rows, 5, generator=chance)}


def test_a_killed_process_costs_what_was_not_yet_a_shard(ask: Ask, folder: Path, own_cache: Path) -> None:
    """Killed with -9 while it writes its second shard: the first is whole, the next process computes the rest."""
    process = filling(folder, kill_at=2)
    _, err = process.communicate()
    assert process.returncode == -9, err
    assert len(shards(own_cache)) == 1
    assert list(own_cache.glob("*/.tmp-*"))
    found, said, ran = ask(make_network())
    assert said == ["features: computing object for 28 images, 32 loaded from cache"]
    assert ran == 32
    assert not list(own_cache.glob("*/.tmp-*"))
    assert same(found.features, ask(make_network(), cache=False)[0].features)


def test_two_processes_fill_one_cache(ask: Ask, folder: Path, own_cache: Path) -> None:
    both = [filling(folder), filling(folder)]
    for process in both:
        _, err = process.communicate()
        assert process.returncode == 0, err
    found, said, ran = ask(make_network())
    assert ran == 0
    assert said == ["features: object loaded from cache, 60 images"]
    assert len(shards(own_cache)) == 2, "equal shards are one file"
    assert same(found.features, ask(make_network(), cache=False)[0].features)


@pytest.mark.parametrize("trial", [t if t in (0, 4, 9) else pytest.param(t, marks=pytest.mark.slow) for t in range(12)])
def test_a_flipped_bit_or_a_cut_is_noticed_and_made_good(ask: Ask, own_cache: Path, trial: int) -> None:
    before = ask(make_network())[0]
    (shard,) = shards(own_cache)
    content = bytearray(shard.read_bytes())
    if trial % 3 == 0:
        content = content[: len(content) * trial // 12]
    else:
        content[len(content) * trial // 12 + trial] ^= 1 << trial % 8
    shard.write_bytes(content)
    found, said, ran = ask(make_network())
    assert ran > 0
    assert str(shard) in said[0]
    assert "damaged" in said[0]
    assert said[1] == "features: computing object for 60 images, 0 loaded from cache"
    assert same(before.features, found.features)
    assert shards(own_cache) == [shard], "what is computed again has the same bytes, hence the same name"
    assert ask(make_network())[1] == ["features: object loaded from cache, 60 images"]


def test_a_shard_that_goes_meanwhile_is_computed_anew(tmp_path: Path) -> None:
    warned: list[str] = []
    one, other = opened(tmp_path, warned), opened(tmp_path)
    other.add(["a", "b"], features(2))
    one.refresh()
    assert "a" in one
    next(other.folder.glob("*.safetensors")).unlink()
    assert one.read(["b", "a"], {}, [0, 1]) == [0, 1]
    assert "a" not in one
    assert warned == []


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    opened(tmp_path).add(["a", "b"], features(2))
    again = opened(tmp_path)
    again.add(["c"], features(1, seed=1))
    into = {"one": torch.zeros(5, 3), "two": torch.zeros(5, 5)}
    assert again.read(["c", "9", "a"], into, [4, 3, 0]) == [1]
    for stage, values in into.items():
        assert torch.equal(values[0], features(2)[stage][0])
        assert torch.equal(values[4], features(1, seed=1)[stage][0])
        assert not values[[1, 2, 3]].any()


def test_shards_are_written_when_full_or_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SHARD", 4)
    clock = [0.0]
    own = opened(tmp_path)
    writer = Shards(own, clock=lambda: clock[0])

    def written() -> int:
        return len(list(own.folder.glob("*.safetensors")))

    writer.add(["a", "b"], features(2))
    assert written() == 0
    writer.add(["c", "d"], features(2, seed=1))
    assert written() == 1
    writer.add(["e"], features(1, seed=2))
    assert written() == 1
    clock[0] = store.SECONDS
    writer.add(["f", "a"], features(2, seed=3))
    assert written() == 2
    assert own.read(["a"], into := {"one": torch.zeros(1, 3), "two": torch.zeros(1, 5)}, [0]) == []
    assert torch.equal(into["one"], features(2)["one"][:1]), "what is there already is not written again"


def test_an_interruption_keeps_what_was_computed(ask: Ask, folder: Path) -> None:
    """Ctrl-C between two groups: the finished one is in the cache, though no shard was full."""
    import numpy as np

    from multistream.features import extract
    from tests.features.conftest import ON_CPU, make_photos

    def stop(done: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(make_network(), make_photos(folder), np.arange(60), runtime=ON_CPU, workers=0, tick=stop, say=str)
    assert ask(make_network())[1] == ["features: computing object for 28 images, 32 loaded from cache"]


@pytest.fixture
def indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """A store of twelve shards of two files each, whose index is written at the ninth."""
    monkeypatch.setattr(store, "UNSAVED", 9)
    own = opened(tmp_path)
    for number in range(12):
        own.add(NAMES[2 * number : 2 * number + 2], features(2, seed=number))
    return own


NAMES = [hashlib.sha256(bytes([number])).hexdigest() for number in range(24)]


def headers_read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The shards whose headers are read from now on."""
    read: list[Path] = []
    monkeypatch.setattr(store, "files_of", lambda shard: read.append(shard) or index.files_of(shard))
    return read


def assert_whole(own: FeatureStore, names: Sequence[str] = NAMES) -> None:
    """All of `indexed` is there, each row where it belongs."""
    into = {"one": torch.zeros(len(names), 3), "two": torch.zeros(len(names), 5)}
    assert own.read(names, into, range(len(names))) == []
    for row, name in enumerate(names):
        shard, place = divmod(NAMES.index(name), 2)
        assert all(torch.equal(into[stage][row], features(2, seed=shard)[stage][place]) for stage in into)


def test_an_index_spares_the_headers(indexed: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = headers_read(monkeypatch)
    warned: list[str] = []
    assert_whole(opened(tmp_path, warned), NAMES[::-1])
    assert len(read) == 3, "of the shards that are newer than the index, and of no other"
    assert warned == []
    assert (indexed.folder / index.INDEX).is_file()


@pytest.mark.parametrize("trial", range(8))
def test_a_damaged_index_is_noticed_and_built_again(
    indexed: FeatureStore, tmp_path: Path, trial: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = indexed.folder / index.INDEX
    content = bytearray(path.read_bytes())
    if trial < 2:
        content = content[: len(content) * trial // 2]
    else:
        content[len(content) * trial // 8 - 1] ^= 1 << trial
    path.write_bytes(content)
    read, warned = headers_read(monkeypatch), list[str]()
    assert_whole(opened(tmp_path, warned))
    assert len(read) == 12
    assert warned == [f"features: {path} is damaged (its bytes have changed); it is built again from the shards"]
    read.clear()
    assert_whole(opened(tmp_path, warned))
    assert (len(read), len(warned)) == (0, 1)


def test_an_index_of_shards_that_are_gone_is_not_believed(indexed: FeatureStore, tmp_path: Path) -> None:
    gone = indexed.folder / indexed.index.shards[4]
    gone.unlink()
    warned: list[str] = []
    own = opened(tmp_path, warned)
    assert warned == [f"features: {own.folder} lacks 1 of its shards; their features are computed again"]
    assert own.read(NAMES, {}, range(24)) == [8, 9]
    own.add(NAMES[8:10], features(2, seed=4))
    assert_whole(own)
    assert_whole(opened(tmp_path))


def test_shards_that_are_gone_are_reported_once(
    indexed: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "UNSAVED", 64)
    (indexed.folder / indexed.index.shards[4]).unlink()
    warned: list[str] = []
    for _ in range(2):
        assert opened(tmp_path, warned).read(NAMES, {}, range(24)) == [8, 9]
    assert len(warned) == 1


def test_an_entry_that_is_not_the_shards_own_is_not_believed(indexed: FeatureStore, tmp_path: Path) -> None:
    """The sum of the bytes is right, what they say is wrong: rows of one shard are exchanged."""
    indexed.index.fold()
    indexed.index.rows = 1 - indexed.index.rows
    indexed.index.numbers[0] = (indexed.index.numbers[0] + 1) % 12
    indexed.index.rows[5] = 7
    indexed.index.save(indexed.folder)
    assert opened(tmp_path).read(NAMES, {}, range(24)) == list(range(24))


def test_two_files_whose_hashes_begin_alike_are_two(tmp_path: Path) -> None:
    own = opened(tmp_path)
    own.add(["a" * 64], features(1))
    assert own.read(["a" * 63 + "b"], {}, [0]) == [0]


def test_many_new_files_are_sorted_into_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "FOLD", 5)
    own = opened(tmp_path)
    for number in range(12):
        own.add(NAMES[2 * number : 2 * number + 2], features(2, seed=number))
    assert len(own.index.keys) > 5
    assert_whole(own)
