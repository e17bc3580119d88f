"""predict --out: a second call continues, from whatever a first one left, to the same file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import multistream as ms
from multistream.errors import CannotResume, UsageError
from multistream.inference import prediction_writer
from multistream.inference.model import Model
from multistream.inference.prediction_writer import write_predictions_of
from multistream.recipe import Recipe
from multistream.training.train import train

OPTIONS: dict[str, Any] = {"device": "cpu", "missing": "", "without": (), "inputs": {}}


@pytest.fixture(scope="module")
def model(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    recipe = Recipe().updated(
        {
            "data": {"source": str(photos), "image_size": 32, "split": "80/10/10"},
            "network": {"streams": {"object": "object"}, "weights": {"object": "random"}, "freeze": ["streams"]},
            "training": {"epochs": 1, "patience": 0},
            "runtime": {"device": "cpu", "precision": "fp32", "workers": 0},
        }
    )
    return ms.load(train(recipe, out=tmp_path_factory.mktemp("predict") / "run").folder)


@pytest.fixture
def listed(photos: Path, tmp_path: Path) -> list[str]:
    """Sixty photos, one of which is none."""
    (tmp_path / "none.png").write_bytes(b"no photo")
    return [*map(str, sorted(photos.rglob("*.png"))), str(tmp_path / "none.png")]


def test_lines_continue_after_a_crash(model: Model, listed: list[str], tmp_path: Path) -> None:
    said: list[str] = []
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    statuses = write_predictions_of(model, listed, whole, options=OPTIONS, say=said.append)
    assert statuses == {"ok": 60, "not an image": 1}
    write_predictions_of(model, listed[:40], cut, options=OPTIONS, say=said.append)
    with cut.open("a") as file:
        file.write('{"path": "half')
    assert write_predictions_of(model, listed, cut, options=OPTIONS, say=said.append) == statuses
    assert cut.read_bytes() == whole.read_bytes()
    assert [json.loads(line)["path"] for line in whole.read_text().splitlines()] == listed
    assert said == ["predict: 40 photos are already done"]


def test_a_first_line_that_a_crash_cut_off_is_written_again(model: Model, listed: list[str], tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    for out in (whole, cut):
        write_predictions_of(model, listed[:2], out, options=OPTIONS, say=str)
    cut.write_bytes(whole.read_bytes()[:10])
    write_predictions_of(model, listed[:2], cut, options=OPTIONS, say=str)
    assert cut.read_bytes() == whole.read_bytes()


def test_urls_are_their_own_names_and_continue(model: Model, photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.rglob("*.png"))
    urls = [file.as_uri() for file in files] + [(tmp_path / "gone.png").as_uri()]
    out, said = tmp_path / "out.jsonl", list[str]()
    write_predictions_of(model, urls[:50], out, options=OPTIONS, say=said.append)
    assert write_predictions_of(model, urls, out, options=OPTIONS, say=said.append) == {"ok": 60, "missing": 1}
    assert said == ["predict: 50 photos are already done"]
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["path"] for line in lines] == urls
    plain = [each.probabilities for each in model.predict(map(str, files), device="cpu")]
    assert [line["probabilities"] for line in lines[:-1]] == plain


def test_parquet_continues_with_the_part_that_is_missing(
    model: Model, listed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(prediction_writer, "PART", 20)
    out, said = tmp_path / "out.parquet", list[str]()
    statuses = write_predictions_of(model, listed, out, options=OPTIONS, say=said.append)
    parts = sorted(out.glob("part-*.parquet"))
    assert [parquet.read_table(part).num_rows for part in parts] == [20, 20, 20, 1]
    before = [parquet.read_table(part).to_pydict() for part in parts]
    for part in parts[2:]:
        part.unlink()
    assert write_predictions_of(model, listed, out, options=OPTIONS, say=said.append) == statuses
    assert [parquet.read_table(part).to_pydict() for part in parts] == before
    assert said == ["predict: 40 photos are already done"]


def test_another_list_or_other_options_are_refused(model: Model, listed: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    write_predictions_of(model, listed[:3], out, options=OPTIONS, say=str)
    with pytest.raises(CannotResume, match="The photos must be the same, in the same order"):
        write_predictions_of(model, listed[1:], out, options=OPTIONS, say=str)
    with pytest.raises(CannotResume, match="started with another missing"):
        write_predictions_of(model, listed, out, options={**OPTIONS, "missing": "drop"}, say=str)
    with pytest.raises(UsageError, match="has an unknown format"):
        write_predictions_of(model, listed, tmp_path / "out.csv", options=OPTIONS, say=str)
