"""Layouts: the generic ones with all that lies on people's disks, and the named ones in each of their forms."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from multistream.data.layouts.abstract import abstract
from multistream.data.layouts.artphoto import artphoto
from multistream.data.layouts.data_source import open_table
from multistream.data.layouts.emoset import emoset
from multistream.data.layouts.emotion6 import emotion6
from multistream.data.layouts.emotionroi import emotionroi
from multistream.data.layouts.fi import fi
from multistream.data.layouts.ldl import ldl
from multistream.data.layouts.webemo import SEVEN, at_level, webemo
from multistream.data.table import Table
from multistream.errors import DataError, UsageError

Photos = Callable[..., Path]


def labelled(table: Table) -> dict[str, str]:
    """{id: class}."""
    return {i: table.classes[k] for i, k in zip(table.ids, table.labels, strict=True)}


def in_parts(table: Table) -> dict[str, str]:
    """{id: part}."""
    assert table.parts is not None
    return dict(zip(table.ids, table.parts, strict=True))


def told(table: Table, words: str) -> bool:
    """Whether a note holds these words."""
    return any(words in note for note in table.notes)


# Folders


def test_class_folders(photos: Photos) -> None:
    root = photos("joy/b.JPG", "joy/a.png", "joy/deep/er/c.webp", "anger/x.jpeg")
    table = open_table(str(root))
    assert labelled(table) == {
        "anger/x.jpeg": "anger",
        "joy/a.png": "joy",
        "joy/b.JPG": "joy",
        "joy/deep/er/c.webp": "joy",
    }
    assert table.classes == ("anger", "joy")
    deeper = ("1 folders inside class folders are counted as that class: joy/deep",)
    assert (table.parts, table.notes, table.labels.dtype) == (None, deeper, np.int64)
    assert table.path(0) == root / "anger/x.jpeg"
    assert table.path(0).is_file()


def test_what_is_ignored_is_counted(photos: Photos) -> None:
    root = photos(
        "a/1.jpg", "b/1.jpg", ".ipynb_checkpoints/x.jpg", "__MACOSX/a/1.jpg", "a/._1.jpg", "loose.jpg", "a/Thumbs.db"
    )
    (root / "empty").mkdir()
    (root / "a" / "notes.txt").write_text("x")
    table = open_table(str(root))
    assert table.classes == ("a", "b")
    assert told(table, "hidden or system files and folders: 4 ignored")
    assert told(table, "files that are not images by their name: 1 ignored")
    assert told(table, "images outside the class folders: 1 ignored")
    assert told(table, "class 'empty' has no images and is ignored")
    with pytest.raises(DataError, match="empty"):
        open_table(str(root), strict=True)


def test_part_folders(photos: Photos) -> None:
    root = photos("Train/a/1.jpg", "Train/b/1.jpg", "validation/a/1.jpg", "test/b/1.jpg")
    (root / "validation" / "b").mkdir()
    table = open_table(str(root))
    assert table.classes == ("a", "b")
    assert in_parts(table) == {
        "Train/a/1.jpg": "train",
        "Train/b/1.jpg": "train",
        "test/b/1.jpg": "test",
        "validation/a/1.jpg": "val",
    }
    assert told(table, "class 'b' has no images in validation")


def test_a_class_may_be_called_train(photos: Photos) -> None:
    assert open_table(str(photos("train/1.jpg", "car/1.jpg"))).classes == ("car", "train")


def test_parts_beside_classes_are_refused(photos: Photos) -> None:
    with pytest.raises(DataError, match="look like splits, but there are images in car"):
        open_table(str(photos("train/a/1.jpg", "test/a/1.jpg", "car/1.jpg")))


def test_folders_without_use(photos: Photos, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        open_table(str(tmp_path / "nowhere"))
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=r"no images.*'a' has no images"):
        open_table(str(tmp_path))
    with pytest.raises(DataError, match="2 images are not in a class folder"):
        open_table(str(photos("1.jpg", "2.jpg")))


def test_tilde(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(photos("set/a/1.jpg")))
    assert open_table("~/set").classes == ("a",)


def test_link_loops_and_links_outside(photos: Photos, tmp_path: Path) -> None:
    photos("in/a/1.jpg", "in/b/1.jpg", "out/2.jpg")
    root = tmp_path / "in"
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "b" / "again.jpg").symlink_to(root / "a" / "1.jpg")
    (root / "c").symlink_to(tmp_path / "out")
    (root / "b" / "away.jpg").symlink_to(tmp_path / "out" / "2.jpg")
    (root / "b" / "nothing.jpg").symlink_to(root / "nowhere.jpg")
    table = open_table(str(root))
    assert table.ids == ("a/1.jpg", "b/1.jpg", "b/again.jpg")
    assert told(table, "(data.allow_outside = true follows them): 2 ignored")
    assert told(table, "links that lead back to a folder above them: 2 ignored")
    assert told(table, "(pipes, links to nothing): 1 ignored")
    assert "c/2.jpg" in open_table(str(root), allow_outside=True).ids


def test_a_root_that_is_a_link(photos: Photos, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(photos("real/a/1.jpg") / "real")
    assert open_table(str(tmp_path / "link")).ids == ("a/1.jpg",)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_pipes_are_left_alone(photos: Photos) -> None:
    root = photos("a/1.jpg")
    os.mkfifo(root / "a" / "pipe.jpg")
    assert open_table(str(root)).ids == ("a/1.jpg",)


def test_strange_names_survive(photos: Photos) -> None:
    names = ("a/new\nline.jpg", "a/=cmd().jpg", "a/" + os.fsdecode(b"caf\xe9.jpg"), "a/<script>.jpg")
    try:
        root = photos(*names)
    except OSError:
        pytest.skip("this file system takes no such names")
    table = open_table(str(root))
    assert set(table.ids) == set(names)
    assert all(table.path(i).is_file() for i in range(len(table)))


# CSV


def write(root: Path, text: str | bytes, name: str = "set.csv") -> str:
    """Writes a sheet and gives its path as a user would."""
    (root / name).write_bytes(text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text)
    return str(root / name)


EXPECTED = {"a.jpg": "joy", "sub/b.jpg": "fear"}
SAME = {
    "plain": "path,label\na.jpg,joy\nsub/b.jpg,fear\n",
    "semicolons": "path;label\na.jpg;joy\nsub/b.jpg;fear\n",
    "tabs": "path\tlabel\na.jpg\tjoy\nsub/b.jpg\tfear\n",
    "bars": "path|label\na.jpg|joy\nsub/b.jpg|fear\n",
    "mark": b"\xef\xbb\xbfpath,label\na.jpg,joy\nsub/b.jpg,fear\n",
    "utf-16": "path,label\na.jpg,joy\nsub/b.jpg,fear\n".encode("utf-16"),
    "CR": "path,label\ra.jpg,joy\rsub/b.jpg,fear",
    "CRLF": "path,label\r\na.jpg,joy\r\nsub/b.jpg,fear\r\n",
    "quotes": '"path","label"\n"a.jpg","joy"\n"sub/b.jpg","fear"\n',
    "blank lines": "\n\npath,label\n\na.jpg,joy\n , \nsub/b.jpg,fear\n\n",
    "trailing spaces": "path , label\na.jpg , joy \n sub/b.jpg,fear\n",
    "other names": "Emotion,Image\njoy,a.jpg\nfear,sub/b.jpg\n",
    "more columns": "id,path,label,score\n1,a.jpg,joy,.5\n2,sub/b.jpg,fear,.25\n",
    "a column without a name": ",path,label,\n0,a.jpg,joy,\n1,sub/b.jpg,fear,\n",
    "dots": "path,label\n./a.jpg,joy\nsub/../sub//b.jpg,fear\n",
    "backslashes": "path,label\na.jpg,joy\nsub\\b.jpg,fear\n",
}


@pytest.mark.parametrize("form", SAME)
def test_sheets_as_people_save_them(photos: Photos, form: str) -> None:
    table = open_table(write(photos("a.jpg", "sub/b.jpg"), SAME[form]))
    assert labelled(table) == EXPECTED
    assert table.maps == {}


def test_absolute_paths_inside_the_root(photos: Photos) -> None:
    root = photos("a.jpg", "sub/b.jpg")
    assert labelled(open_table(write(root, f"path,label\n{root}/a.jpg,joy\n{root}/sub/b.jpg,fear\n"))) == EXPECTED


FAULTS = {
    "no label column": ("path,score\na.jpg,1\n", 1, "none of the columns path, score is the label"),
    "no path column": ("label\njoy\n", 1, "is the path"),
    "no header": ("a.jpg,joy\nsub/b.jpg,fear\n", 1, "already an image, add the header path,label above it"),
    "column twice": ("path,label,label\na.jpg,joy,joy\n", 1, "two columns are called 'label'"),
    "blank label": ("path,label\na.jpg,joy\nsub/b.jpg,  \n", 3, "the label is empty"),
    "blank path": ("path,label\n ,joy\n", 2, "the path is empty"),
    "duplicate": ("path,label\na.jpg,joy\na.jpg,joy\n", 3, "already occurs on line 2"),
    "same file otherwise": ("path,label\na.jpg,joy\n./sub/../a.jpg,fear\n", 3, "already occurs on line 2"),
    "up": ("path,label\n../x.jpg,joy\n", 2, "leads outside the folder"),
    "up and elsewhere": ("path,label\nsub/../../x.jpg,joy\n", 2, "data.allow_outside = true"),
    "absolute": ("path,label\n/etc/passwd,joy\n", 2, "leads outside the folder"),
    "URL": ("path,label\nhttps://example.org/a.jpg,joy\n", 2, "is a URL"),
    "file URL": ("path,label\nfile:///etc/passwd,joy\n", 2, "is a URL"),
    "too many cells": ("path,label\na.jpg,joy,much\n", 2, "3 cells for 2 columns"),
    "too few cells": ("path,label\na.jpg\n", 2, "1 cells for 2 columns"),
    "open quote": ('path,label\na.jpg,joy\n"sub/b.jpg,fear\n', 3, "quote"),
    "quote inside": ('path,label\n"a".jpg,joy\n', 2, "quote"),
    "no part": ("path,label,part\na.jpg,joy,training\nsub/b.jpg,fear,exam\n", 3, "'exam' is not a split"),
    "latin-1 label": (b"path,label\na.jpg,d\xe9go\xfbt\n", 2, "UTF-8"),
    "after a quoted line end": ('path,label,x\na.jpg,joy,"1\n2"\nsub/b.jpg,,3\n', 4, "the label is empty"),
    "NUL": (b"path,label\na\0.jpg,joy\n", 2, "NUL"),
    "all missing": ("path,label\nx.jpg,joy\n", 2, "'x.jpg' is not a file below"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_sheets_name_the_line_and_what_to_do(photos: Photos, fault: str) -> None:
    text, line, words = FAULTS[fault]
    path = write(photos("a.jpg", "sub/b.jpg"), text)
    with pytest.raises(DataError) as caught:
        open_table(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: ")
    assert words in message
    assert message.isprintable()


def test_an_empty_sheet(photos: Photos) -> None:
    with pytest.raises(DataError, match="it is empty"):
        open_table(write(photos("a.jpg"), "\n"))


def test_other_faulty_lines_are_counted(photos: Photos) -> None:
    path = write(photos("a.jpg"), "path,label\na.jpg,\n/x,joy\na.jpg,joy\n,fear\n")
    with pytest.raises(DataError, match=r":2: the label is empty.*3 other lines have errors too: 3, 4, 5"):
        open_table(path)


def test_links_out_of_the_root_are_paths_out_of_it(photos: Photos, tmp_path: Path) -> None:
    photos("in/a.jpg", "out/x.jpg")
    (tmp_path / "in" / "link.jpg").symlink_to(tmp_path / "out" / "x.jpg")
    path = write(tmp_path / "in", "path,label\na.jpg,joy\nlink.jpg,joy\n")
    with pytest.raises(DataError, match=r":3: .*leads outside"):
        open_table(path)
    assert len(open_table(path, allow_outside=True)) == 2


def test_allow_outside(photos: Photos, tmp_path: Path) -> None:
    photos("out/x.jpg", "in/a.jpg")
    path = write(tmp_path / "in", f"path,label\n../out/x.jpg,joy\n{tmp_path}/in/a.jpg,joy\n")
    table = open_table(path, allow_outside=True)
    assert table.ids == ("../out/x.jpg", "a.jpg")
    assert all(table.path(i).is_file() for i in range(2))


def test_missing_files_are_left_out_and_told(photos: Photos) -> None:
    path = write(photos("a.jpg"), "path,label\na.jpg,joy\nx.jpg,joy\nfolder/y.jpg,fear\n")
    table = open_table(path)
    assert table.ids == ("a.jpg",)
    assert told(table, "left out 2 of 3 images whose files are missing, 'x.jpg' (line 3) first")
    with pytest.raises(DataError, match=r":3: 'x.jpg' is not a file"):
        open_table(path, strict=True)


def test_votes_of_a_sheet(photos: Photos) -> None:
    root = photos("1.jpg", "2.jpg", "3.jpg")
    file = root / "votes.csv"
    file.write_text("path,votes_fear,votes_awe,votes_joy\n1.jpg,1,3,0\n2.jpg,2,2,0\n3.jpg,0.1,0.9,0\n")
    table = open_table(str(file), label="votes")
    assert table.classes == ("awe", "fear", "joy")
    assert labelled(table) == {"1.jpg": "awe", "2.jpg": "fear", "3.jpg": "awe"}
    assert table.votes is not None
    assert table.votes.tolist() == [[0.75, 0.25, 0], [0.5, 0.5, 0], [0.9, 0.1, 0]]
    assert not table.columns
    assert labelled(open_table(str(file))) == labelled(table), "on winners"
    file.write_text("path,label,votes_fear,votes_awe\n1.jpg,fear,1,3\n")
    with pytest.raises(DataError, match=r":2: the label is 'fear', and most votes are for 'awe'"):
        open_table(str(file))
    file.write_text("path,votes_fear,votes_awe\n1.jpg,1,much\n")
    with pytest.raises(DataError, match=r":2: the votes cannot be read"):
        open_table(str(file))
    file.write_text("path,label\n1.jpg,fear\n")
    with pytest.raises(UsageError, match="votes needs columns votes_CLASS"):
        open_table(str(file), label="votes")


def test_parts_and_maps_of_a_sheet(photos: Photos) -> None:
    root = photos("a.jpg", "b.jpg", "d/a.png", "d/b.png", "s/a.png")
    path = write(
        root, "path,label,split,depth,saliency,n\na.jpg,x,train,d/a.png,s/a.png,1\nb.jpg,y,dev,d/b.png,s/b.png,2\n"
    )
    table = open_table(path)
    assert table.parts == ("train", "val")
    assert table.maps == {"depth": ("d/a.png", "d/b.png")}
    assert told(table, "column 'saliency' holds no maps: 1 files are missing, first on line 3")


def test_names_that_are_not_utf8_are_found(photos: Photos) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    try:
        root = photos(name)
    except OSError:
        pytest.skip("this file system takes no such names")
    assert open_table(write(root, f"path,label\n{name},joy\n")).ids == (name,)


# Named layouts


def test_unknown_layouts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'emotion6'"):
        open_table(f"emotin6:{tmp_path}")
    with pytest.raises(UsageError, match="needs a path"):
        open_table("emotion6:")


def test_a_path_may_hold_a_colon(photos: Photos) -> None:
    assert open_table(str(photos("odd:name/a/1.jpg") / "odd:name")).classes == ("a",)


def test_labels_are_chosen_only_where_there_are_several(photos: Photos) -> None:
    root = photos("a/1.jpg")
    with pytest.raises(UsageError, match=r"data\.label"):
        open_table(str(root), label="vote")
    with pytest.raises(UsageError, match=r"data\.label"):
        open_table(f"emoset:{root}", label="vote")


HEADER6 = "[image_filename]\t[valence]\t[arousal]\t" + "\t".join(
    f"[prob. {name}]" for name in ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral")
)


def test_emotion6(photos: Photos) -> None:
    root = photos("images/joy/1.jpg", "images/joy/2.jpg", "images/fear/1.jpg", "images/fear/9.jpg")
    rows = ["joy/1.jpg\t5\t5\t0\t0\t.1\t.6\t0\t0\t.3", "joy/2.jpg\t5\t5\t0\t0\t.1\t.2\t0\t0\t.7"]
    rows += ["fear/1.jpg\t5\t5\t.5\t0\t.5\t0\t0\t0\t0", "fear/2.jpg\t5\t5\t1\t0\t0\t0\t0\t0\t0"]
    (root / "ground_truth.txt").write_text("\n".join([HEADER6, *rows]))
    table = open_table(f"emotion6:{root}")
    assert labelled(table) == {"fear/1.jpg": "anger", "joy/1.jpg": "joy", "joy/2.jpg": "neutral"}
    assert table.root == root / "images"
    assert told(table, "1 tied votes")
    assert told(table, "1 images ignored")
    assert told(table, "1 images left out: missing files, of 4")
    assert table.votes is None, "people voted on classes that no photo is of"
    voted = open_table(f"emotion6:{root}", label="votes")
    assert voted.classes == ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
    assert voted.votes is not None
    assert dict(zip(voted.ids, voted.votes.tolist(), strict=True))["joy/1.jpg"] == [0, 0, 0.1, 0.6, 0.3, 0, 0]
    assert labelled(voted) == labelled(table)
    keyword = open_table(f"emotion6:{root}", label="keyword")
    assert keyword.votes is None
    assert labelled(keyword) == {"fear/1.jpg": "fear", "joy/1.jpg": "joy", "joy/2.jpg": "joy"}
    with pytest.raises(UsageError, match="Did you mean 'keyword'"):
        emotion6(root, label="keywrd")
    (root / "ground_truth.txt").write_text(HEADER6 + "\njoy/1.jpg\t5\t5\tmuch\t0\t0\t0\t0\t0\t0")
    with pytest.raises(DataError, match=r"ground_truth.txt:2: the votes cannot be read"):
        emotion6(root)


def test_fi_class_folders(photos: Photos) -> None:
    root = photos("emotion_dataset/awe/1.jpg", "emotion_dataset/fear/1.jpg")
    assert labelled(fi(root)) == labelled(fi(root / "emotion_dataset")) == {"awe/1.jpg": "awe", "fear/1.jpg": "fear"}


def test_fi_votes(photos: Photos) -> None:
    root = photos(*(f"images/{n}.jpg" for n in range(1, 6)))
    (root / "agg").mkdir()
    url = "http://farm4.staticflickr.com/123/"
    (root / "agg" / "awe_0.csv").write_text(
        f"1,{url}1.jpg,1,4\n2,{url}2.jpg,3,2\n3,{url}3.jpg,0,5\n4,{url}gone.jpg,0,5\n"
    )
    (root / "agg" / "fear_1.csv").write_text(
        f"1,{url}3.jpg,1,4\n2,{url}4.jpg,2,2\n3,{url}5.jpg,1,2\n4,{url}1.jpg,1,4\n"
    )
    table = open_table(f"fi:{root}")
    assert labelled(table) == {"images/3.jpg": "awe", "images/5.jpg": "fear"}
    assert told(table, "1 images left out: two emotions tie")
    assert told(table, "1 images left out: votes but no file")
    assert told(table, "2 votes left out: annotators disagree")
    assert labelled(fi(root, label="three")) == {"images/3.jpg": "awe"}
    (root / "agg" / "fear_1.csv").write_text("1,x.jpg,one,2\n")
    with pytest.raises(DataError, match=r"fear_1.csv:1: .* is not a vote"):
        fi(root)


def test_fi_lists(photos: Photos) -> None:
    root = photos("emotion_dataset/awe/1.jpg", "emotion_dataset/fear/1.jpg", "emotion_dataset/fear/2.jpg")
    (root / "label").mkdir()
    (root / "label" / "train.csv").write_text(
        "file_link,emotion\nawe/1.jpg,awe\nhttp://x.org/fear/2.jpg,Fear\nfear/3.jpg,fear\n"
    )
    (root / "label" / "test.csv").write_text("file_link,emotion\nfear/1.jpg,fear\n")
    table = fi(root)
    assert labelled(table) == {
        "emotion_dataset/awe/1.jpg": "awe",
        "emotion_dataset/fear/1.jpg": "fear",
        "emotion_dataset/fear/2.jpg": "fear",
    }
    assert Counter(in_parts(table).values()) == {"train": 2, "test": 1}
    assert told(table, "1 images left out: listed")
    with pytest.raises(UsageError, match=r"data\.label"):
        fi(root, label="three")


@pytest.mark.parametrize("fields", [3, 4])
def test_emoset(photos: Photos, fields: int) -> None:
    root = photos("image/awe/1.jpg", "image/sadness/2.jpg", "image/awe/3.jpg")
    for part, label, number in (("train", "awe", 1), ("val", "sadness", 2), ("test", "awe", 3), ("test", "awe", 4)):
        row = [label, f"{label}_{number}", f"image/{label}/{number}.jpg", f"annotation/{label}/{number}.json"]
        file = root / f"{part}.json"
        rows = json.loads(file.read_text()) if file.exists() else []
        file.write_text(json.dumps([*rows, row if fields == 4 else [row[0], *row[2:]]]))
    table = open_table(f"emoset:{root}")
    assert labelled(table) == {"image/awe/1.jpg": "awe", "image/sadness/2.jpg": "sadness", "image/awe/3.jpg": "awe"}
    assert table.parts == ("test", "train", "val") or Counter(table.parts or ()) == {"train": 1, "val": 1, "test": 1}
    assert told(table, "1 images left out: missing files")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[["awe", "../../x.jpg", "a"]]', "row 1: '../../x.jpg' leads outside"),
        ('[["awe", 3]]', "row 1: .* is not a row of EmoSet"),
        ('{"a": 1}', "not a list of rows"),
        ("[", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_emoset_faults(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(DataError, match=words):
        emoset(tmp_path)


def test_emotionroi(photos: Photos) -> None:
    root = photos("images/anger/1.jpg", "images/joy/1.jpg", "images/joy/2.jpg")
    (root / "training_testing_split").mkdir()
    (root / "training_testing_split" / "training.txt").write_text("anger/1.jpg\r\njoy/9.jpg\r\n")
    (root / "training_testing_split" / "testing.txt").write_text("joy/1.jpg\n")
    table = open_table(f"emotionroi:{root}")
    assert in_parts(table) == {"anger/1.jpg": "train", "joy/1.jpg": "test"}
    assert table.root == root / "images"
    assert told(table, "1 images ignored")
    assert told(table, "1 images left out")
    (root / "training_testing_split" / "testing.txt").write_text("anger/1.jpg\n")
    with pytest.raises(DataError, match=r":[12]: 'anger/1.jpg' is already in"):
        emotionroi(root)


def test_artphoto(photos: Photos) -> None:
    root = photos("sad_0001.jpg", "content_0012.jpg", "awe_0003.jpg", "readme_1.jpg", "x.jpg")
    table = open_table(f"artphoto:{root}")
    assert labelled(table) == {"sad_0001.jpg": "sadness", "content_0012.jpg": "contentment", "awe_0003.jpg": "awe"}
    assert told(table, "2 images ignored")
    assert artphoto(root).classes == ("awe", "contentment", "sadness")


def test_abstract(photos: Photos) -> None:
    root = photos("abst_1.jpg", "abst_2.jpg", "abst_3.jpg")
    header = "'','Amusement','Anger','Awe','Content','Disgust','Excitement','Fear','Sad'"
    rows = [
        "'abst_1.jpg',0,0,0,7,0,0,0,3",
        "'abst_2.jpg',0,4,4,0,0,0,0,0",
        "'abst_3.jpg',0,0,0,0,0,0,1,9",
        "'abst_4.jpg',1,0,0,0,0,0,0,0",
    ]
    (root / "ABSTRACT_groundTruth.csv").write_text("\n".join([header, *rows]))
    table = open_table(f"abstract:{root}")
    assert labelled(table) == {"abst_1.jpg": "contentment", "abst_3.jpg": "sadness"}
    assert told(table, "1 images left out: tied vote")
    assert told(table, "1 images left out: votes but no file")
    voted = open_table(f"abstract:{root}", label="votes")
    assert labelled(voted) == {"abst_1.jpg": "contentment", "abst_2.jpg": "anger", "abst_3.jpg": "sadness"}
    assert voted.votes is not None
    assert voted.votes[1].tolist() == [0, 0.5, 0.5, 0, 0, 0, 0, 0]
    (root / "ABSTRACT_groundTruth.csv").write_text("\n".join(rows))
    with pytest.raises(DataError, match=":1: the first line names no emotions"):
        abstract(root)


def test_webemo_folders(photos: Photos) -> None:
    root = photos("images/test25/1/a.jpg", "images/test25/24/b.jpg", "images/test25/17/c.jpg", "images/test25/99/d.jpg")
    table = open_table(f"webemo:{root}")
    assert labelled(table) == {"test25/1/a.jpg": "joy", "test25/24/b.jpg": "joy", "test25/17/c.jpg": "anger"}
    assert set(table.parts or ()) == {"test"}
    assert told(table, "1 images ignored: folder is neither a number")
    assert set(labelled(webemo(root, label="25")).values()) == {"cheerfulness", "zest", "rage"}
    assert set(labelled(webemo(root, label="2")).values()) == {"positive", "negative"}


def test_webemo_lists(photos: Photos) -> None:
    root = photos("images/x/a.jpg", "images/b.jpg")
    (root / "train25.txt").write_text(
        "http://example.org/x/a.jpg?size=3 cheerfullness\nhttp://example.org/gone.jpg 3\n"
    )
    (root / "test25.txt").write_text("http://example.org/y/b.jpg 11\n")
    table = open_table(f"webemo:{root}", label="25")
    assert labelled(table) == {"x/a.jpg": "cheerfulness", "b.jpg": "irritability"}
    assert in_parts(table) == {"x/a.jpg": "train", "b.jpg": "test"}
    (root / "test25.txt").write_text("http://example.org/y/b.jpg 25\n")
    with pytest.raises(DataError, match=r"test25.txt:1: .* is not a line of WebEMO"):
        webemo(root)


def test_webemo_levels() -> None:
    fine = [name for group in SEVEN.values() for name in group]
    assert len(fine) == len(set(fine)) == 25
    assert {at_level(name, "7") for name in fine} == set(SEVEN)
    assert at_level("confusion", "2") == "negative"


def test_ldl(photos: Photos) -> None:
    root = photos("images/1.jpg", "images/2.jpg", "images/3.jpg")
    (root / "ground_truth.txt").write_text(
        "1.jpg 0 0 0 5 6 0 0 0\n2.jpg 1 1 0 0 0 0 0 0\n3.jpg .1 .9 0 0 0 0 0 0\n4.jpg 1 0 0 0 0 0 0 0\n"
    )
    (root / "readme.txt").write_text("Flickr LDL\n")
    table = open_table(f"ldl:{root}")
    assert labelled(table) == {"1.jpg": "anger", "3.jpg": "awe"}
    assert table.ids == ldl(root / "ground_truth.txt").ids
    assert told(table, "1 images left out: tied vote")
    voted = open_table(f"ldl:{root}", label="votes")
    assert labelled(voted) == {"1.jpg": "anger", "2.jpg": "amusement", "3.jpg": "awe"}
    assert voted.votes is not None
    assert dict(zip(voted.classes, voted.votes[2], strict=True)) == pytest.approx(
        {**dict.fromkeys(voted.classes, 0), "amusement": 0.1, "awe": 0.9}
    )
    with pytest.raises(UsageError, match="Did you mean 'vote'"):
        ldl(root, label="votte")
    (root / "ground_truth.txt").write_text("1.jpg 0 0 0 5 6 0 0 0\n2.jpg 1 1\n")
    with pytest.raises(DataError, match=r":2: there are 2 votes"):
        ldl(root)
    (root / "ground_truth.txt").unlink()
    with pytest.raises(DataError, match="no text file with votes"):
        ldl(root)


def test_a_layout_without_images_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image of artphoto can be used"):
        artphoto(tmp_path)
