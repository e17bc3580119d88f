"""predictions.csv: what is written is read back, bit for bit, whatever the names."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multistream.errors import DataError
from multistream.runs.predictions_file import Predictions, read_predictions, write_predictions

CLASSES = ("awe", "=cmd()", "p_fear, or\nnot")


def made(
    paths: tuple[str, ...], *, dtype: type = np.float64, labelled: bool = True, voted: bool = False, seed: int = 0
) -> Predictions:
    rng = np.random.default_rng(seed)
    return Predictions(
        paths=paths,
        sha256=tuple(f"{i:064x}" for i in range(len(paths))),
        labels=tuple(CLASSES[k] for k in rng.integers(len(CLASSES), size=len(paths))) if labelled else None,
        probabilities=rng.dirichlet(np.full(len(CLASSES), 0.3), size=len(paths)).astype(dtype),
        classes=CLASSES,
        votes=rng.dirichlet(np.ones(len(CLASSES)), size=len(paths)) if voted else None,
    )


def same(a: Predictions, b: Predictions) -> bool:
    exact = np.array_equal(a.probabilities.astype(np.float64), b.probabilities)
    voted = b.votes is None if a.votes is None else np.array_equal(a.votes, b.votes)
    return exact and voted and (a.paths, a.sha256, a.labels, a.classes) == (b.paths, b.sha256, b.labels, b.classes)


NAMES = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=20)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(NAMES, max_size=6),
    st.sampled_from([np.float32, np.float64]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_round_trip(tmp_path: Path, paths: list[str], dtype: type, labelled: bool, voted: bool, seed: int) -> None:
    before = made(tuple(paths), dtype=dtype, labelled=labelled or not paths, voted=voted and bool(paths), seed=seed)
    write_predictions(tmp_path / "p.csv", before)
    after = read_predictions(tmp_path / "p.csv")
    assert same(before, after) or (not paths and after.labels is None)


def test_file_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    before = made(("caf\udce9.jpg", "a\rb\nc.jpg", " lead.jpg", 'q"uote.jpg', "\ufeffmark.jpg"))
    write_predictions(tmp_path / "p.csv", before)
    assert same(before, read_predictions(tmp_path / "p.csv"))


@pytest.mark.parametrize("name", ["=cmd()", "+1", "-1", "@sum", "\t=1", "\r=1", "'x"])
def test_no_cell_is_a_formula(tmp_path: Path, name: str) -> None:
    write_predictions(tmp_path / "p.csv", made((name,)))
    for row in csv.reader((tmp_path / "p.csv").open(newline="")):
        texts = [cell for cell in row if not cell.lstrip("+-").isdecimal()]  # a number is not a formula
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in texts)
    assert read_predictions(tmp_path / "p.csv").paths == (name,)


def test_columns_are_the_designs(tmp_path: Path) -> None:
    one = Predictions(("a.jpg",), ("0" * 64,), ("awe",), np.array([[0.1, 0.9]]), ("awe", "fear"))
    write_predictions(tmp_path / "p.csv", one)
    assert (tmp_path / "p.csv").read_text() == (
        f"path,sha256,label,predicted,p_awe,p_fear\na.jpg,{'0' * 64},awe,fear,0.1,0.9\n"
    )
    assert one.predicted == ("fear",)
    assert not one.correct.any()


def test_label_sets_are_written_as_0_and_1(tmp_path: Path) -> None:
    sets = np.array([[True, False]])
    one = Predictions(("a.jpg",), ("0" * 64,), ("awe",), np.array([[0.9, 0.25]]), ("awe", "fear"), label_sets=sets)
    write_predictions(tmp_path / "p.csv", one)
    assert (tmp_path / "p.csv").read_text().endswith(",awe,awe,0.9,0.25,1,0\n")
    assert np.array_equal(read_predictions(tmp_path / "p.csv").label_sets, sets)


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.csv", made(("a.jpg", "b.jpg")))
    text = (tmp_path / "p.csv").read_text()
    (tmp_path / "w.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert same(read_predictions(tmp_path / "w.csv"), read_predictions(tmp_path / "p.csv"))


HEAD = "path,sha256,label,predicted,p_awe,p_fear\n"
VOTED = HEAD.replace("\n", ",votes_awe,votes_fear\n")
SHA = "0" * 64


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "p.csv:1: this is not the first line"),
        ("path,sha256,label\n", "p.csv:1: this is not the first line"),
        ("path,sha256,label,predicted\n", "p.csv:1: this is not the first line"),
        (HEAD + f"a,{SHA},awe,awe,1.0\n", "p.csv:2: it has 5 cells. The first line has 6."),
        (
            HEAD + f"a,{SHA},awe,awe,0.5,0.5\nb,{SHA},awe,awe,0,5\nc,{SHA},awe,awe,\n",
            "p.csv:3: these are not probabilities.",
        ),
        (HEAD + f"a,{SHA},awe,awe,nan,0.5\n", "p.csv:2: these are not probabilities."),
        (HEAD + f"a,{SHA},awe,awe,1.5,-0.5\n", "p.csv:2: these are not probabilities."),
        (HEAD + f"a,{SHA},awe,awe,one,0\n", "p.csv:2: could not convert"),
        (HEAD + f"a,{SHA},awe,awe,1,0\nb,{SHA},,awe,1,0\n", "p.csv:3: the label is missing."),
        (HEAD + f'"a,{SHA},awe,awe,1,0\n', "it cannot be read"),
        (VOTED + f"a,{SHA},awe,awe,1,0,0.5,0.4\n", "p.csv:2: these are not fractions of votes."),
        (
            VOTED.replace("votes_awe", "votes_joy"),
            "p.csv:1: votes_ columns are of other classes than",
        ),
        ("caf\udce9", "it cannot be read"),
    ],
)
def test_what_cannot_be_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "p.csv").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(DataError) as error:
        read_predictions(tmp_path / "p.csv")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_predictions(tmp_path / "p.csv")


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 paths and 1 classes"):
        Predictions(("a", "b"), ("0", "1"), None, np.ones((1, 1)), ("awe",))
    with pytest.raises(ValueError, match="neither right nor wrong"):
        _ = made(("a",), labelled=False).correct
