"""Stopping on request: the first Ctrl-C or SIGTERM finishes the step and saves, the second stops immediately.

Slurm and terminals signal every process of a job, and torchrun forwards the signal again. Signals within ECHO seconds
are therefore the same request.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

ECHO: Final = 1.0
"""Seconds after the first signal in which further signals are not a second request."""


class Stop:
    """Whether a stop was requested, and by which signal."""

    def __init__(self) -> None:
        self.signal = 0

    def __call__(self) -> bool:
        return self.signal != 0


class Interrupted(Exception):
    """The work was stopped by `signal` and its state is saved; `resume` is the command that continues it."""

    def __init__(self, number: int, resume: str) -> None:
        self.signal, self.resume = number, resume
        super().__init__(resume)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Catches the first SIGINT or SIGTERM inside the context, in the main thread; restores the previous handlers."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    since = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal since
        del frame
        if not stop.signal:
            stop.signal, since = number, time.monotonic()
        elif time.monotonic() - since > ECHO:
            for each, handler in before.items():
                signal.signal(each, handler)
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
