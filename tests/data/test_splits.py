"""Splits: sizes, strata, chance that stays, and the file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from multistream.data.layouts.data_source import open_table
from multistream.data.splits import Parts, split
from multistream.data.table import Table
from multistream.errors import DataError, DiskFull, UsageError
from multistream.runs.split_file import read_split, write_split

FI = (4_942, 1_266, 3_151, 5_374, 1_658, 2_963, 1_032, 1_874)
"""Sizes like FI's, 22,260 in all."""


def table_of(sizes: Sequence[int], parts: Sequence[str] | None = None) -> Table:
    """A table with so many images of each class."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    ids = tuple(f"{label}/{number}.jpg" for number, label in enumerate(labels))
    classes = tuple(f"class{k}" for k in range(len(sizes)))
    return Table("made", Path(), ids, labels, classes, parts=tuple(parts) if parts else None)


def sizes_of(parts: Parts) -> tuple[int, int, int]:
    return len(parts.train), len(parts.val), len(parts.test)


def test_fi() -> None:
    table = table_of(FI)
    assert len(table) == 22_260
    parts = split(table)
    assert sizes_of(parts) == (17_808, 1_113, 3_339)
    for rows, share in zip(parts.named().values(), (0.8, 0.05, 0.15), strict=True):
        assert np.abs(np.bincount(table.labels[rows]) - share * np.array(FI)).max() <= 1
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()
    assert np.array_equal(np.sort(np.concatenate([*parts.named().values()])), np.arange(22_260))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    shares=st.tuples(st.integers(1, 90), st.integers(0, 50), st.integers(0, 50)),
    seed=st.integers(0, 5),
)
def test_any_split(sizes: list[int], shares: tuple[int, int, int], seed: int) -> None:
    table = table_of(sizes)
    parts = split(table, fractions="/".join(map(str, shares)), seed=seed)
    n = len(table)
    assert sorted(np.concatenate([*parts.named().values()]).tolist()) == list(range(n))
    for rows, share in zip(parts.named().values(), shares, strict=True):
        if n >= 3:
            assert abs(len(rows) - n * share / sum(shares)) <= 2
            assert bool(len(rows)) == bool(share)
    if not any("drawn at random" in note for note in parts.notes):
        expected = {k for k, size in enumerate(sizes) if size * len(parts.train) / n >= 1}
        assert expected <= set(table.labels[parts.train].tolist())


def test_chance_depends_on_seed_and_id_alone() -> None:
    table = table_of((50, 70))
    base = split(table)
    assert np.array_equal(base.test, split(table).test)
    assert not np.array_equal(base.test, split(table, seed=19).test)
    np.random.seed(5)
    turned = np.random.default_rng(0).permutation(len(table))
    shuffled = table.select(turned)
    assert {shuffled.ids[i] for i in split(shuffled).test} == {table.ids[i] for i in base.test}


def test_a_split_is_two_draws_of_scikit_learns() -> None:
    """What the authors' code does: training first, then validation of the rest."""
    table = table_of(FI)
    rows = np.array(sorted(range(len(table)), key=lambda i: table.ids[i]))
    train, rest = train_test_split(rows, train_size=17_808, stratify=table.labels[rows], random_state=18)
    val, test = train_test_split(rest, train_size=1_113, stratify=table.labels[rest], random_state=18)
    parts = split(table)
    for ours, theirs in zip(parts.named().values(), (train, val, test), strict=True):
        assert ours.tolist() == sorted(theirs.tolist())


def test_too_few_images_to_stratify_are_drawn_plainly_and_told() -> None:
    parts = split(table_of((10, 10, 10)))
    assert sum(sizes_of(parts)) == 30
    assert any("drawn at random" in note for note in parts.notes)


def test_layouts_own_parts_stay() -> None:
    own = ["train"] * 60 + ["test"] * 40
    parts = split(table_of((50, 50), own), fractions="80/20/10")
    assert parts.test.tolist() == list(range(60, 100))
    assert sizes_of(parts) == (48, 12, 40)
    assert any("val drawn from its training split" in note for note in parts.notes)
    whole = split(table_of((50, 50), ["train"] * 60 + ["val"] * 20 + ["test"] * 20))
    assert sizes_of(whole) == (60, 20, 20)
    assert sizes_of(split(table_of((5, 5), ["test"] * 10))) == (0, 0, 10)


def test_small_classes_are_trained_on_and_told() -> None:
    table = table_of((1, 2, 97))
    parts = split(table)
    assert sizes_of(parts) == (80, 5, 15)
    assert {0, 1} <= set(table.labels[parts.train])
    assert any(note == "the test split has no image of class0 (has 1), class1 (has 2)" for note in parts.notes)


@pytest.mark.parametrize("fractions", ["80/20", "a/b/c", "0/50/50", "-1/1/1", "", "80/5/15/0", "nan/1/1", "1/0/0/"])
def test_fractions_that_cannot_be(fractions: str) -> None:
    with pytest.raises(UsageError, match=r"data\.split"):
        split(table_of((9, 9)), fractions=fractions)


def test_fractions_need_not_make_100() -> None:
    assert sizes_of(split(table_of((50, 50)), fractions="0.6/0.2/0.2")) == (60, 20, 20)
    assert sizes_of(split(table_of((50, 50)), fractions="9/0/1")) == (90, 0, 10)


NAMES = (
    "a/=cmd().jpg",
    "a/plain.jpg",
    "b/new\nline.jpg",
    'b/comma,quote".jpg',
    "b/" + os.fsdecode(b"caf\xe9.jpg"),
    "=x/1.jpg",
)


def test_the_file_there_and_back(photos: Callable[..., Path], tmp_path: Path) -> None:
    try:
        table = open_table(str(photos(*(f"set/{name}" for name in NAMES)) / "set"))
    except OSError:
        pytest.skip("this file system takes no such names")
    parts = split(table, fractions="50/25/25")
    assert write_split(tmp_path / "split.csv", table, parts) == ()
    text = (tmp_path / "split.csv").read_text(encoding="utf-8")
    assert text.count("\n") == len(NAMES) + 1
    assert text.startswith("path,label,part,sha256\n")
    assert not any(cell.startswith("=") for line in text.splitlines() for cell in line.split(","))
    rows = read_split(tmp_path / "split.csv")
    assert [row.path for row in rows] == list(table.ids)
    assert [row.label for row in rows] == [table.classes[k] for k in table.labels]
    assert [row.sha256 for row in rows] == [
        hashlib.sha256(table.path(i).read_bytes()).hexdigest() for i in range(len(table))
    ]
    for name, chosen in parts.named().items():
        assert [row.path for row in rows if row.part == name] == [table.ids[i] for i in chosen]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_same_image_in_two_parts(photos: Callable[..., Path], tmp_path: Path) -> None:
    root = photos("set/train/a/1.jpg", "set/train/b/2.jpg", "set/test/a/3.jpg") / "set"
    (root / "test" / "b").mkdir()
    (root / "test" / "b" / "copy.jpg").write_bytes((root / "train" / "b" / "2.jpg").read_bytes())
    table = open_table(str(root))
    parts = split(table, fractions="1/0/1")
    (note,) = write_split(tmp_path / "split.csv", table, parts)
    assert note == "1 images are in two splits, for example test/b/copy.jpg (test) and train/b/2.jpg (train)."
    with pytest.raises(DataError, match=r"test/b/copy.jpg \(test\) and train/b/2.jpg \(train\)"):
        write_split(tmp_path / "strict.csv", table, parts, strict=True)
    assert not (tmp_path / "strict.csv").exists()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("path,label\n", 1),
        ("path,label,part,sha256\na,b,train\n", 2),
        ("path,label,part,sha256\na,b,c,d\n", 2),
    ],
)
def test_what_is_no_split(tmp_path: Path, text: str, line: int) -> None:
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(DataError, match=f"split.csv:{line}: "):
        read_split(tmp_path / "split.csv")


def test_a_split_that_cannot_be_written(photos: Callable[..., Path], tmp_path: Path) -> None:
    table = open_table(str(photos("set/a/1.jpg", "set/a/2.jpg") / "set"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DiskFull, match="cannot be written"):
        write_split(tmp_path / "file" / "split.csv", table, split(table))


# folds and groups --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [False, True])
def test_every_photo_is_tested_in_one_fold(tmp_path: Path, groups: bool) -> None:
    table = table_of((40, 25, 31))
    file = tmp_path / "groups.csv"
    file.write_text("path,group\n" + "".join(f"{name},{i // 3}\n" for i, name in enumerate(table.ids)))
    folds = [split(table, folds=5, fold=k, groups=str(file) if groups else "") for k in range(1, 6)]
    assert np.concatenate([parts.test for parts in folds]).tolist() != list(range(96))
    assert sorted(np.concatenate([parts.test for parts in folds])) == list(range(96))
    for parts in folds:
        assert sorted(np.concatenate([parts.train, parts.val, parts.test])) == list(range(96))
        counts = np.bincount(table.labels[parts.test], minlength=3)
        assert counts == pytest.approx(np.array([8, 5, 6.2]), abs=3 if groups else 1)
        assert len(parts.val) > 0


def test_folds_do_not_depend_on_the_order_of_files() -> None:
    table = table_of((20, 20))
    shuffled = table.select(np.random.default_rng(0).permutation(40))
    plain, other = (split(each, folds=4, fold=2) for each in (table, shuffled))
    assert {table.ids[i] for i in plain.test} == {shuffled.ids[i] for i in other.test}
    assert {table.ids[i] for i in plain.val} == {shuffled.ids[i] for i in other.val}


@pytest.mark.parametrize("folds", [0, 4])
def test_groups_stay_together(tmp_path: Path, folds: int) -> None:
    table = table_of((60, 60))
    group = np.random.default_rng(0).integers(30, size=120)
    file = tmp_path / "groups.csv"
    file.write_text("path,group\n" + "".join(f"{name},g{group[i]}\n" for i, name in enumerate(table.ids)))
    parts = split(table, folds=folds, groups=str(file))
    apart = [set(group[rows]) for rows in parts.named().values()]
    assert not any(apart[i] & apart[j] for i, j in ((0, 1), (0, 2), (1, 2)))
    assert len(parts.test) == pytest.approx(30 if folds else 18, abs=6)
    assert any("30 groups" in note for note in parts.notes)


def test_groups_are_a_column_of_the_csv(photos: Callable[..., Path]) -> None:
    names = [f"{label}{i}.png" for label in "ab" for i in range(30)]
    lines = [f"{name},{name[0]},p{i // 4}\n" for i, name in enumerate(names)]
    file = photos(*names) / "grouped.csv"
    file.write_text("path,label,person\n" + "".join(lines))
    table = open_table(str(file))
    parts = split(table, groups="person")
    people = np.array(table.columns["person"])
    assert not set(people[parts.test]) & set(people[parts.train])
    with pytest.raises(UsageError, match="Did you mean 'person'"):
        split(table, groups="persons")


def test_folds_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match="5 folds need 5 photos of every class; class1 has 3"):
        split(table_of((20, 3)), folds=5, fold=1)
    with pytest.raises(UsageError, match="6 is none of 5 folds"):
        split(table_of((20, 20)), folds=5, fold=6)
    with pytest.raises(UsageError, match="neither a column nor a file"):
        split(table_of((20, 20)), groups="person")
