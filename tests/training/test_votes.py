"""Votes as targets: what is fitted, what a run keeps of them, and that winners stay what accuracy counts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from multistream import ablate, compare, evaluate, load
from multistream.data.layouts.data_source import open_table
from multistream.data.table import Table
from multistream.recipe import Recipe
from multistream.reporting import report
from multistream.runs.predictions_file import read_predictions
from multistream.training.folds import train as train_on_folds
from multistream.training.solver import fit_probe
from multistream.training.train import train
from multistream.vote_distances import vote_distances

CLASSES = ("awe", "fear", "joy")
ADAMW = ["training.learning_rate=0.01", "training.epochs=8"]
PLAIN = ["runtime.device=cpu", "runtime.precision=fp32", "runtime.workers=0"]
LBFGS = ["training.solver=lbfgs", "training.penalties=[0.1]"]


def ambiguous(key: str, chance: np.random.Generator) -> list[float]:
    """The class gets about 50 % of the votes, the next one 30 %."""
    return list(np.round(chance.dirichlet(np.roll([10.0, 6.0, 4.0], CLASSES.index(key))), 4))


@pytest.fixture(scope="module")
def voted(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of `photos` in the layout of Emotion6."""
    root = tmp_path_factory.mktemp("voted")
    shutil.copytree(photos, root / "images")
    chance = np.random.default_rng(0)
    lines = ["\t".join(["[image_filename]", "[valence]", "[arousal]", *(f"[prob. {name}]" for name in CLASSES)])]
    for path in sorted((root / "images").rglob("*.png")):
        key = path.relative_to(root / "images").as_posix()
        lines.append("\t".join([key, "5", "5", *map(str, ambiguous(key.split("/")[0], chance))]))
    (root / "ground_truth.txt").write_text("\n".join(lines))
    return root


@pytest.fixture
def on_votes(recipe: Recipe, voted: Path) -> Recipe:
    return recipe.updated({"data": {"source": f"emotion6:{voted}", "label": "votes", "split": "60/10/30"}})


def test_lbfgs_on_votes_is_scikit_learn_on_weighted_rows() -> None:
    """A row with votes is one row a class, weighted by its fraction."""
    chance = np.random.default_rng(0)
    x, votes = chance.normal(size=(80, 5)), chance.dirichlet(np.ones(3), 80)
    own = fit_probe({"toy": x}, votes, penalties={"toy": 0.05}).probabilities({"toy": x})
    standardised = (x - x.mean(0)) / x.std(0)
    oracle = LogisticRegression(C=1 / (0.05 * 80), tol=1e-10, max_iter=10_000)
    oracle.fit(np.repeat(standardised, 3, axis=0), np.tile(np.arange(3), 80), sample_weight=votes.ravel())
    assert np.abs(own - oracle.predict_proba(standardised)).max() < 1e-4


@pytest.fixture(scope="module")
def fitted(voted: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run fitted to the votes and one fitted to the winners."""
    folder = tmp_path_factory.mktemp("runs")
    sections = {"network": {"streams": {"object": "object"}, "weights": {"object": "random"}, "freeze": ["streams"]}}
    for label in ("votes", "vote"):
        data = {"source": f"emotion6:{voted}", "label": label, "split": "60/10/30", "image_size": 32}
        train(Recipe().updated({"data": data, **sections}).with_settings([*LBFGS, *PLAIN]), out=folder / label)
    return {label: folder / label for label in ("votes", "vote")}


def check_nearer(votes: Path, winners: Path) -> None:
    """The run on votes is nearer to them than that on winners; both keep them, and count winners as right."""
    found = {}
    for run in (votes, winners):
        held = read_predictions(run / "predictions.csv")
        assert held.votes is not None
        assert [CLASSES[k] for k in held.votes.argmax(1)] == list(held.labels or ())
        found[run] = json.loads((run / "summary.json").read_text())["test"]["votes"]
        assert found[run]["kl"] == pytest.approx(vote_distances(held.probabilities, held.votes)["kl"].mean())
    assert found[votes]["kl"] < 0.8 * found[winners]["kl"]
    assert found[votes]["intersection"] > found[winners]["intersection"]


def test_lbfgs_on_votes_is_nearer_to_them(fitted: dict[str, Path]) -> None:
    check_nearer(fitted["votes"], fitted["vote"])


def test_training_on_votes_is_nearer_to_them(on_votes: Recipe, tmp_path: Path) -> None:
    for label in ("votes", "vote"):
        train(on_votes.with_settings([*ADAMW, f"data.label={label}"]), out=tmp_path / label)
    check_nearer(tmp_path / "votes", tmp_path / "vote")


def test_commands_show_the_distances(fitted: dict[str, Path]) -> None:
    measured = evaluate(fitted["votes"]).metrics
    assert measured.votes is not None
    rows = compare([fitted["votes"], fitted["vote"]]).rows
    assert rows[0].settings["data.label"] == "votes"
    assert rows[0].votes == pytest.approx({name: measured.votes[name] for name in rows[0].votes or ()}, abs=1e-6)
    page = report(fitted["votes"], photos=0).path.read_text()
    assert "votes: KL divergence" in page
    assert f"{measured.votes['kl']:.4f}" in page


def test_the_prior_is_the_mean_of_the_votes(fitted: dict[str, Path], voted: Path) -> None:
    table = open_table(f"emotion6:{voted}", label="votes")
    assert table.votes is not None
    prior = load(fitted["votes"]).network.prior.numpy()
    assert np.abs(prior - table.votes.mean(0)).max() < 0.05
    assert 0.3 < prior.min() < 0.34


def test_folds_keep_the_votes_of_every_photo(on_votes: Recipe, tmp_path: Path) -> None:
    run = train_on_folds(on_votes.with_settings([*LBFGS, "data.folds=2"]), out=tmp_path / "run")
    held = read_predictions(tmp_path / "run" / "predictions.csv")
    assert held.votes is not None
    assert len(held) == len(open_table(on_votes.data.source)) == len(held.votes)
    assert run.test.votes is not None


@pytest.mark.parametrize("solver", [LBFGS, ["training.epochs=2"]], ids=["lbfgs", "adamw"])
def test_rows_of_an_ablation_aim_at_the_votes(solver: list[str], on_votes: Recipe, tmp_path: Path) -> None:
    """Rows that are trained together are checked against one trained alone."""
    result = ablate(on_votes.with_settings(solver), axis="depth", verify=solver != LBFGS)
    own = train(on_votes.with_settings(solver), out=tmp_path / "run").parts["test"]
    assert result.rows[-1].score == own.accuracy


def test_mixed_photos_mix_their_votes(on_votes: Recipe, tmp_path: Path) -> None:
    settings = ["network.freeze=['none']", "training.mixup=1.0", "training.epochs=1"]
    assert train(on_votes.with_settings(settings), out=tmp_path / "run").epochs == 1


@pytest.mark.parametrize(
    ("votes", "says"),
    [
        ([[0.5, 0.5], [0.9, 0.1]], "a label is not the class with the most votes"),
        ([[0.5, 0.4], [0.1, 0.9]], "not distributions"),
        ([[1.5, -0.5], [0.1, 0.9]], "not distributions"),
        ([[0.5, 0.5]], "shape"),
    ],
)
def test_a_table_checks_its_votes(votes: list[list[float]], says: str) -> None:
    labels = np.array([0, 1])
    table = Table("toy", Path(), ("a", "b"), labels, ("awe", "fear"), votes=np.array(votes))
    assert says in table.fault()
    sound = Table("toy", Path(), ("a", "b"), labels, ("awe", "fear"), votes=np.array([[0.5, 0.5], [0.1, 0.9]]))
    assert sound.fault() == ""
    chosen = sound.select([1]).votes
    assert chosen is not None
    assert chosen.tolist() == [[0.1, 0.9]]
