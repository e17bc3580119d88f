"""Numbers out of range: exit code 2 before any computation."""

from __future__ import annotations

from pathlib import Path

import pytest

from multistream import compose
from multistream.errors import UsageError
from tests.cli.in_process import call

HUGE = str(10**30)
COUNTS = [
    ("data", "split", "--seed"),
    ("extract", "--streams", "object", "--seed"),
    ("extract", "--streams", "object", "--verify", "--sample"),
    ("ablate", "no-run", "--seeds"),
    ("ablate", "no-run", "--splits"),
    ("profile", "--streams", "object", "--classes"),
    ("profile", "--streams", "object", "--batch"),
    ("profile", "--streams", "object", "--repeats"),
    ("train", "--streams", "object", "--epochs"),
    ("train", "--streams", "object", "--seed"),
    ("train", "--streams", "object", "--batch-size"),
    ("reproduce", "table1", "--streams", "object", "--folds"),
    ("reproduce", "table1", "--streams", "object", "--repeats"),
    ("reproduce", "table1", "--streams", "object", "--seeds"),
    ("reproduce", "table1", "--streams", "object", "--splits"),
]


@pytest.mark.parametrize("words", COUNTS, ids=" ".join)
@pytest.mark.parametrize("number", ["-1", HUGE, "1e9", "nan", "x"])
def test_numbers_out_of_range(words: tuple[str, ...], number: str, tmp_path: Path) -> None:
    if (words[-1], number) == ("--sample", HUGE):
        pytest.skip("a sample of more photos than there are is all of them")
    out, err = call(*words, number, cwd=tmp_path, code=2)
    assert out == ""
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_network_needs_classes() -> None:
    with pytest.raises(UsageError, match="classes: none is given"):
        compose(["object"], classes=[])
