"""Tests the benchmark harness: a function in a separate process, which must be able to import this folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.plain import plain_inference


def test_a_call_elsewhere(elsewhere: Callable[..., Any]) -> None:
    elsewhere(plain_inference, ("mobilenetv2_100",), 1, "cpu")()
