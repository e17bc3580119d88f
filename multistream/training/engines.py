"""Many training runs: a list of independent runs on an engine that others have written (processes, Slurm, Ray).

Each run is the command `multistream train` in a process of its own, with its own folder and lock: what is finished is
not done again, what was stopped goes on, and one that fails or is killed is named while the others go on.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from multistream.console import Console
from multistream.errors import MultistreamError, PluginError, UsageError
from multistream.interfaces import Stream
from multistream.recipe import Recipe
from multistream.runtime.device import available_workers
from multistream.training.planned_run import PlannedRun
from multistream.training.stop import Interrupted, Stop, stoppable

ENGINES: Final = ("local", "slurm", "ray")
POLL: Final = 0.2
"""Seconds between two looks at the jobs."""

INHERITED: Final = ("MULTISTREAM_", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
"""Variables, or the beginnings of their names, that a job on another machine gets from here."""


@dataclass(frozen=True)
class Engine:
    """Where runs are trained: `local`, `slurm` or `ray`, with the engine's own options (see docs/scale.md)."""

    name: str
    options: Mapping[str, int | str] = field(default_factory=dict)

    @classmethod
    def parse(cls, name: str, options: Mapping[str, str]) -> Engine:
        """From the command line. Raises UsageError."""
        if name not in ENGINES:
            raise UsageError("--engine", f"{name!r} is unknown.", right=f"It must be one of {', '.join(ENGINES)}.")
        return cls(name, {key: int(value) if value.isdecimal() else value for key, value in options.items()})


class Job(Protocol):
    """What an engine gives for what was submitted: a future of concurrent.futures, or submitit's job."""

    def done(self) -> bool:
        """Whether `result` has an answer."""
        ...

    def result(self) -> tuple[int, str]:
        """The exit code and the last line of stderr; raises where the engine lost the job."""
        ...


Submit = Callable[..., Job]


def check_can_be_sent(streams: Mapping[str, Stream] | None) -> None:
    """UsageError where streams are given as instances: an engine trains in other processes."""
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
    """Trains what is not finished. `place` is a folder for the engine's own files.

    Raises RunsFailed, after all have ended, where some failed; Interrupted where `stop` or a signal says so, with
    `again` as the way to go on.
    """
    todo = [run for run in planned if run.state != "finished"]
    console.say(f"engine {engine.name}: {len(todo):,} of {len(planned):,} runs to train")
    if not todo:
        return
    processes: list[subprocess.Popen[str]] = []
    submit = _submitter(engine, len(todo), place, processes)
    jobs = {run.name: submit(train_in_process, run.recipe.dumps(), str(run.folder), os.getcwd()) for run in todo}
    try:
        with nullcontext(stop) if stop else stoppable() as asked:
            failed = _gathered(jobs, console, asked, again)
    except BaseException:
        _end(jobs, processes)
        raise
    if failed:
        raise RunsFailed(failed, len(planned))


class RunsFailed(MultistreamError):
    """Some runs of a list failed; the exit code is the first one's."""

    def __init__(self, failed: Mapping[str, tuple[int, str]], total: int) -> None:
        name, (code, line) = next(iter(failed.items()))
        self.exit_code = code if code > 0 else 1  # type: ignore[misc]  # each failure has its own
        others = f" Also failed: {', '.join(list(failed)[1:])}." if len(failed) > 1 else ""
        do = "The others are finished; the same command trains what is missing."
        super().__init__(f"run {name}", f"{line}{others}", right=f"{len(failed)} of {total} runs failed.", do=do)


def train_in_process(
    recipe: str, folder: str, cwd: str, *, variables: Mapping[str, str] | None = None, started: Any = None
) -> tuple[int, str]:
    """Trains a recipe in its folder with `multistream train`: the exit code, and the last line of stderr.

    A run that was stopped goes on. `started` is called with the process.
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
        _, errors = process.communicate()
    if process.returncode < 0:
        return 128 - process.returncode, f"it was ended by {signal.Signals(-process.returncode).name}."
    return process.returncode, (errors.strip().splitlines() or ["it printed nothing."])[-1]


def _gathered(jobs: Mapping[str, Job], console: Console, stop: Stop, again: str) -> dict[str, tuple[int, str]]:
    """Waits for all jobs, says how each ended, and returns those that failed: {name: (exit code, last line)}."""
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
    """How a job ended; one that its engine lost (a machine that died, a time limit) is a failure of that run alone."""
    try:
        return job.result()
    except Exception as error:  # each engine raises classes of its own, and the other runs go on
        return 71, f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _end(jobs: Mapping[str, Job], processes: Sequence[subprocess.Popen[str]]) -> None:
    """Ends what is under way: local processes save and leave; jobs that wait are withdrawn."""
    for job in jobs.values():
        getattr(job, "cancel", lambda: None)()
    for process in processes:
        process.terminate()  # nothing, where it has ended
    for process in processes:
        process.wait()


def _submitter(engine: Engine, count: int, place: Path, processes: list[subprocess.Popen[str]]) -> Submit:
    """What submits a job to the engine. Raises UsageError for options it does not have, PluginError without it."""
    if engine.name == "local":
        return _local(engine.options, count, processes)
    if engine.name == "slurm":
        return _slurm(engine.options, place)
    return _ray(engine.options)


def _local(options: Mapping[str, int | str], count: int, processes: list[subprocess.Popen[str]]) -> Submit:
    """`parallel` processes at a time, which divide the cores among them."""
    cores = max(1, available_workers())
    _check_known(options, ("parallel",), "local")
    parallel = options.get("parallel", min(cores, count))
    if not isinstance(parallel, int) or parallel < 1:
        what = f"parallel={parallel} is not a number of runs."
        raise UsageError("--engine-option", what, right="It must be 1 or more.")
    pool = ThreadPoolExecutor(parallel)
    variables = {"OMP_NUM_THREADS": str(max(1, cores // parallel))}

    def submit(function: Callable[..., tuple[int, str]], *arguments: str) -> Job:
        return pool.submit(function, *arguments, variables=variables, started=processes.append)

    return submit


def _slurm(options: Mapping[str, int | str], place: Path, *, cluster: str = "slurm") -> Submit:
    """submitit; the options are its parameters, such as timeout_min, cpus_per_task or slurm_partition."""
    try:
        import submitit
    except ImportError as error:
        do = "Install it: pip install 'multistream[slurm]'."
        raise PluginError("--engine", "submitit is not installed.", do=do) from error
    try:
        executor = submitit.AutoExecutor(place / "slurm", cluster=cluster)
        executor.update_parameters(**{"name": "multistream", **options})
    except (NameError, ValueError, TypeError, AssertionError, RuntimeError) as error:  # what submitit raises
        right = "Options are submitit's: timeout_min=600, cpus_per_task=8, gpus_per_node=1, slurm_partition=NAME."
        raise UsageError("--engine slurm", f"{error}".strip().rstrip(".") + ".", right=right) from error
    submit: Submit = executor.submit
    return submit


def _ray(options: Mapping[str, int | str]) -> Submit:
    """Ray tasks; the options are what one run needs of a machine: num_cpus (1), num_gpus (0)."""
    from multistream.batch.ray_engine import start_ray  # prediction's modules, for this engine alone

    _check_known(options, ("num_cpus", "num_gpus"), "ray")
    ray = start_ray()
    remote = ray.remote(train_in_process).options(**{"num_cpus": 1, "max_retries": 0, **options})
    variables = {name: value for name, value in os.environ.items() if name.startswith(INHERITED)}

    def submit(_function: Callable[..., tuple[int, str]], *arguments: str) -> Job:
        job: Job = remote.remote(*arguments, variables=variables).future()
        return job

    return submit


def _check_known(options: Mapping[str, int | str], known: Sequence[str], engine: str) -> None:
    if unknown := [name for name in options if name not in known]:
        right = f"Engine {engine} has {', '.join(known)}."
        raise UsageError("--engine-option", f"{unknown[0]!r} is unknown.", right=right)
