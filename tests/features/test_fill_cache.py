"""multistream extract: fill, verify, write; and any network as a vector stream."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from multistream.errors import DataError, UsageError
from multistream.features import fill_cache, store
from multistream.features.fill_cache import extract
from multistream.recipe import Recipe
from multistream.training.train import train
from tests.features.test_cache import Own

NUMBERS = {"block1": 16, "block2": 24, "block3": 32, "block4": 96, "block5": 320}


def test_fills_what_training_reads(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from multistream.console import Console

    first = extract(recipe)
    again = extract(recipe)
    assert [(row.found, row.computed) for row in (*first.streams, *again.streams)] == [(0, 60), (60, 0)]
    assert first.images_per_second > 0
    assert again.images_per_second == 0
    run = train(recipe, out=tmp_path / "run", console=Console(quiet=False)).folder
    assert "object loaded from cache, 60 images" in capsys.readouterr().err
    assert extract(run, device="cpu").streams[0].computed == 0


def test_a_run_with_an_instance_is_extracted_and_profiled(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stream that the recipe names is extracted; the instance's settings are in no key, which is said."""
    from multistream.console import Console
    from multistream.profiling.profile import profile

    own = {"mine": Own()}
    run = train(recipe.with_settings(["training.epochs=1"]), out=tmp_path / "run", streams=own).folder
    with pytest.raises(UsageError, match="'mine' was given as a Python object"):
        extract(run, device="cpu")
    done = extract(run, device="cpu", streams=own, console=Console(quiet=False))
    assert [row.stream for row in done.streams] == ["object"]
    assert "mine not extracted: given as a Python object" in capsys.readouterr().err
    found = profile(run, streams=own, repeats=1, sweep=())
    assert {row.stream for row in found.rows} >= {"object", "mine"}


def test_views_are_kept_side_by_side(recipe: Recipe, tmp_path: Path) -> None:
    done = extract(recipe, views=("identity", "hflip"))
    assert len({row.folder for row in done.streams}) == 2
    turned = train(recipe.updated({"training": {"flips": ["horizontal"]}}), out=tmp_path / "run")
    assert turned.parts["test"].n == 6
    assert extract(recipe, views=("hflip",)).streams[0].computed == 0


def test_the_file_holds_what_the_streams_give(recipe: Recipe, tmp_path: Path) -> None:
    done = extract(recipe, out=tmp_path / "all.npz", views=("identity", "hflip"))
    with np.load(tmp_path / "all.npz") as arrays:
        ids, features, names = arrays["ids"], arrays["features"], arrays["vocabulary"].tolist()
    assert features.shape == (60, 2 * sum(NUMBERS.values()))
    assert done.width == features.shape[1] == len(set(names))
    assert names[:2] == ["object/block1/0", "object/block1/1"]
    assert names[-1] == "object.hflip/block5/319"
    shards = [load_file(path) for row in done.streams[:1] for path in Path(row.folder).glob("*.safetensors")]
    kept = torch.cat([shard["block3"] for shard in shards])
    start = names.index("object/block3/0")
    assert sorted(map(tuple, kept.tolist())) == sorted(map(tuple, features[:, start : start + 32].tolist()))
    assert len(set(ids)) == 60
    extract(recipe, out=tmp_path / "some.npz", stages=("block2", "object/block4"))
    with np.load(tmp_path / "some.npz") as arrays:
        assert arrays["features"].shape == (60, 24 + 96)
        assert np.array_equal(arrays["features"][:, 24:], features[:, 72:168])
    assert not list(tmp_path.glob(".tmp-*"))


def test_any_network_is_a_vector_stream(recipe: Recipe, tmp_path: Path) -> None:
    """Trained on the last stage's features as vectors, alone and beside the stream that they come from."""
    extract(recipe, out=tmp_path / "object.npz", stages=("block5",))
    words = recipe.updated(
        {
            "network": {
                "streams": {"anp": "anp"},
                "weights": {},
                "freeze": [],
                "inputs": {"anp": str(tmp_path / "object.npz")},
            },
            "training": {"epochs": 60, "learning_rate": 0.01},
        }
    )
    run = train(words, out=tmp_path / "run")
    assert run.parts["train"].accuracy > 0.7, "chance is a third"
    both = words.updated(
        {
            "network": {
                "streams": {"object": "object", "anp": "anp"},
                "weights": {"object": "random"},
                "freeze": ["streams"],
            }
        }
    )
    assert train(both, out=tmp_path / "both").parts["test"].n == 6


def test_verify_compares_all_or_a_sample(recipe: Recipe) -> None:
    extract(recipe)
    every = extract(recipe, sample=0, views=("identity", "hflip")).verified
    some = extract(recipe, sample=7).verified
    assert every is not None
    assert some is not None
    assert (every.images, every.numbers) == (60, 2 * 60 * sum(NUMBERS.values()))
    assert (some.images, some.numbers) == (7, 7 * sum(NUMBERS.values()))


def test_verify_names_the_image_that_differs(recipe: Recipe) -> None:
    """A shard with one wrong number, whole by its name: only computing again can tell."""
    import hashlib

    done = extract(recipe)
    (shard,) = Path(done.streams[0].folder).glob("*.safetensors")
    from safetensors import safe_open

    with safe_open(shard, framework="pt") as stored:
        about = stored.metadata()
    tensors = load_file(shard)
    tensors["block4"][23, 5] += 1e-6
    shard.unlink()
    save_file(tensors, shard, metadata=about)
    shard.rename(shard.with_stem(hashlib.sha256(shard.read_bytes()).hexdigest()))
    from multistream.data.layouts.data_source import open_table

    with pytest.raises(DataError, match=r"differs from the cache at block4") as raised:
        extract(recipe, sample=0)
    assert open_table(recipe.data.source).ids[23] in str(raised.value)


def test_a_photo_that_cannot_be_decoded_is_named_and_left_out(recipe: Recipe, tmp_path: Path) -> None:
    path = sorted(Path(recipe.data.source).rglob("*.png"))[3]
    path.write_bytes(b"")
    name = path.relative_to(recipe.data.source).as_posix()
    done = extract(recipe, out=tmp_path / "out.npz", sample=0)
    assert done.bad == {name: "empty"}
    assert done.streams[0].computed == 59
    with np.load(tmp_path / "out.npz") as arrays:
        assert len(arrays["ids"]) == 59
        assert name not in arrays["ids"]
        assert np.abs(arrays["features"]).sum(1).all()


def test_memory_does_not_grow_with_the_features(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more rows are ever gathered than a shard and a group hold."""
    monkeypatch.setattr(store, "SHARD", 32)
    written: list[int] = []
    plain = store.FeatureStore.add
    monkeypatch.setattr(
        store.FeatureStore, "add", lambda self, hashes, f: written.append(len(hashes)) or plain(self, hashes, f)
    )
    extract(recipe)
    assert written == [32, 28]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stages": ("block9",)}, "block9"),
        ({"out": "features.csv"}, "npz"),
        ({"views": ("sideways",)}, "sideways"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_work_begins(
    recipe: Recipe, change: dict[str, object], words: str, own_cache: Path
) -> None:
    with pytest.raises((UsageError, DataError), match=words):
        extract(recipe, **change)  # type: ignore[arg-type]
    assert not own_cache.exists()


def test_missing_weights_are_refused(recipe: Recipe) -> None:
    from multistream.errors import WeightsError

    bare = replace(recipe, network=replace(recipe.network, weights={}))
    with pytest.raises(WeightsError, match="none were given"):
        extract(bare)


def test_vectors_need_no_extraction(recipe: Recipe, tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", ids=np.array(["awe/00.png"]), features=np.ones((1, 2), np.float32))
    changes = {"streams": {"anp": "anp"}, "weights": {}, "freeze": [], "inputs": {"anp": str(tmp_path / "v.npz")}}
    with pytest.raises(UsageError, match="no stream reads images"):
        extract(recipe.updated({"network": changes}))


def test_the_command_as_a_user_types_it(folder: Path, tmp_path: Path) -> None:
    words = f"--streams object --weights object=random --data {folder} --device cpu --precision fp32 --json -q"
    words += f" --set data.image_size=32 --views identity,hflip --verify --sample 5 --out {tmp_path / 'f.npz'}"
    command = [sys.executable, "-m", "multistream", "extract", *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert [(row["stream"], row["view"], row["computed"]) for row in found["streams"]] == [
        ("object", "identity", 60),
        ("object", "hflip", 60),
    ]
    assert found["verified"]["images"] == 5
    assert found["images_per_second"] > 0
    assert found["width"] == 2 * sum(NUMBERS.values())


def test_workers_and_threads_are_the_recipes(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    plain = fill_cache.run_tasks

    def watching(*arguments: Any, workers: int, **named: Any) -> Any:
        seen.append((workers, torch.get_num_threads()))
        return plain(*arguments, workers=workers, **named)

    monkeypatch.setattr(fill_cache, "run_tasks", watching)
    before = torch.get_num_threads()
    monkeypatch.setattr(fill_cache, "verify", lambda *_, workers, **__: seen.append((workers, torch.get_num_threads())))
    extract(recipe.updated({"runtime": {"workers": 3, "threads": before + 1}}), sample=2)
    assert seen == [(3, before + 1)] * 2
    assert torch.get_num_threads() == before
