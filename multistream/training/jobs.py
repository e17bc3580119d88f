"""A planned training run, and a job: one training run in its own process, with the handle that an engine returns."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from multistream import runs
from multistream.errors import RunBusy
from multistream.files import remove
from multistream.folder_lock import LOCK, FolderLock
from multistream.recipe import Recipe

State = Literal["new", "stopped", "finished"]


@dataclass(frozen=True)
class PlannedRun:
    """One training of a list: its recipe, its run's folder, and its name in messages."""

    name: str
    recipe: Recipe
    folder: Path

    @property
    def state(self) -> State:
        """Whether the run has not started, was stopped, or is finished."""
        if (self.folder / runs.SUMMARY).is_file():
            return "finished"
        return "stopped" if (self.folder / runs.RECIPE).is_file() else "new"

    def clear(self) -> None:
        """Removes what a process left that was killed before it wrote the recipe. RunBusy if it is still alive."""
        if self.state == "new" and self.folder.is_dir():
            with FolderLock(self.folder):
                for path in self.folder.iterdir() if self.state == "new" else ():
                    if path.name != LOCK:
                        remove(path)

    @property
    def trainings(self) -> int:
        """The number of training runs: one, or one for each fold and repeat."""
        data = self.recipe.data
        return data.folds * data.repeats if data.folds and not data.fold else 1

    def to_dict(self) -> dict[str, Any]:
        """Returns an entry of the list that `--plan --json` prints."""
        return {"run": self.name, "state": self.state, "trainings": self.trainings, "folder": str(self.folder)}

    def __str__(self) -> str:
        name = f"{self.name} ({self.trainings:,} training runs)" if self.trainings > 1 else self.name
        return f"{self.state:9} {name:40} {self.folder}"


LOST: Final = 71
"""Exit code of a run that its engine lost, for example because a machine failed or a time limit passed."""


POLL: Final = 1.0
"""Seconds between two checks for a cancelled task."""


class Job(Protocol):
    """The handle of a submitted run: a future of concurrent.futures, or a Slurm job."""

    def done(self) -> bool:
        """Returns whether the job has ended."""
        ...

    def result(self) -> tuple[int, str]:
        """Returns the exit code and the last line of stderr. Raises if the engine lost the job."""
        ...

    def cancel(self) -> object:
        """Cancels a waiting job. A running job on a cluster saves a checkpoint and ends."""
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
    """Trains a recipe in its folder with `multistream train`; returns the exit code and the last line of stderr.

    A stopped run is resumed. `started` is called with the process, `log` with its whole stderr.
    """
    run = PlannedRun(folder, Recipe(), Path(cwd, folder))
    words = ["--resume", str(run.folder)]
    with tempfile.TemporaryDirectory(prefix="multistream-") as temporary:
        if run.state == "new":
            try:
                run.clear()
            except RunBusy as error:
                return RunBusy.exit_code, str(error)
            Path(temporary, "recipe.toml").write_text(recipe, encoding="utf-8")
            words = ["--recipe", str(Path(temporary, "recipe.toml")), "--out", str(run.folder)]
        command = [sys.executable, "-m", "multistream", "train", *words, "--quiet"]
        pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        pipes["start_new_session"] = True  # only this process gets Ctrl-C from a terminal, so the run is signalled once
        process = subprocess.Popen(command, cwd=cwd, env={**os.environ, **(variables or {})}, **pipes)
        if started is not None:
            started(process)
        errors = _waited(process)
    if log is not None:
        log(errors)
    return _outcome(process.returncode, errors)


def _waited(process: subprocess.Popen[str]) -> str:
    """Returns a process's stderr after it has ended. After Ctrl-C, which Ray sends to cancel a task, it saves first."""
    while True:
        try:
            return process.communicate(timeout=POLL)[1]
        except subprocess.TimeoutExpired:
            continue  # a KeyboardInterrupt from Ray is raised between two calls, not within one
        except KeyboardInterrupt:
            process.terminate()


def _outcome(code: int, errors: str) -> tuple[int, str]:
    """Returns the exit code as a shell reports it, and the reason why the process ended."""
    if code < 0:
        return 128 - code, f"it was ended by {signal.Signals(-code).name}."
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):  # the run's own last line would name only its own folder
        return code, f"it was stopped by {signal.Signals(code - 128).name}, and is saved."
    return code, (errors.strip().splitlines() or ["it printed nothing."])[-1]
