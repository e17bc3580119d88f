"""compare: artificial runs with known results."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.spatial
import scipy.stats
import sklearn.metrics
from typer.testing import CliRunner

from multistream.comparison.compare import Comparison, compare
from multistream.comparison.figure import draw
from multistream.comparison.tables import FORMATS, as_csv, as_latex, as_markdown, as_table
from multistream.errors import DataError, UsageError
from multistream.recipe import Recipe
from multistream.runs.predictions_file import Predictions, read_predictions, write_predictions
from multistream.statistics import holm, wilson

FI = ("amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness")
OBJECT = "network.streams.object=object"
PLACES = "network.streams.places=places"


class Lab:
    """Makes run folders. Photo i has the bytes `i` and the class i mod K; `right` marks correct predictions."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(
        self,
        name: str,
        right: Sequence[bool] | np.ndarray,
        *settings: str,
        photos: Sequence[int] | None = None,
        classes: tuple[str, ...] = FI,
        data: str = "fi",
        shift: int = 0,
        paths: Sequence[str] | None = None,
        probabilities: np.ndarray | None = None,
        votes: np.ndarray | None = None,
    ) -> Path:
        folder = self.root / name
        folder.mkdir(parents=True)
        photos = range(len(right)) if photos is None else photos
        k = len(classes)
        labels = [(i + shift) % k for i in photos]
        said = [label if ok else (label + 1) % k for label, ok in zip(labels, right, strict=True)]
        predictions = Predictions(
            paths=tuple(paths or (f"{i}.jpg" for i in photos)),
            sha256=tuple(hashlib.sha256(str(i).encode()).hexdigest() for i in photos),
            labels=tuple(classes[i] for i in labels),
            probabilities=0.9 * np.eye(k)[said] + 0.1 / k if probabilities is None else probabilities,
            classes=classes,
            votes=votes,
        )
        write_predictions(folder / "predictions.csv", predictions)
        Recipe().with_settings([OBJECT, *settings]).save(folder / "recipe.toml")
        summary = {"data": {"name": data, "n": 99}, "parameters": {"total": 1000 + len(settings), "trainable": 10}}
        (folder / "summary.json").write_text(json.dumps(summary))
        return folder


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def right(both: int, only_first: int, only_second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    cells = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], [both, only_first, only_second, neither], axis=0) == 1
    return cells[:, 0], cells[:, 1]


def test_two_runs_on_the_same_photos(lab: Lab) -> None:
    a, b = right(50, 10, 25, 15)
    found = compare([lab.run("a", a), lab.run("b", b, "network.temporal=bigru")])
    first, second = found.rows
    assert (first.accuracy, second.accuracy) == (0.60, 0.75)
    assert first.accuracy_ci95 == wilson(60, 100)
    assert first.difference is None
    assert second.difference is not None
    assert second.difference.value == pytest.approx(0.15)
    assert second.difference.test == "mcnemar"
    assert second.difference.p_value == pytest.approx(scipy.stats.binomtest(10, 35).pvalue)
    assert second.difference.p_holm == second.difference.p_value
    low, high = second.difference.ci95 or (0, 0)
    deviation = np.sqrt((0.35 - 0.15**2) / 100)
    assert (low, high) == pytest.approx((0.15 - 1.96 * deviation, 0.15 + 1.96 * deviation), abs=0.02)
    assert found.oracle == pytest.approx(0.85)
    assert first.settings == {"network.temporal": "concat"}
    assert second.settings == {"network.temporal": "bigru"}
    assert second.parameters == {"total": 1001, "trainable": 10}


def test_photos_are_paired_by_bytes_in_any_order(lab: Lab) -> None:
    a, b = right(50, 10, 25, 15)
    order = np.random.default_rng(0).permutation(100)
    plain = compare([lab.run("a", a), lab.run("b", b, "network.temporal=bigru")])
    mixed = compare([lab.root / "a", lab.run("c", b[order], "network.temporal=bigru", photos=list(order))])
    assert mixed.rows[1].difference is not None
    assert plain.rows[1].difference is not None
    assert mixed.rows[1].difference.agreement == plain.rows[1].difference.agreement
    assert mixed.oracle == plain.oracle


def test_different_test_splits_are_paired_on_shared_photos(lab: Lab) -> None:
    a, b = right(50, 10, 25, 15)
    shared = [i for i in range(100) if i % 2]
    found = compare([lab.run("a", a), lab.run("b", b[shared], "network.temporal=bigru", photos=shared)])
    difference = found.rows[1].difference
    assert difference is not None
    assert difference.n == 50
    assert difference.value == pytest.approx(b[shared].mean() - a[shared].mean())
    assert any("paired on the 50 photos" in note for note in found.notes)
    assert found.oracle is None, "the rows do not stand on the same photos"
    assert found.rows[0].n == (100,)
    assert found.rows[1].n == (50,)


def test_copies_of_a_photo_are_paired_one_to_one(lab: Lab) -> None:
    a = lab.run("a", [True, False, True], photos=[1, 1, 2], paths=["1.jpg", "copy.jpg", "2.jpg"])
    b = lab.run("b", [False, False, True], "network.temporal=bigru", photos=[2, 1, 1], paths=["2", "1", "c"])
    difference = compare([a, b]).rows[1].difference
    assert difference is not None
    assert difference.n == 3
    assert difference.agreement is not None
    assert (difference.agreement.both, difference.agreement.only_first) == (0, 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"photos": range(500, 600)}, "not paired: they have no test photo in common"),
        ({"shift": 1}, "not paired: 100 of 100 common photos have different labels"),
    ],
)
def test_unpaired_runs_have_a_note_instead_of_a_test(lab: Lab, options: dict, said: str) -> None:  # type: ignore[type-arg]
    a, b = right(50, 10, 25, 15)
    found = compare([lab.run("a", a), lab.run("b", b, "network.temporal=bigru", **options)])
    difference = found.rows[1].difference
    assert difference is not None
    assert (difference.p_value, difference.p_holm, difference.ci95) == (None, None, None)
    assert difference.value == pytest.approx(0.15)
    assert any(note.endswith(said) for note in found.notes)
    for format in FORMATS.values():
        assert format(found, ())


def seeds(lab: Lab, name: str, accuracies: Sequence[float], *settings: str, first: int = 0) -> list[Path]:
    return [
        lab.run(f"{name}{seed}", np.arange(200) < accuracy * 200, *settings, f"training.seed={seed}")
        for seed, accuracy in enumerate(accuracies, first)
    ]


def test_runs_that_differ_only_in_seeds_are_one_row(lab: Lab) -> None:
    """Five seeds on the same 200 photos: the test is over photos, and each counts once."""
    one, other = [0.60, 0.63, 0.60, 0.64, 0.61], [0.66, 0.65, 0.64, 0.69, 0.66]
    a, b = seeds(lab, "a", one), seeds(lab, "b", other, "network.temporal=bigru")
    found = compare([a[0], b[0], b[1], a[1], *a[2:], *b[2:]])
    assert [len(row.runs) for row in found.rows] == [5, 5]
    first, second = found.rows
    assert first.accuracy == pytest.approx(np.mean(one))
    assert first.deviation == pytest.approx(np.std(one, ddof=1))
    assert first.settings == {"network.temporal": "concat", **first.settings}
    assert second.difference is not None
    assert (second.difference.test, second.difference.n) == ("photos", 200)
    net = sum(
        (np.arange(200) < y * 200).astype(int) - (np.arange(200) < x * 200) for x, y in zip(one, other, strict=True)
    )
    assert second.difference.p_value == pytest.approx(scipy.stats.ttest_1samp(net, 0).pvalue)
    assert second.difference.value == pytest.approx(np.mean(other) - np.mean(one))
    assert second.difference.p_resampled is None, "there is one split"
    assert "± 1.82 (5 seeds)" in as_table(found)
    assert "training.seed" in first.settings
    assert first.settings["training.seed"] == (0, 1, 2, 3, 4)


def test_splits_get_the_corrected_t_test(lab: Lab) -> None:
    accuracies = {"concat": [0.60, 0.62, 0.58], "bigru": [0.66, 0.65, 0.66]}
    runs = [
        lab.run(
            f"{temporal}{split}",
            np.arange(100) < accuracy * 100,
            f"network.temporal={temporal}",
            f"data.split_seed={split}",
            photos=range(50 * split, 50 * split + 100),
        )
        for temporal, values in accuracies.items()
        for split, accuracy in enumerate(values)
    ]
    found = compare(runs)
    assert "(3 splits)" in as_table(found)
    difference = found.rows[1].difference
    assert difference is not None
    assert difference.n == 200, "each photo of the overlapping splits counts once"
    assert difference.value == pytest.approx(np.mean(accuracies["bigru"]) - np.mean(accuracies["concat"]))
    values = np.subtract(accuracies["bigru"], accuracies["concat"])
    t = values.mean() / np.sqrt((1 / 3 + 15 / 80) * values.var(ddof=1))
    assert difference.p_resampled == pytest.approx(2 * scipy.stats.t.sf(t, 2))
    assert any("Nadeau" in note for note in found.notes)


def test_rows_with_different_numbers_of_seeds_compare_means_of_photos(lab: Lab) -> None:
    runs = [*seeds(lab, "a", [0.6]), *seeds(lab, "b", [0.61, 0.62], "network.temporal=bigru")]
    difference = compare(runs).rows[1].difference
    assert difference is not None
    assert difference.value == pytest.approx(0.015)
    shares = ((np.arange(200) < 122).astype(float) + (np.arange(200) < 124)) / 2
    assert difference.test == "photos"
    net = shares - (np.arange(200) < 120)
    assert difference.p_value == pytest.approx(scipy.stats.ttest_1samp(net, 0).pvalue, rel=1e-6)


def test_repeated_folds_of_one_run_count_a_photo_once(lab: Lab) -> None:
    """Three predictions of a photo in one run are three tests of that photo, not three photos."""
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 3, 60)) < 0.6
    repeated = [*range(60)] * 3
    found = compare(
        [
            lab.run("a", a.ravel(), photos=repeated),
            lab.run("b", b.ravel(), "network.temporal=bigru", photos=repeated),
        ]
    )
    difference = found.rows[1].difference
    assert difference is not None
    assert (difference.test, difference.n) == ("photos", 60)
    expected = scipy.stats.ttest_1samp(b.sum(0) - a.sum(0).astype(int), 0).pvalue
    assert difference.p_value == pytest.approx(expected)


def test_split_seed_and_machine_settings_do_not_separate_rows(lab: Lab) -> None:
    a, b = right(50, 10, 25, 15)
    found = compare(
        [
            lab.run("a", a),
            lab.run("b", b, "data.split_seed=19", "runtime.workers=3", "runtime.device=cpu"),
        ]
    )
    assert len(found.rows) == 1
    assert found.rows[0].settings == {"data.split_seed": (18, 19)}


def test_equal_seeds_or_different_precisions_are_separate_rows(lab: Lab) -> None:
    a, b = right(50, 10, 25, 15)
    assert len(compare([lab.run("a", a), lab.run("b", b)]).rows) == 2
    assert len(compare([lab.root / "a", lab.run("c", b, "training.seed=1", "runtime.precision=bf16")]).rows) == 2


def test_branches_from_runs_that_differ_only_in_seeds_are_equal(lab: Lab) -> None:
    a, b = right(50, 10, 25, 15)
    for seed in (0, 1):
        lab.run(f"o{seed}", a, f"training.seed={seed}")
    lab.run("deep", a, "training.epochs=99")
    fused = [
        lab.run(f"f{i}", ok, f"network.streams.object={lab.root / branch}", f"training.seed={i}", PLACES)
        for i, (ok, branch) in enumerate([(a, "o0"), (b, "o1"), (b, "deep")])
    ]
    assert [len(row.runs) for row in compare(fused).rows] == [2, 1]


def test_streams_are_one_column_without_their_own_settings(lab: Lab) -> None:
    a, b = right(50, 10, 25, 15)
    found = compare(
        [
            lab.run("a", a),
            lab.run("b", b, PLACES, "network.weights.places=hub", "options.streams.places.x=1"),
            lab.run("c", b, PLACES, "network.weights.places=hub", "options.streams.places.x=2", "network.fusion=late"),
        ]
    )
    assert [row.settings["streams"] for row in found.rows] == ["object", "object+places", "object+places"]
    assert set(found.rows[0].settings) == {"streams", "network.fusion", "options.streams.places.x"}
    head = as_table(found).splitlines()[0]
    assert "streams.places.x" in head
    assert "weights" not in head


def test_holm_correction_is_over_the_whole_table(lab: Lab) -> None:
    a, b = right(50, 10, 25, 15)
    runs = [lab.run("a", a)]
    runs += [lab.run(f"b{i}", np.roll(b, i), f"training.epochs={i}") for i in range(1, 5)]
    found = compare(runs)
    tested = [row.difference for row in found.rows[1:] if row.difference]
    assert [each.p_holm for each in tested] == list(holm([each.p_value or 0.0 for each in tested]))
    assert "Holm: over the table's 4 tests" in found.notes


def test_best_row_can_be_the_reference(lab: Lab) -> None:
    a, b = right(50, 10, 25, 15)
    found = compare([lab.run("a", a), lab.run("b", b, "training.epochs=3")], against="best")
    assert found.reference == 1
    assert found.rows[1].difference is None
    assert found.rows[0].difference is not None
    assert found.rows[0].difference.value == pytest.approx(-0.15)
    assert any("chosen on the test photos" in note for note in found.notes)


def test_smallest_detectable_is_printed(lab: Lab) -> None:
    a, b = right(1900, 390, 410, 639)
    found = compare([lab.run("a", a), lab.run("b", b, "training.epochs=3")])
    difference = found.rows[1].difference
    assert difference is not None
    assert difference.smallest_detectable == pytest.approx(0.0237, abs=1e-4)
    assert "2.37" in as_table(found)
    assert difference.p_value is not None
    assert difference.p_value > 0.4, "20 photos of 3,339, as the paper's EF - Object, are not shown"


def test_published_numbers_are_a_separate_table(lab: Lab) -> None:
    a, _ = right(50, 10, 25, 15)
    found = compare([lab.run("a", a)], with_published=True)
    best = next(each for each in found.published if each.name == "MG EF O+P+ANP")
    assert best.accuracy == pytest.approx(0.6430)
    assert [round(100 * end, 2) for end in best.accuracy_ci95 or ()] == [62.66, 65.91]
    assert len(found.rows) == 1
    for format in (as_table, as_markdown, as_latex):
        assert "published on FI, not measured here" in format(found)


@pytest.mark.parametrize("options", [{"data": "demo"}, {"classes": ("joy", "fear")}])
def test_published_numbers_are_only_for_fi(lab: Lab, options: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(UsageError, match="for FI"):
        compare([lab.run("a", [True, False], **options)], with_published=True)


# formats -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def found(lab: Lab) -> Comparison:
    a, b = right(50, 10, 25, 15)
    return compare([lab.run("a_b|<i>", a), lab.run("=c&d%", b, "network.temporal=bigru")])


def test_macro_f1_and_balanced_accuracy_equal_scikit_learn(lab: Lab) -> None:
    ok, _ = right(50, 10, 25, 15)
    run = lab.run("a", ok)
    row = compare([run]).rows[0]
    predictions = read_predictions(run / "predictions.csv")
    labels, predicted = predictions.labels, predictions.predicted
    assert row.macro_f1 == pytest.approx(sklearn.metrics.f1_score(labels, predicted, average="macro"))
    assert row.balanced_accuracy == pytest.approx(sklearn.metrics.balanced_accuracy_score(labels, predicted))


def with_votes(lab: Lab) -> tuple[list[Path], list[np.ndarray], np.ndarray]:
    """Makes three runs on 200 photos with votes; returns the runs, predictions and votes. The second is closer."""
    rng = np.random.default_rng(0)
    votes = rng.dirichlet(np.ones(8), size=200)
    said = [0.3 * votes + 0.7 * rng.dirichlet(np.ones(8), size=200) for _ in range(3)]
    said[1] = 0.5 * said[0] + 0.5 * votes
    settings = ("network.temporal=concat", "network.temporal=bigru", "network.temporal=average")
    runs = [
        lab.run(f"run{i}", np.ones(200), setting, probabilities=each, votes=votes)
        for i, (setting, each) in enumerate(zip(settings, said, strict=True))
    ]
    return runs, said, votes


@pytest.mark.parametrize(("measure", "better"), [("kl", "lower"), ("cosine", "higher")])
def test_measures_of_photos_are_compared_by_a_paired_t_test(lab: Lab, measure: str, better: str) -> None:
    runs, said, votes = with_votes(lab)
    of_photos = {
        "kl": lambda p: scipy.stats.entropy(votes, p, axis=1),
        "cosine": lambda p: 1 - np.array([scipy.spatial.distance.cosine(a, b) for a, b in zip(p, votes, strict=True)]),
    }[measure]
    first, second, third = map(of_photos, said)
    found = compare(runs, measure=measure)
    assert [row.score for row in found.rows] == pytest.approx([first.mean(), second.mean(), third.mean()])
    low, high = found.rows[0].score_ci95
    assert (low, high) == pytest.approx(scipy.stats.norm.interval(0.95, first.mean(), scipy.stats.sem(first)), rel=0.01)
    expected = [float(scipy.stats.ttest_rel(each, first).pvalue) for each in (second, third)]
    tested = [row.difference for row in found.rows[1:]]
    assert [each.p_value for each in tested if each] == pytest.approx(expected)
    assert [each.p_holm for each in tested if each] == pytest.approx(holm(expected))
    assert [each.value for each in tested if each] == pytest.approx([(second - first).mean(), (third - first).mean()])
    assert f"{better} is better" in as_table(found)
    assert compare(runs, measure=measure, against="best").reference == 1  # the closest, by the lowest or highest value


def test_nll_equals_scikit_learn_log_loss(lab: Lab) -> None:
    runs, said, _ = with_votes(lab)
    labels = np.arange(200) % 8
    found = compare(runs, measure="nll")
    assert [row.score for row in found.rows] == pytest.approx([sklearn.metrics.log_loss(labels, p) for p in said])
    table = as_table(found)
    assert "negative log-likelihood" in table
    assert f"{found.rows[1].score:.4f}" in table


def test_measure_over_seeds_counts_each_photo_once(lab: Lab) -> None:
    runs, said, votes = with_votes(lab)
    seeds = [
        lab.run(f"seed{i}", np.ones(200), f"training.seed={i}", "network.temporal=gated", probabilities=p, votes=votes)
        for i, p in enumerate(said[:2])
    ]
    row = compare([runs[0], *seeds], measure="kl").rows[1]
    both = (scipy.stats.entropy(votes, said[0], axis=1) + scipy.stats.entropy(votes, said[1], axis=1)) / 2
    assert row.difference is not None
    expected = scipy.stats.ttest_rel(both, scipy.stats.entropy(votes, said[0], axis=1))
    assert row.difference.p_value == pytest.approx(expected.pvalue)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure": "kl"}, "has no votes"),
        ({"measure": "kll"}, "kl"),
        ({"measure": "map"}, "one label each, so it has no mAP"),
        ({"measure": "nll", "with_published": True}, "the published results are accuracies"),
    ],
)
def test_measure_that_the_runs_do_not_have_raises(lab: Lab, options: dict, message: str) -> None:  # type: ignore[type-arg]
    run = lab.run("a", np.ones(20))
    with pytest.raises(UsageError, match=message):
        compare([run], **options)


def test_the_figure_shows_the_measure(lab: Lab) -> None:
    runs, _, _ = with_votes(lab)
    found = compare(runs, measure="kl")
    axes = draw(found).axes[0]
    assert axes.get_xlabel() == "KL divergence on test photos (95 % interval)"
    dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert dots == pytest.approx([row.score for row in found.rows])


def test_columns_are_chosen_and_ordered(found: Comparison) -> None:
    lines = as_table(found, ["p_holm", "accuracy", "network.temporal"]).splitlines()
    assert lines[0].split() == ["run", "p", "Holm", "accuracy", "%", "temporal"]
    assert next(csv.DictReader(io.StringIO(as_csv(found, ["macro_f1"])))).keys() == {"run", "macro_f1"}
    with pytest.raises(UsageError, match=r"'acuracy' is unknown\. Did you mean 'accuracy'"):
        as_table(found, ["acuracy"])


def test_latex_has_no_settings_by_default_and_bold_best_values(found: Comparison) -> None:
    text = as_latex(found)
    assert "temporal" not in text
    assert r"\textbf{75.00}" in text
    assert r"\textbf{60.00}" not in text
    assert "bigru" in as_latex(found, ["settings", "accuracy"])


def test_rows_are_named(lab: Lab) -> None:
    ok, other = right(50, 10, 25, 15)
    a, b = lab.run("a", ok), lab.run("b", other, "network.temporal=bigru")
    c = lab.run("c", other, "network.temporal=bigru", "training.seed=4")
    found = compare([a, b, c], names={str(a): "MG Object", str(c): "MG+Bi-GRU"})
    assert [row.name for row in found.rows] == ["MG Object", "MG+Bi-GRU"]
    assert "MG+Bi-GRU" in as_latex(found)
    assert found.notes[0] == "reference: MG Object; each difference is the row minus the reference"
    assert next(csv.DictReader(io.StringIO(as_csv(found))))["name"] == "MG Object"
    with pytest.raises(UsageError, match="is not among the compared"):
        compare([a], names={"other": "x"})
    with pytest.raises(UsageError, match="are runs of one row"):
        compare([a, b, c], names={str(b): "x", str(c): "y"})


def test_table_columns_are_aligned(found: Comparison) -> None:
    head, first, second = as_table(found).splitlines()[:3]
    assert "accuracy %" in head
    assert first.index("60.00") == second.index("75.00")
    assert "+15.00" in second
    assert "at least one of the runs is correct on 85.00 % of the 100 photos" in as_table(found)


def test_markdown_cells_are_escaped(found: Comparison) -> None:
    lines = as_markdown(found).splitlines()
    assert "a\\_b\\|&lt;i&gt;" in lines[2]
    assert len({line.replace("\\|", "").count("|") for line in lines[:4]}) == 1


def test_latex_is_escaped_and_has_as_many_cells_as_columns(found: Comparison) -> None:
    text = as_latex(found)
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    letters = text.split(r"\begin{tabular}{")[1].split("}")[0]
    assert r"a\_b|$<$i$>$" in text
    assert r"=c\&d\%" in text
    assert all(row.replace(r"\&", "").count("&") == len(letters) - 1 for row in rows)


def test_csv_has_unrounded_numbers(found: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert [float(row["accuracy"]) for row in rows] == [0.6, 0.75]
    assert rows[0]["difference"] == ""
    assert float(rows[1]["p_value"]) == found.rows[1].difference.p_value  # type: ignore[union-attr]
    assert rows[1]["network.temporal"] == "bigru"


def test_json_has_plain_types(found: Comparison) -> None:
    data = found.to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["rows"][1]["difference"]["only_second"] == 25


# runs that cannot be read ------------------------------------------------------------------------------------------


def test_missing_runs_raise(lab: Lab) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        compare([lab.root / "nothing"])
    with pytest.raises(UsageError, match=r"no summary\.json"):
        compare([lab.root])
    with pytest.raises(UsageError, match="no run is given"):
        compare([])
    run = lab.run("a", [True, False])
    with pytest.raises(UsageError, match="given twice"):
        compare([run, lab.root / "." / "a"])


def test_damaged_run_raises(lab: Lab) -> None:
    run = lab.run("a", [True, False])
    (run / "summary.json").write_text('{"data": {"name": "fi"}}')
    with pytest.raises(DataError, match="not a run summary"):
        compare([run])
    run = lab.run("b", [True, False])
    (run / "predictions.csv").unlink()
    with pytest.raises(DataError, match="no such file"):
        compare([run])
    run = lab.run("c", [])
    with pytest.raises(DataError, match="has no photo with a label"):
        compare([run])


def test_model_file_can_name_its_run(lab: Lab) -> None:
    run = lab.run("a", [True, False])
    (run / "model.safetensors").touch()
    assert compare([run / "model.safetensors"]).rows[0].accuracy == 0.5


# the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "absent"), [("multistream.cli", True), ("torch", False)])
def test_compare_imports_no_torch(lab: Lab, module: str, absent: bool) -> None:
    """In a new interpreter; as a control, importing torch first is detected."""
    a, b = right(50, 10, 25, 15)
    runs = [str(lab.run("a", a)), str(lab.run("b", b, "network.temporal=bigru"))]
    code = (
        f"import sys, {module}; sys.argv = ['multistream', 'compare', *{runs!r}, '--json']\n"
        "import multistream.cli\n"
        "try: multistream.cli.main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('torch' in sys.modules, 'sklearn' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["rows"][1]["accuracy"] == 0.75
    torch_there, sklearn_there = done.stderr.split()[-2:]
    assert (torch_there == "False") is absent
    assert not absent or sklearn_there == "False", "scikit-learn takes a second to import"


def test_command_prints_and_draws(lab: Lab) -> None:
    from multistream.cli import app

    a, b = right(50, 10, 25, 15)
    runs = [str(lab.run("a", a)), str(lab.run("b$x$", b, "network.temporal=bigru"))]
    for kind, start in (("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")):
        file = lab.root / f"figure.{kind}"
        done = CliRunner().invoke(app, ["compare", *runs, "--plot", str(file)], catch_exceptions=False)
        assert "reference: " in done.stdout
        first = file.read_bytes()
        assert first.startswith(start)
        CliRunner().invoke(app, ["compare", *runs, "--plot", str(file), "--quiet"], catch_exceptions=False)
        assert file.read_bytes() == first, "the same figure, the same bytes"


def test_csv_notes_go_to_stderr(lab: Lab) -> None:
    from multistream.cli import app

    a, b = right(50, 10, 25, 15)
    runs = [str(lab.run("a", a)), str(lab.run("b", b, "network.temporal=bigru"))]
    done = CliRunner().invoke(app, ["compare", *runs, "--format", "csv"], catch_exceptions=False)
    assert len(done.stdout.splitlines()) == 3
    assert "reference" in done.stderr


def test_unknown_figure_format_raises_before_reading() -> None:
    from multistream.cli import app

    with pytest.raises(UsageError, match=r"It must end in \.pdf, \.svg, \.png"):
        CliRunner().invoke(app, ["compare", "nothing", "--plot", "a.jpg"], catch_exceptions=False)
