"""Trains a list of independent runs on an engine: local processes, Slurm or Ray.

Each run is the command `multistream train` in its own process, with its own folder and lock. Finished runs are not
trained again and stopped runs are resumed. If a run fails or is killed, it is reported and the others continue.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from multistream.console import Console
from multistream.errors import MultistreamError, UsageError
from multistream.interfaces import Stream
from multistream.runtime.device import available_workers
from multistream.training import slurm
from multistream.training.jobs import LOST, Job, PlannedRun, Submit, train_in_process
from multistream.training.stop import Interrupted, Stop, stoppable

OPTIONS: Final = {"local": ("parallel",), "ray": ("num_cpus", "num_gpus")}
"""The options of each engine; those of slurm are submitit's."""

ENGINES: Final = ("local", "slurm", "ray")
POLL: Final = 0.2
"""Seconds between two polls of the jobs."""

INHERITED: Final = ("MULTISTREAM_", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
"""Names of environment variables, or their prefixes, that are passed to a job on another machine."""


@dataclass(frozen=True)
class Engine:
    """The engine that trains runs: `local`, `slurm` or `ray`, with its own options (see docs/scale.md).

    Raises UsageError for options that the engine does not have, PluginError if it is not installed.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise UsageError("--engine", f"{self.name!r} is unknown.", right=f"It must be one of {', '.join(ENGINES)}.")
        if self.name == "slurm":
            slurm.check_options(self.options)
            return
        known = OPTIONS[self.name]
        if unknown := [name for name in self.options if name not in known]:
            right = f"Engine {self.name} has {', '.join(known)}."
            raise UsageError("--engine-option", f"{unknown[0]!r} is unknown.", right=right)

    @classmethod
    def parse(cls, name: str, options: Mapping[str, str]) -> Engine:
        """Parses an engine and its options from the command line.

        Values are JSON or plain text. Raises UsageError or PluginError.
        """
        return cls(name, {key: _value(text) for key, text in options.items()})

    @property
    def words(self) -> list[str]:
        """The engine as command-line arguments.

        >>> Engine("local", {"parallel": 4}).words
        ['--engine', 'local', '--engine-option', 'parallel=4']
        """
        words = ["--engine", self.name]
        for key, value in self.options.items():
            words += ["--engine-option", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
        return words


def _value(text: str) -> Any:
    """Parses JSON numbers, booleans, lists and objects; any other value is the text itself.

    >>> _value("4"), _value("0.5"), _value("true"), _value('["module load cuda"]'), _value("01:00:00"), _value("main")
    (4, 0.5, True, ['module load cuda'], '01:00:00', 'main')
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return text if value is None or isinstance(value, str) else value


def check_can_be_sent(streams: Mapping[str, Stream] | None) -> None:
    """Raises UsageError if streams are passed as instances: an engine trains in other processes."""
    if streams:
        what = "streams that are given as instances cannot be sent to other processes."
        raise UsageError("engine", what, do="Leave engine out, or name the streams by specs.")


def run_all(
    planned: Sequence[PlannedRun],
    engine: Engine,
    *,
    place: Path,
    console: Console,
    stop: Stop | None = None,
    again: str = "give the same command again",
) -> None:
    """Trains the runs that are not finished. `place` is a folder for the engine's own files.

    Raises RunsFailed, after all runs have ended, if some failed; Interrupted if `stop` or a signal requests it, with
    `again` as the command to continue; UsageError if the engine refuses a run.
    """
    todo = [run for run in planned if run.state != "finished"]
    console.say(f"engine {engine.name}: {len(todo):,} of {len(planned):,} runs to train")
    if not todo:
        return
    processes: list[subprocess.Popen[str]] = []
    submit = _submitter(engine, len(todo), place, processes)
    jobs: dict[str, Job] = {}
    try:
        with nullcontext(stop) if stop else stoppable() as asked:
            for run in todo:
                jobs[run.name] = submit(train_in_process, run.recipe.dumps(), str(run.folder), os.getcwd())
            failed = _gathered(jobs, console, asked, again)
    except BaseException:
        _end(jobs, processes, console)
        raise
    if failed:
        raise RunsFailed(failed, len(planned), again)


class RunsFailed(MultistreamError):
    """Some runs of a list failed; the exit code is that of the first."""

    def __init__(self, failed: Mapping[str, tuple[int, str]], total: int, again: str) -> None:
        name, (code, line) = next(iter(failed.items()))
        self.exit_code = code if code > 0 else 1  # type: ignore[misc]  # each failure has its own
        others = f" Also failed: {', '.join(list(failed)[1:])}." if len(failed) > 1 else ""
        right = f"{len(failed)} of {total} runs failed{', the others are finished' if len(failed) < total else ''}."
        super().__init__(f"run {name}", f"{line}{others}", right=right, do=f"To train what is missing: {again}")


def _gathered(jobs: Mapping[str, Job], console: Console, stop: Stop, again: str) -> dict[str, tuple[int, str]]:
    """Waits for all jobs, reports how each ended, and returns those that failed: {name: (exit code, last line)}."""
    waiting, failed = dict(jobs), {}
    while waiting:
        if stop():
            raise Interrupted(stop.signal, again)
        for name in [name for name, job in waiting.items() if job.done()]:
            code, line = _outcome(waiting.pop(name))
            if code:
                failed[name] = (code, line)
            console.say(f"run {name}: {f'failed ({line})' if code else 'finished'}, {len(waiting):,} left")
        if waiting:
            time.sleep(POLL)
    return failed


def _outcome(job: Job) -> tuple[int, str]:
    """Returns (exit code, last line). A job that its engine lost, for example by a time limit, is a failed run."""
    try:
        return job.result()
    except Exception as error:  # each engine raises its own exception classes, and the other runs must continue
        return LOST, f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _end(jobs: Mapping[str, Job], processes: Sequence[subprocess.Popen[str]], console: Console) -> None:
    """Cancels waiting jobs, terminates running processes, which save first, and waits for them."""
    for job in jobs.values():
        job.cancel()
    signalled, is_reported = 0, False
    while running := sum(not job.done() for job in jobs.values()):
        for process in processes[signalled:]:  # includes processes that were being started meanwhile
            process.terminate()  # has no effect if it has ended
            signalled += 1
        if not is_reported:
            console.say(f"waiting until {running:,} runs are saved; Ctrl-C again exits immediately")
        is_reported = True
        time.sleep(POLL)


def _submitter(engine: Engine, count: int, place: Path, processes: list[subprocess.Popen[str]]) -> Submit:
    """Returns the engine's submit function.

    Raises UsageError for unknown options, PluginError if it is not installed.
    """
    if engine.name == "local":
        return _local(engine.options, count, processes)
    if engine.name == "slurm":
        return slurm.submitter(engine.options, place)
    return _ray(engine.options)


def _local(options: Mapping[str, Any], count: int, processes: list[subprocess.Popen[str]]) -> Submit:
    """Returns a submit function for `parallel` processes at a time, which divide the cores among them."""
    cores = max(1, available_workers())
    parallel = options.get("parallel", min(cores, count))
    if type(parallel) is not int or parallel < 1:
        what = f"parallel={parallel} is not a number of runs."
        raise UsageError("--engine-option", what, right="It must be 1 or more.")
    pool = ThreadPoolExecutor(parallel)
    variables = {"OMP_NUM_THREADS": str(max(1, cores // parallel))}

    def submit(function: Callable[..., tuple[int, str]], *arguments: str) -> Job:
        return pool.submit(function, *arguments, variables=variables, started=processes.append)

    return submit


def _ray(options: Mapping[str, Any]) -> Submit:
    """Returns a submit function for Ray tasks; the options are the resources of one run: num_cpus (1), num_gpus (0)."""
    from multistream.batch.ray_engine import start_ray  # imports the prediction modules, which only this engine needs

    ray = start_ray()
    remote = ray.remote(train_in_process).options(**{"num_cpus": 1, "max_retries": 0, **options})
    variables = {name: value for name, value in os.environ.items() if name.startswith(INHERITED)}

    def submit(_function: Callable[..., tuple[int, str]], *arguments: str) -> Job:
        task = remote.remote(*arguments, variables=variables)
        return _RayJob(task.future(), partial(ray.cancel, task))

    return submit


@dataclass(frozen=True)
class _RayJob:
    """A task of Ray. Its future can be waited for but cannot cancel the task."""

    future: Job
    cancel: Callable[[], object]

    def done(self) -> bool:
        return self.future.done()

    def result(self) -> tuple[int, str]:
        return self.future.result()
