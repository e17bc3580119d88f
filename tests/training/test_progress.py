"""A checkpoint's state is what this version writes, or the run cannot be resumed: one line, never a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from multistream.errors import CannotResume
from multistream.runs.checkpoint import understood
from multistream.training.progress import Progress

STATE = Progress(epoch=2, step=7, history=({"epoch": 0}, {"epoch": 1})).to_state()
WRONG: list[Any] = [None, "x", -1.5, [], {}, [1], True, {"x": 1}]


def test_what_is_saved_comes_back() -> None:
    assert Progress.from_state(STATE) == Progress(epoch=2, step=7, history=({"epoch": 0}, {"epoch": 1}))


@pytest.mark.parametrize("name", STATE)
def test_a_field_of_another_kind_cannot_be_resumed(name: str) -> None:
    refused = 0
    for value in WRONG:
        try:
            Progress.from_state({**STATE, name: value})
        except CannotResume:
            refused += 1
    assert refused >= 5
    with pytest.raises(CannotResume):
        Progress.from_state({**STATE, "more": 1})


@pytest.mark.parametrize("error", [KeyError("model"), TypeError("x"), RuntimeError("size mismatch for weight")])
def test_what_is_not_understood_is_one_line(error: Exception) -> None:
    with pytest.raises(CannotResume, match="step-4: it cannot be read"), understood(Path("step-4")):
        raise error
    with pytest.raises(RuntimeError, match="allocate"), understood(Path("step-4")):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
