"""Data sets as Hugging Face publishes them: imagefolder with metadata, parquet, saved data sets; parquet vectors."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multistream.data.layouts.data_source import open_table
from multistream.data.table import Table
from multistream.data.vectors import read_vectors
from multistream.errors import DataError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def png(value: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (12, 12), (value, 2 * value, 9)).save(content, "PNG")
    return content.getvalue()


def labels(table: Table) -> list[str]:
    return [table.classes[k] for k in table.labels]


def hugging(path: Path, rows: list[dict[str, object]], **features: object) -> None:
    """Parquet with the notes that the `datasets` library leaves in the schema."""
    table = pa.Table.from_pylist(rows)
    held = {"info": {"features": {"image": {"_type": "Image"}, **features}}}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(held)}), path)


def test_parquet_with_bytes_parts_and_class_names(tmp_path: Path) -> None:
    label = {"_type": "ClassLabel", "names": ["fear", "joy"]}
    for part, numbers in (("train", (0, 1, 2)), ("test", (3,))):
        rows = [{"image": {"bytes": png(n), "path": f"{n}.png"}, "label": n % 2} for n in numbers]
        hugging(tmp_path / "data" / f"{part}-00000-of-00001.parquet", rows, label=label)
    table = open_table(f"parquet:{tmp_path}")
    assert labels(table) == ["joy", "fear", "joy", "fear"]
    assert table.parts == ("test", "train", "train", "train")
    assert [table.path(i).read_bytes() for i in range(4)] == [png(n) for n in (3, 0, 1, 2)]
    assert open_table(f"parquet:{tmp_path}").ids == table.ids


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"image": {"bytes": b"x"}, "label": 7}], "row 0: label 7 is none of 2 classes"),
        ([{"image": {"bytes": None, "path": "a"}, "label": 0}], "row 0: there is no photo"),
        ([{"image": b"x", "label": 0}, {"image": b"y", "label": None}], "row 1: None is not a label"),
        ([{"picture_of": b"x", "label": 0}], "no column of photos is among picture_of, label"),
        ([{"image": b"x"}], "there is no column of labels"),
    ],
)
def test_malformed_parquet_is_an_error_that_says_where(
    tmp_path: Path, rows: list[dict[str, object]], told: str
) -> None:
    hugging(tmp_path / "a.parquet", rows, label={"names": ["fear", "joy"]})
    with pytest.raises(DataError, match=told):
        open_table(f"parquet:{tmp_path / 'a.parquet'}")


def test_what_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="it is not valid parquet"):
        open_table(f"parquet:{tmp_path}")


def test_a_saved_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["fear", "joy"])})
    made = {
        part: datasets.Dataset.from_dict(
            {"image": [{"bytes": png(n), "path": None} for n in numbers], "label": [n % 2 for n in numbers]},
            features=features,
        )
        for part, numbers in (("train", (0, 1)), ("test", (2,)))
    }
    datasets.DatasetDict(made).save_to_disk(str(tmp_path / "saved"))
    table = open_table(f"huggingface:{tmp_path / 'saved'}")
    assert sorted(zip(labels(table), table.parts or (), strict=True)) == [
        ("fear", "test"),
        ("fear", "train"),
        ("joy", "train"),
    ]
    with pytest.raises(DataError, match="it cannot be read"):
        open_table(f"huggingface:{tmp_path}")


def test_imagefolder_with_metadata(tmp_path: Path) -> None:
    for part, numbers in (("train", (0, 1)), ("test", (2,))):
        (tmp_path / part).mkdir()
        for n in numbers:
            (tmp_path / part / f"{n}.png").write_bytes(png(n))
    (tmp_path / "train" / "metadata.csv").write_text("file_name,label\n0.png,cat\n1.png,dog\n")
    (tmp_path / "test" / "metadata.jsonl").write_text('{"file_name": "2.png", "label": "cat"}\n')
    table = open_table(f"imagefolder:{tmp_path}")
    found = dict(zip(table.ids, zip(labels(table), table.parts or (), strict=True), strict=True))
    assert found == {
        "train/0.png": ("cat", "train"),
        "train/1.png": ("dog", "train"),
        "test/2.png": ("cat", "test"),
    }
    with pytest.raises(DataError, match=f"Write imagefolder:{tmp_path}"):
        open_table(str(tmp_path))
    (tmp_path / "test" / "metadata.jsonl").write_text('{"file_name": "2.png", "label": "cat"}\nno json\n')
    with pytest.raises(DataError, match=r"metadata.jsonl:2: the line is not valid JSON"):
        open_table(f"imagefolder:{tmp_path}")
    (tmp_path / "test" / "metadata.jsonl").write_text('{"file_name": "2.png", "label": 0.5}\n')
    with pytest.raises(DataError, match=r"metadata.jsonl:1: 0.5 is not a label"):
        open_table(f"imagefolder:{tmp_path}")


def test_metadata_may_name_photos_elsewhere_where_that_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "1.png").write_bytes(png(1))
    (tmp_path / "set" / "metadata.csv").write_text(f"file_name,label\n{tmp_path}/1.png,cat\n../1.png,cat\n")
    with pytest.raises(DataError, match=r"metadata.csv:2: .*leads outside the folder.*data.allow_outside = true"):
        open_table(f"imagefolder:{tmp_path / 'set'}")
    table = open_table(f"imagefolder:{tmp_path / 'set'}", allow_outside=True)
    assert (table.ids, table.path(0).is_file()) == (("../1.png",), True)


def test_a_photo_with_two_labels_in_metadata_is_an_error_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    (tmp_path / "metadata.csv").write_text("file_name,label\n1.png,cat\n1.png,dog\n")
    with pytest.raises(
        DataError, match=r"metadata.csv:3: '1.png' has a different label or split on an earlier line: cat"
    ):
        open_table(f"imagefolder:{tmp_path}")


def test_parquet_vectors(tmp_path: Path) -> None:
    path = tmp_path / "v.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "features": [[1.0, 2.0], [3.0, 4.0]]}), path)
    held = read_vectors(path)
    assert (held.ids, held.features.tolist(), held.vocabulary) == (("a", "b"), [[1, 2], [3, 4]], ())
    pq.write_table(pa.table({"path": ["a", "b"], "old car": [1, 2], "dog": [0.5, 0.25]}), path)
    held = read_vectors(path)
    assert (held.features.tolist(), held.vocabulary) == ([[1, 0.5], [2, 0.25]], ("old car", "dog"))
    pq.write_table(pa.table({"id": ["a", "b"], "features": [[1.0, 2.0], [3.0]]}), path)
    with pytest.raises(DataError, match="row 1: its list differs in length"):
        read_vectors(path)
    pq.write_table(pa.table({"x": [1.0]}), path)
    with pytest.raises(DataError, match="no column of ids"):
        read_vectors(path)


def test_one_array_is_not_an_archive(tmp_path: Path) -> None:
    with (tmp_path / "v.npz").open("wb") as file:
        np.save(file, np.zeros((2, 3), np.float32))
    with pytest.raises(DataError, match=r"it is a single array\. Rename it so that it ends in \.npy"):
        read_vectors(tmp_path / "v.npz")


def test_an_archive_that_unpacks_to_too_much(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, ids=np.array(["a"]), features=np.zeros((1, 2**26 + 2**20), np.float32))
    with pytest.raises(DataError, match="it unpacks to"):
        read_vectors(path)
