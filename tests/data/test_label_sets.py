"""Label sets as layouts read them: several columns, one column with a separator, lists."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multistream.data.layouts.data_source import open_table
from multistream.data.table import Table
from multistream.errors import DataError, UsageError

SETS = (("joy",), ("joy", "awe"), ("fear", "awe"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(len(SETS)):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    return tmp_path


def check(table: Table) -> None:
    assert table.classes == ("awe", "fear", "joy")
    assert table.label_sets is not None
    named = [{table.classes[k] for k in np.flatnonzero(row)} for row in table.label_sets]
    assert named == [set(names) for names in SETS]
    assert table.fault() == ""
    part = table.select([2, 0]).label_sets
    assert part is not None
    assert np.array_equal(part, table.label_sets[[2, 0]])


@pytest.mark.parametrize("label", ["tags[|]", "awe,fear,joy"])
def test_a_csv_has_them_in_one_column_or_in_several(label: str, pictures: Path) -> None:
    lines = [
        f"{n}.png,{' | '.join(s)},{','.join(str(int(c in s)) for c in ('awe', 'fear', 'joy'))}"
        for n, s in enumerate(SETS)
    ]
    (pictures / "table.csv").write_text("\n".join(["path,tags,awe,fear,joy", *lines]))
    check(open_table(str(pictures / "table.csv"), label=label))


@pytest.mark.parametrize(("name", "label"), [("metadata.jsonl", "tags[]"), ("metadata.csv", "tags[;]")])
def test_an_imagefolder_has_lists_or_a_separator(name: str, label: str, pictures: Path) -> None:
    if name.endswith(".jsonl"):
        lines = [json.dumps({"file_name": f"{n}.png", "tags": s}) for n, s in enumerate(SETS)]
    else:
        lines = ["file_name,tags", *(f"{n}.png,{';'.join(s)}" for n, s in enumerate(SETS))]
    (pictures / name).write_text("\n".join(lines))
    check(open_table(f"imagefolder:{pictures}", label=label))


def test_parquet_has_lists_of_text_or_of_numbered_classes(pictures: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images = [(pictures / f"{n}.png").read_bytes() for n in range(len(SETS))]
    classes = ["joy", "awe", "fear"]
    numbers = [[classes.index(name) for name in names] for names in SETS]
    features = {"numbers": {"feature": {"names": classes, "_type": "ClassLabel"}, "_type": "Sequence"}}
    about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    table = arrow.table({"image": images, "tags": [list(s) for s in SETS], "numbers": numbers})
    parquet.write_table(table.replace_schema_metadata(about), pictures / "set.parquet")
    for column in ("tags", "numbers"):
        check(open_table(f"parquet:{pictures / 'set.parquet'}", label=f"{column}[]"))


@pytest.mark.parametrize(
    ("row", "label", "says"),
    [
        ("0.png,,0,0,0", "tags[;]", "no label"),
        ("0.png,,0,0,0", "awe,fear,joy", "no label"),
        ("0.png,joy,2,0,0", "awe,fear,joy", "awe is '2'"),
    ],
)
def test_a_line_without_a_label_is_named(row: str, label: str, says: str, pictures: Path) -> None:
    (pictures / "table.csv").write_text(f"path,tags,awe,fear,joy\n{row}\n")
    with pytest.raises(DataError, match=says) as caught:
        open_table(str(pictures / "table.csv"), label=label)
    assert ":2" in str(caught.value)


def test_a_column_that_is_not_there_is_named(pictures: Path) -> None:
    (pictures / "table.csv").write_text("path,tags\n0.png,joy\n")
    with pytest.raises(UsageError, match=r"no column 'tag'.*tags"):
        open_table(str(pictures / "table.csv"), label="tag[;]")
