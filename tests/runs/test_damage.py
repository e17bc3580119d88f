"""Files of a run, each cut and flipped 100 times: our own error or the same result, never a traceback."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from multistream import runs
from multistream.comparison.run_results import read_result
from multistream.errors import MultistreamError
from multistream.recipe import Recipe
from multistream.runs.composition import compose
from multistream.runs.model_file import MODEL_FILE, load_model, save_model
from multistream.runs.predictions_file import Predictions, read_predictions, write_predictions
from multistream.runs.split_file import SplitRow, read_split, write_rows

Read = Callable[[Path], object]

TRIALS = 100
RECIPE = Recipe().updated({"network": {"streams": {"anp": "anp"}}})


def _predictions() -> Predictions:
    chance = np.random.default_rng(0)
    return Predictions(
        paths=("a.jpg", "b.jpg", "c.jpg"),
        sha256=tuple(f"{i:064x}" for i in range(3)),
        labels=("awe", "fear", "awe"),
        probabilities=chance.dirichlet((1.0, 1.0), 3),
        classes=("awe", "fear"),
    )


def make_run(folder: Path) -> Path:
    """A finished run of a vector stream, without the training."""
    network = compose({"anp": "anp"}, classes=["awe", "fear"], known={"anp": {"width": 5}})
    network.mark_trained()
    save_model(network, folder / MODEL_FILE, recipe=RECIPE)
    (folder / runs.RECIPE).write_text(RECIPE.dumps())
    write_rows(folder / runs.SPLIT, [SplitRow(f"{i}.jpg", "awe", "test", f"{i:064x}") for i in range(3)])
    write_predictions(folder / runs.PREDICTIONS, _predictions())
    for epoch in range(4):
        runs.append_line(folder / runs.METRICS, {"epoch": epoch, "loss": 1 / (1 + epoch)})
    summary = {"data": {"name": "set"}, "parameters": {"total": 5, "trainable": 5}, "epochs": 4, "best_epoch": 3}
    runs.write_json(folder / runs.SUMMARY, summary)
    runs.write_checksums(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


def _model(path: Path) -> object:
    model = load_model(path)
    return {name: tensor.tolist() for name, tensor in model.network.state_dict().items()}


READERS: dict[str, Read] = {
    runs.SUMMARY: lambda path: runs.read_summary(path.parent),
    runs.METRICS: runs.read_lines,
    runs.SPLIT: read_split,
    runs.PREDICTIONS: lambda path: read_predictions(path).probabilities.tolist(),
    runs.RECIPE: lambda path: Recipe.load(path.parent),
    MODEL_FILE: _model,
}


def damaged(whole: bytes, chance: random.Random) -> bytes:
    """Cut somewhere, or one bit flipped."""
    if chance.random() < 0.5:
        return whole[: chance.randrange(len(whole))]
    bit = chance.randrange(8 * len(whole))
    flipped = bytearray(whole)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


@pytest.mark.parametrize("sealed", [True, False], ids=["with checksums", "without"])
@pytest.mark.parametrize("name", READERS)
def test_damage_is_our_error_and_never_another_result(run: Path, tmp_path: Path, name: str, sealed: bool) -> None:
    read, whole, chance = READERS[name], (run / name).read_bytes(), random.Random(name)
    before = read(run / name)
    if sealed:
        (tmp_path / runs.SUMS).write_bytes((run / runs.SUMS).read_bytes())
    silent = 0
    for _ in range(2 * TRIALS if name != MODEL_FILE else TRIALS):
        (tmp_path / name).write_bytes(damaged(whole, chance))
        try:
            silent += read(tmp_path / name) != before
        except MultistreamError:
            continue
    assert not silent or not (sealed or name == MODEL_FILE), f"{silent} other results"


def test_a_summary_without_what_compare_needs(run: Path, tmp_path: Path) -> None:
    for path in run.iterdir():
        if path.name != runs.SUMS:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    read_result(tmp_path)
    summary = json.loads((run / runs.SUMMARY).read_text())
    for change in ({}, {"data": []}, {"parameters": None}, {"data": {"name": 3}, "parameters": {"total": "x"}}):
        (tmp_path / runs.SUMMARY).write_text(json.dumps({**summary, "data": None, **change}))
        with pytest.raises(MultistreamError, match="not a run summary"):
            read_result(tmp_path)


def test_a_log_line_that_a_crash_cut_is_dropped_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / runs.METRICS
    for epoch in range(3):
        runs.append_line(path, {"epoch": epoch})
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    assert [line["epoch"] for line in runs.read_lines(path)] == [0, 1]
    path.write_bytes(whole.replace(b'{"epoch": 1}', b'{"epoch": 1'))
    with pytest.raises(MultistreamError, match=r"metrics.jsonl:2: it is damaged"):
        runs.read_lines(path)
    path.write_bytes(whole.replace(b"1", b'"1"'))
    with pytest.raises(MultistreamError, match=r"metrics.jsonl:2"):
        runs.read_lines(path)


def test_a_folder_that_went_during_the_training(tmp_path: Path) -> None:
    with pytest.raises(MultistreamError, match="no longer exists") as caught:
        runs.append_line(tmp_path / "run" / runs.METRICS, {"epoch": 0})
    assert caught.value.exit_code == 74
