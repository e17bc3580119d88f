"""Threads that decode: nothing of them is left when a pool closes."""

from __future__ import annotations

import threading
import time

import pytest

from multistream.data import decode_workers
from multistream.data.decode_workers import Pool


def test_no_thread_outlives_its_pool() -> None:
    """A daemon that drops a tensor while the interpreter ends aborts the process, after its work was done."""
    before = threading.active_count()
    with Pool(3) as pool:
        assert [pool.submit(int, text).result() for text in "123"] == [1, 2, 3]
    assert threading.active_count() == before


def test_what_has_not_begun_is_cancelled() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        go_on.wait(10)

    with Pool(1) as pool:
        first, second = pool.submit(hold), pool.submit(int, "2")
        begun.wait(10)
        threading.Timer(0.05, go_on.set).start()
    assert first.done()
    assert second.cancelled()


def test_a_read_that_hangs_does_not_keep_a_pool_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_workers, "CLOSING", 0.1)
    go_on = threading.Event()
    start = time.monotonic()
    with Pool(1) as pool:
        pool.submit(go_on.wait, 30)
    assert time.monotonic() - start < 10
    go_on.set()
