"""ablate from recipe to result, compared with single training runs; its files, and its errors."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from multistream import MultistreamError
from multistream.ablation import Ablation, ablate
from multistream.ablation.batched_rows import BatchedRows
from multistream.ablation.row_loop import VerificationError
from multistream.ablation.runner import planned
from multistream.ablation.variants import Axis
from multistream.console import Console
from multistream.errors import DataError, UsageError
from multistream.inference.model import load
from multistream.recipe import Recipe
from multistream.reporting.ablations import read_ablations
from multistream.runs.predictions_file import read_predictions
from multistream.statistics import holm, mcnemar
from multistream.training import engines
from multistream.training.engines import Engine
from multistream.training.train import train
from tests.ablation.conftest import Toy


class Listening(Console):
    """Records messages."""

    def __init__(self) -> None:
        super().__init__(quiet=False)
        self.lines: list[str] = []
        self._print = self.lines.append


def toy_ablated(recipe: Recipe, axis: Axis, **options: object) -> Ablation:
    return ablate(recipe, axis=axis, streams={"toy": Toy()}, **options)  # type: ignore[arg-type]


@pytest.fixture
def with_anp(recipe: Recipe, vectors: Path) -> Recipe:
    """The recipe with a second stream of vectors."""
    return recipe.updated({"network": {"streams": {"anp": "anp"}, "inputs": {"anp": str(vectors)}}})


def test_rows_equal_single_training_runs(recipe: Recipe, tmp_path: Path) -> None:
    """With a recurrent temporal rows equal `train` bit by bit, and so do accuracies, p-values and Holm's correction."""
    recipe = recipe.updated({"network": {"temporal": "bigru+att"}})
    result = toy_ablated(recipe, "depth")
    correct = []
    for depth in (1, 2, 3):
        own = recipe.updated({"network": {"depth": {"toy": depth} if depth < 3 else {}}})
        run = train(own, out=tmp_path / str(depth), streams={"toy": Toy()})
        correct.append(read_predictions(run.folder / "predictions.csv").correct)
        row = result.rows[depth - 1]
        assert row.score == run.parts["test"].accuracy
        assert row.params == run.parameters["total"]
        assert tuple(row.keep["toy"]) == ("edges", "parts", "things")[:depth]
    whole = correct[-1]
    p_values = [mcnemar(int((whole & ~own).sum()), int((own & ~whole).sum())) for own in correct[:2]]
    assert [row.p_value for row in result.rows] == [*p_values, None]
    assert [row.p_holm for row in result.rows] == [*holm(p_values), None]
    assert result.stacked == 0
    assert len({row.score for row in result.rows}) > 1


def test_several_seeds_and_splits_equal_single_training_runs(recipe: Recipe, tmp_path: Path) -> None:
    result = toy_ablated(recipe, "depth", seeds=2, splits=2, verify=True)
    assert (result.seeds, result.split_seeds, result.stacked) == ((0, 1), (18, 19), 12)
    assert result.verified is not None
    assert max(result.verified.largest_difference, result.verified.difference_to_train) < 1e-5
    for row in result.rows:
        assert row.score == pytest.approx(np.mean(row.scores))
        assert row.score_ci95[0] <= row.score <= row.score_ci95[1]
    for place, (split_seed, seed) in enumerate([(18, 0), (18, 1), (19, 0), (19, 1)]):
        own = recipe.updated({"training": {"seed": seed}, "data": {"split_seed": split_seed}})
        run = train(own, out=tmp_path / str(place), streams={"toy": Toy()})
        n = run.parts["test"].n
        assert abs(result.whole.scores[place] - run.parts["test"].accuracy) * n < 1.5  # rounding


def test_masked_score_uses_the_training_mean_of_missing_taps(recipe: Recipe, tmp_path: Path) -> None:
    recipe = recipe.updated({"network": {"temporal": "bigru"}})
    result = toy_ablated(recipe, "taps")
    run = train(recipe, out=tmp_path / "whole", streams={"toy": Toy()})
    model = load(run.folder, streams={"toy": Toy()})
    found = read_predictions(run.folder / "predictions.csv")
    row = next(row for row in result.rows if tuple(row.keep["toy"]) == ("parts",))
    masked = model.network.mask({"toy": ["edges", "things"]})
    pictures = [np.array(Image.open(Path(recipe.data.source) / path)) for path in found.paths]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    guesses = masked({"image": images}).argmax(1).tolist()
    right = [model.classes[g] == label for g, label in zip(guesses, found.labels, strict=True)]
    assert row.masked_score == pytest.approx(np.mean(right))
    assert result.whole.masked_score == result.whole.score


def test_taps_have_shapley_values_and_probes(recipe: Recipe) -> None:
    result = toy_ablated(recipe, "taps", seeds=2)
    assert len(result.rows) == 7
    guess = 1 / 3  # classes of equal size
    total = sum(tap.value for tap in result.shapley)
    assert total == pytest.approx(np.mean(result.whole.scores) - guess, abs=1e-9)
    assert result.ridge is not None
    assert result.ridge.checked == 7
    assert result.ridge.largest_difference < 1e-8
    assert all(row.ridge_score is not None for row in result.rows)
    whole = result.whole
    assert whole.macs == max(row.macs for row in result.rows)
    assert sum(row.pareto for row in result.rows) >= 1


def test_all_subsets_of_streams_are_trained_with_each_fusion(with_anp: Recipe) -> None:
    result = toy_ablated(with_anp, "streams")
    named = [(tuple(row.keep), row.fusion) for row in result.rows]
    assert named == [
        (("anp",), ""),
        (("toy",), ""),
        (("anp", "toy"), "late"),
        (("anp", "toy"), "gated"),
        (("anp", "toy"), "early"),
    ]
    found = result.streams
    assert found is not None
    by_keep = {tuple(row.keep): row.score for row in result.rows[:2]}
    (pair,) = found.pairs
    alone = by_keep["anp",] + by_keep["toy",]
    assert alone == pytest.approx(2 * (1 - pair.double_fault) - pair.disagreement)  # both correct: counts twice
    assert found.oracle_any == pair.oracle
    assert {(each.fusion, each.stream) for each in found.leave_one_out} == {
        (fusion, key) for fusion in ("early", "late", "gated") for key in ("anp", "toy")
    }
    for each in found.leave_one_out:
        full = next(row for row in result.rows if row.fusion == each.fusion)
        assert each.delta == pytest.approx(each.score - full.score)


def test_cut_limits_the_ablation_to_one_stream(with_anp: Recipe) -> None:
    result = toy_ablated(with_anp, "taps", cut="toy")
    assert len(result.rows) == 8  # all subsets including the empty one, since anp remains
    assert tuple(result.rows[0].keep) == ("anp",)
    without = np.mean(result.rows[0].scores)
    assert sum(tap.value for tap in result.shapley) == pytest.approx(result.whole.score - without)


@pytest.mark.slow
def test_trained_streams_need_full_training_runs(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cost is printed first; each row is a run as written by `train`; a second call reuses finished runs.

    An engine (its processes are calls here) trains the missing runs in the same folder.
    """
    recipe = recipe.updated(
        {
            "network": {"streams": {"object": "object"}, "weights": {"object": "random"}, "freeze": ["none"]},
            "training": {"epochs": 1},
        }
    )
    console = Listening()
    result = ablate(recipe, axis="depth", out=tmp_path / "kept", console=console)
    assert result.trained_on == "photos"
    told = next(i for i, line in enumerate(console.lines) if "5 runs" in line)
    assert told < next(i for i, line in enumerate(console.lines) if "seed 0" in line)
    runs = sorted((tmp_path / "kept" / "runs-depth").iterdir())
    assert len(runs) == 5
    for row, run in zip(result.rows, runs, strict=True):
        summary = json.loads((run / "summary.json").read_text())
        assert row.score == summary["test"]["accuracy"]
        assert row.params == summary["parameters"]["total"]
    again = Listening()
    second = ablate(recipe, axis="depth", out=tmp_path / "kept", console=again)
    assert [row.scores for row in second.rows] == [row.scores for row in result.rows]
    assert sum("was already trained" in line for line in again.lines) == 5
    shutil.rmtree(runs[2])
    listed = planned(recipe, axis="depth", out=tmp_path / "kept")
    assert [each.state for each in listed] == ["finished", "finished", "new", "finished", "finished"]
    assert [each.folder for each in listed] == runs
    trained: list[str] = []

    def here(text: str, folder: str, cwd: str, **_: object) -> tuple[int, str]:
        trained.append(str(Path(cwd, folder)))
        train(Recipe.loads(text), out=folder)
        return 0, ""

    monkeypatch.setattr(engines, "train_in_process", here)
    third = ablate(recipe, axis="depth", out=tmp_path / "kept", engine=Engine("local"))
    assert [row.scores for row in third.rows] == [row.scores for row in result.rows]
    assert trained == [str(runs[2])]


def test_split_without_test_photos_raises(recipe: Recipe) -> None:
    """The error formerly said that photos could not be decoded."""
    with pytest.raises(DataError, match=r"with data\.split = 90/10/0 it has no test split"):
        toy_ablated(recipe.with_settings(["data.split=90/10/0"]), "depth")


def test_result_is_saved_and_read_by_the_report(recipe: Recipe, tmp_path: Path) -> None:
    result = toy_ablated(recipe, "depth", out=tmp_path / "ablations")
    toy_ablated(recipe, "depth", out=tmp_path / "ablations")
    assert sorted(path.name for path in (tmp_path / "ablations").iterdir()) == [
        "depth-1.csv",
        "depth-1.json",
        "depth-2.csv",
        "depth-2.json",
    ]
    kept = json.loads((tmp_path / "ablations" / "depth-1.json").read_text())
    assert kept["axis"] == "depth"
    assert {"keep", "accuracy", "accuracy_ci95", "delta", "p_value", "params", "macs"} <= set(kept["rows"][0])
    rows = list(csv.DictReader((tmp_path / "ablations" / "depth-1.csv").open()))
    assert [float(row["accuracy"]) for row in rows] == [row.score for row in result.rows]
    assert rows[0]["keep"] == "toy:edges"
    assert float(rows[0]["accuracy_joy"]) == result.rows[0].per_class["joy"]["score"]
    first, _ = read_ablations(tmp_path)
    assert (first.axis, len(first.rows)) == ("depth", 3)


def test_verify_fails_if_a_row_differs_from_the_row_alone(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches take slightly larger steps here than a row alone."""
    right = BatchedRows.update
    monkeypatch.setattr(
        BatchedRows, "update", lambda rows, factor: right(rows, factor * (1 + 1e-3 * (len(rows.grid[0]) > 1)))
    )
    with pytest.raises(VerificationError, match="differ by") as caught:
        toy_ablated(recipe, "depth", verify=True)
    assert caught.value.exit_code == 1


def test_ablation_is_reproducible(recipe: Recipe) -> None:
    first, second = (toy_ablated(recipe, "depth", seeds=2) for _ in range(2))
    assert [row.scores for row in first.rows] == [row.scores for row in second.rows]


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({}, {"axis": "dept"}, "Did you mean 'depth'"),
        ({}, {"axis": "depth", "cut": "toi"}, "Did you mean 'toy'"),
        ({}, {"axis": "streams"}, "--axis streams needs several streams, but the composition has one"),
        ({}, {"axis": "depth", "seeds": 0}, "At least one"),
        ({"network": {"tap": "last"}}, {"axis": "taps"}, "not all stages"),
        ({"network": {"freeze": ["none"]}}, {"axis": "depth", "verify": True}, "no rows are trained in a batch"),
        ({"network": {"freeze": ["none"]}}, {"axis": "taps"}, "Freeze the streams, or choose another axis"),
        ({}, {"engine": Engine("local")}, "all rows are trained in one pass"),
        ({"network": {"freeze": ["none"]}}, {"engine": Engine("local")}, "the runs need a folder"),
    ],
    ids=str,
)
def test_invalid_ablations_raise(
    recipe: Recipe, changes: dict[str, object], options: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        ablate(recipe.updated(changes), streams={"toy": Toy()}, **options)  # type: ignore[arg-type]


def test_folder_that_is_not_a_run_raises(tmp_path: Path) -> None:
    with pytest.raises(MultistreamError, match=r"it has no recipe\.toml"):
        ablate(tmp_path)


def test_lbfgs_fits_every_row_independently_of_the_seed(recipe: Recipe, tmp_path: Path) -> None:
    recipe = recipe.updated({"training": {"solver": "lbfgs"}})
    result = toy_ablated(recipe, "taps")
    assert result.stacked == 0
    for depth in (1, 3):
        own = recipe.updated({"training": {"seed": depth}, "network": {"depth": {"toy": depth} if depth < 3 else {}}})
        run = train(own, out=tmp_path / str(depth), streams={"toy": Toy()})
        stages = ("edges", "parts", "things")[:depth]
        row = next(row for row in result.rows if tuple(row.keep["toy"]) == stages)
        assert row.score == run.parts["test"].accuracy
        line = json.loads((run.folder / "metrics.jsonl").read_text())
        assert line["penalty/toy"] in recipe.training.penalties
    for options in ({"seeds": 2}, {"verify": True}):
        with pytest.raises(UsageError, match="does not depend on the seed"):
            toy_ablated(recipe, "taps", **options)


def test_non_convex_rows_are_trained_by_gradient_and_reported(with_anp: Recipe) -> None:
    console = Listening()
    result = toy_ablated(with_anp.updated({"training": {"solver": "lbfgs"}}), "streams", console=console)
    assert len(result.rows) == 5
    assert any("3 rows are not convex" in line for line in console.lines)
