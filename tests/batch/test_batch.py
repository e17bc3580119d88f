"""Batches: a callable over arrays gives the plain command's bits, in one process and on Ray Data."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import multistream as ms
from multistream.errors import DataError, PluginError, WeightsError
from multistream.recipe import Recipe
from multistream.training.train import train


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one photo stream."""
    recipe = Recipe().updated(
        {
            "data": {"source": str(photos), "image_size": 32, "split": "80/10/10"},
            "network": {"streams": {"object": "object"}, "weights": {"object": "random"}, "freeze": ["streams"]},
            "training": {"epochs": 1, "patience": 0},
            "runtime": {"device": "cpu", "precision": "fp32", "workers": 0},
        }
    )
    return train(recipe, out=tmp_path_factory.mktemp("batch") / "run").folder


@pytest.fixture(scope="module")
def paths(photos: Path) -> list[Path]:
    return sorted(photos.rglob("*.png"))


@pytest.fixture(scope="module")
def plain(run: Path, paths: list[Path]) -> NDArray[np.float64]:
    """What the plain command gives."""
    return np.array([list(each.probabilities.values()) for each in ms.load(run).predict(paths, device="cpu")])


def contents(paths: list[Path]) -> NDArray[np.object_]:
    column = np.empty(len(paths), dtype=object)
    column[:] = [path.read_bytes() for path in paths]
    return column


def test_a_batch_gives_the_plain_commands_bits(run: Path, paths: list[Path], plain: NDArray[np.float64]) -> None:
    predictor = pickle.loads(pickle.dumps(ms.batch.Predictor(run, device="cpu")))
    found = predictor({"bytes": contents(paths), "number": np.arange(len(paths))})
    assert np.array_equal(found["probabilities"], plain)
    assert found["number"].tolist() == list(range(len(paths)))
    assert set(found["status"]) == {"ok"}
    parts = [predictor({"path": np.array(paths[i : i + 7], dtype=str)}) for i in range(0, len(paths), 7)]
    assert np.array_equal(np.concatenate([part["probabilities"] for part in parts]), plain)


def test_bad_rows_have_a_status(run: Path, paths: list[Path]) -> None:
    column = contents(paths[:3])
    column[1] = b"no photo"
    column[2] = {"bytes": column[0], "path": None}
    found = ms.batch.Predictor(run, device="cpu")({"image": column})
    assert found["status"].tolist() == ["ok", "not an image", "ok"]
    assert np.isnan(found["probabilities"][1]).all()
    assert found["label"][1] == ""
    assert np.array_equal(found["probabilities"][0], found["probabilities"][2])
    with pytest.raises(DataError, match="it has no photos"):
        ms.batch.Predictor(run, device="cpu")({"x": np.zeros(2)})


def test_features_are_those_of_the_network(run: Path, paths: list[Path]) -> None:
    found = ms.batch.Extractor(run, device="cpu")({"path": np.array(paths[:5], dtype=str)})
    model = ms.load(run)
    stages = list(model.network.branches["object"].taps)
    assert {f"object/{stage}" for stage in stages} <= set(found)
    assert all(np.isfinite(found[f"object/{stage}"]).all() for stage in stages)
    with pytest.raises(WeightsError, match="none were given"):
        ms.batch.Extractor("object")
    named = ms.batch.Extractor("object", weights={"object": "random"}, image_size=32, device="cpu")
    assert named({"path": np.array(paths[:2], dtype=str)})["status"].tolist() == ["ok", "ok"]


def test_an_extractor_is_pickled_with_all_that_it_needs(run: Path, paths: list[Path]) -> None:
    extractor = ms.batch.Extractor(run, device="cpu")
    batch = {"bytes": contents(paths[:5])}
    found, again = extractor(batch), pickle.loads(pickle.dumps(extractor))(batch)
    assert list(found) == list(again)
    stages = [name for name in found if "/" in name]
    assert stages
    assert all(np.array_equal(found[name], again[name]) for name in stages)


def test_without_ray_the_message_says_what_to_install(
    run: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from multistream.batch.ray_engine import predict_with_ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PluginError, match=r"multistream\[ray\]"):
        list(predict_with_ray(run, [str(paths[0])], missing="", without=(), say=print))


def test_ray_gives_the_plain_commands_bits(run: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    from multistream.batch.ray_engine import predict_with_ray

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    many = [str(path) for path in [*paths, *paths, *paths]][:128]
    expected = [each.probabilities for each in ms.load(run).predict(many, device="cpu")]
    found = list(predict_with_ray(run, many, missing="", without=(), say=print))
    assert [each.path for each in found] == many
    assert [each.probabilities for each in found] == expected


@pytest.mark.slow
def test_extraction_on_ray_gives_the_same_bits_and_continues(run: Path, paths: list[Path], tmp_path: Path) -> None:
    """128 photos; then one file of rows is lost, and its photos alone are computed again."""
    ray = pytest.importorskip("ray")
    from multistream.batch.ray_engine import extract_with_ray

    (tmp_path / "photos").mkdir()
    for number in range(128):
        (tmp_path / "photos" / f"{number:03}.png").write_bytes(paths[number % len(paths)].read_bytes())
    names = sorted(str(path) for path in (tmp_path / "photos").iterdir())
    expected = ms.batch.Extractor(run, device="cpu")({"path": np.array(names, dtype=str)})
    out, said = tmp_path / "features.parquet", list[str]()
    for _ in range(2):
        assert extract_with_ray(run, str(tmp_path / "photos"), out, options={}, say=said.append) == {"ok": 128}
        rows = sorted(ray.data.read_parquet(str(out)).take_all(), key=lambda row: str(row["path"]))
        assert [row["path"] for row in rows] == names
        for stage in (name for name in expected if "/" in name):
            assert np.array_equal(np.stack([row[stage] for row in rows]), expected[stage])
        written = sorted(out.glob("*.parquet"))
        written[0].unlink()
    assert len([line for line in said if "are already done" in line]) == (1 if len(written) > 1 else 0)
