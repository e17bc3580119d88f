"""The data room on real photos: Emotion6, if ../shared has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from multistream.data.decoding import Decoder
from multistream.data.layouts.data_source import open_table
from multistream.data.loading import Photos, loaded
from multistream.data.scan import scan
from multistream.data.splits import split
from multistream.data.table import VectorTable
from multistream.data.vectors.joining import join
from multistream.runs.split_file import read_split, write_split

EMOTION6 = Path(__file__).parents[3] / "shared" / "data" / "emotion6"
pytestmark = pytest.mark.skipif(not EMOTION6.is_dir(), reason="../shared/data/emotion6 is not here")


def test_votes_and_keywords() -> None:
    vote, keyword = (open_table(f"emotion6:{EMOTION6}", label=label) for label in ("", "keyword"))
    assert vote.ids == keyword.ids
    assert len(vote) == 1_980
    assert vote.classes == ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
    assert np.bincount(keyword.labels).tolist() == [330] * 6
    same = [vote.classes[a] == keyword.classes[b] for a, b in zip(vote.labels, keyword.labels, strict=True)]
    assert sum(same) == 1_008


def test_votes_are_distributions_whose_winners_are_the_labels() -> None:
    winners, votes = (open_table(f"emotion6:{EMOTION6}", label=label) for label in ("vote", "votes"))
    assert (winners.classes, winners.ids) == (votes.classes, votes.ids)
    assert np.array_equal(winners.labels, votes.labels)
    assert votes.votes is not None
    assert winners.votes is not None, "a run on winners is measured against the votes too"
    lines = (EMOTION6 / "ground_truth.txt").read_text().splitlines()
    names = [cell.split()[1].rstrip("]") for cell in lines[0].split("\t")[3:]]
    row = next(line.split("\t") for line in lines if line.startswith("joy/1.jpg"))
    own = dict(zip(votes.classes, votes.votes[votes.ids.index("joy/1.jpg")], strict=True))
    assert own == pytest.approx(dict(zip(names, map(float, row[3:]), strict=True)), abs=1e-3)


def test_as_class_folders_it_is_the_keywords() -> None:
    table, keyword = open_table(str(EMOTION6 / "images")), open_table(f"emotion6:{EMOTION6}", label="keyword")
    assert (table.ids, table.classes) == (keyword.ids, keyword.classes)
    assert np.array_equal(table.labels, keyword.labels)


def test_ids_are_those_of_the_concepts() -> None:
    ids = np.load(EMOTION6 / "concepts.npz", allow_pickle=False)["ids"]
    assert set(ids) == set(open_table(f"emotion6:{EMOTION6}").ids)


def test_split_and_its_file(tmp_path: Path) -> None:
    table = open_table(f"emotion6:{EMOTION6}")
    parts = split(table)
    assert [len(rows) for rows in parts.named().values()] == [1_584, 99, 297]
    notes = write_split(tmp_path / "split.csv", table, parts)
    rows = read_split(tmp_path / "split.csv")
    assert [row.path for row in rows] == list(table.ids)
    assert len({row.sha256 for row in rows}) == 1_980
    assert notes == ()


def test_every_photo_is_decoded_alike_by_any_number_of_workers() -> None:
    photos = Photos(open_table(f"emotion6:{EMOTION6}"), Decoder(64))
    chosen = np.arange(0, len(photos), 8)
    sums = []
    for workers in (0, 2):
        batches = list(loaded(photos, chosen, batch_size=32, workers=workers))
        assert [len(batch["index"]) for batch in batches] == [32] * 7 + [24]
        sums.append([int(batch["image"].long().sum()) for batch in batches])
    assert sums[0] == sums[1]


def test_the_scan_finds_nothing_wrong() -> None:
    found = scan(open_table(f"emotion6:{EMOTION6}"), Decoder(64))
    assert found.is_clean, (found.unreadable, found.duplicates, found.same_picture, found.one_colour)


def test_a_test_split_gets_the_faces_that_its_photos_have() -> None:
    """203 of 1,980 photos show a face; 63 of the others end like the name of one of those, in another folder."""
    held = np.load(EMOTION6 / "faces.npz", allow_pickle=False)
    some = (held["features"] != 0).any(1)
    faces = VectorTable(tuple(held["ids"][some].tolist()), held["features"][some])
    table = open_table(f"emotion6:{EMOTION6}", label="keyword")
    ids = [table.ids[row] for row in split(table).test]
    joined = join(ids, faces, missing="mean")
    assert joined.present.tolist() == [name in set(faces.ids) for name in ids]
    assert joined.present.sum() > 20
