"""A job: one training run in a process of its own, and what an engine gives back for it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from multistream.recipe import Recipe
from multistream.training.planned_run import PlannedRun

LOST: Final = 71
"""Exit code of a run whose engine lost it: a machine that died, a time limit."""


POLL: Final = 1.0
"""Seconds between two looks at whether a task was cancelled."""


class Job(Protocol):
    """What an engine gives for what was submitted: a future of concurrent.futures, or a job of Slurm's."""

    def done(self) -> bool:
        """Whether `result` has an answer."""
        ...

    def result(self) -> tuple[int, str]:
        """The exit code and the last line of stderr; raises where the engine lost the job."""
        ...

    def cancel(self) -> object:
        """Withdraws a job that waits; one that runs on a cluster saves and ends."""
        ...


Submit = Callable[..., Job]


def train_in_process(
    recipe: str,
    folder: str,
    cwd: str,
    *,
    variables: Mapping[str, str] | None = None,
    started: Any = None,
    log: Any = None,
) -> tuple[int, str]:
    """Trains a recipe in its folder with `multistream train`: the exit code, and the last line of stderr.

    A run that was stopped goes on. `started` is called with the process, `log` with all of its stderr.
    """
    run = PlannedRun(folder, Recipe(), Path(cwd, folder))
    words = ["--resume", str(run.folder)]
    with tempfile.TemporaryDirectory(prefix="multistream-") as temporary:
        if run.state == "new":
            if run.folder.is_dir():
                shutil.rmtree(run.folder)  # killed before it had written what it is
            Path(temporary, "recipe.toml").write_text(recipe, encoding="utf-8")
            words = ["--recipe", str(Path(temporary, "recipe.toml")), "--out", str(run.folder)]
        command = [sys.executable, "-m", "multistream", "train", *words, "--quiet"]
        pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        pipes["start_new_session"] = True  # Ctrl-C in a terminal comes to us alone, and the run is signalled once
        process = subprocess.Popen(command, cwd=cwd, env={**os.environ, **(variables or {})}, **pipes)
        if started is not None:
            started(process)
        errors = _waited(process)
    if log is not None:
        log(errors)
    return _outcome(process.returncode, errors)


def _waited(process: subprocess.Popen[str]) -> str:
    """The stderr of a process when it has ended; Ctrl-C, which is also how Ray cancels a task, lets it save first."""
    while True:
        try:
            return process.communicate(timeout=POLL)[1]
        except subprocess.TimeoutExpired:
            continue  # Ray's Ctrl-C comes between two calls, not within one
        except KeyboardInterrupt:
            process.terminate()


def _outcome(code: int, errors: str) -> tuple[int, str]:
    """The exit code as a shell gives it, and why the process ended."""
    if code < 0:
        return 128 - code, f"it was ended by {signal.Signals(-code).name}."
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):  # its own last line names the folder of this run alone
        return code, f"it was stopped by {signal.Signals(code - 128).name}, and is saved."
    return code, (errors.strip().splitlines() or ["it printed nothing."])[-1]
