"""Options that depend on another option: without it they are rejected, because they would change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.in_process import call


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("train --streams object --weights object=random --repeats 3", "--folds"),
        ("reproduce table1 --folds 0 --repeats 3 --plan", "--folds"),
        ("extract --streams object --weights object=random --sample 3", "--verify"),
        ("explain run --classes all", "--npz"),
        ("explain run --colour-scale map", "--overlays"),
    ],
)
def test_an_option_without_the_one_it_needs_is_rejected(words: str, says: str, tmp_path: Path) -> None:
    _, err = call(*words.split(), cwd=tmp_path, code=2)
    assert says in err
