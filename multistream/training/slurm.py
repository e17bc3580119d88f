"""The engine `slurm`: one job for each run, submitted by submitit.

A job that reaches its time limit saves a checkpoint and is queued again to continue. Job states are read from squeue,
since submitit's sacct needs accounting, which a cluster may lack.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from multistream.errors import PluginError, UsageError, said_by
from multistream.training.jobs import LOST, Job, Submit

if TYPE_CHECKING:
    from submitit import Job as SubmittedJob
    from submitit.core.utils import DelayedSubmission

TIMEOUT_MIN: Final = 60
"""Time limit of a job in minutes unless `timeout_min` is set; submitit's default is 5."""

SIGNAL_DELAY: Final = 90
"""Seconds between Slurm's signal to a job and its time limit, unless `slurm_signal_delay_s` is set."""

OPTIONS: Final = (
    "Options are submitit's: timeout_min=600, cpus_per_task=8, gpus_per_node=1, mem_gb=32; "
    "those of sbatch begin with slurm_: slurm_partition=NAME."
)

MEANINGLESS: Final = {
    "nodes": "a run is one process on one node.",
    "tasks_per_node": "a run is one process on one node.",
    "slurm_nodes": "a run is one process on one node.",
    "slurm_ntasks_per_node": "a run is one process on one node.",
    "slurm_array_parallelism": "each run is a job of its own, not part of an array.",
    "slurm_time": "the limit is given in minutes by timeout_min.",
}
"""Parameters of submitit that would start several processes for one run, or have no effect."""

OF_THE_EXECUTOR: Final = ("slurm_max_num_timeout", "slurm_python")
"""Parameters that submitit accepts in the constructor of its executor."""

CHOSEN_BY_USERS: Final = ("SLURM_CONF", "SBATCH_ACCOUNT", "SBATCH_PARTITION", "SBATCH_QOS", "SBATCH_RESERVATION")
"""Slurm variables that are kept when a job submits jobs, because they are not properties of the outer job."""

ENDED: Final = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}
    | {"REVOKED", "TIMEOUT", "GONE"}
)
"""States in squeue of jobs that have ended. GONE is not Slurm's: a job that squeue no longer lists."""

OFTEN, SELDOM = 2.0, 30.0
"""Seconds between two calls of squeue: shortly after jobs were submitted or cancelled, and later."""


class Queue:
    """The states of a user's jobs, from one squeue call for all of them; a `watcher` of submitit."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._asked = self._since = float("-inf")

    def register_job(self, job_id: str) -> None:
        """Adds a new job, and polls more often for a while."""
        self._states[job_id] = "PENDING"
        self._since = time.monotonic()

    def hurry(self) -> None:
        """Polls more often for a while, because jobs were cancelled."""
        self._since = time.monotonic()

    def get_state(self, job_id: str, mode: str = "standard") -> str:
        """Returns the state of a job in Slurm's terms."""
        del mode  # submitit's way to force a call
        now = time.monotonic()
        if now - self._asked > min(SELDOM, max(OFTEN, (now - self._since) / 4)):
            self._ask()
            self._asked = time.monotonic()
        return self._states[job_id]

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        """Returns whether a job has ended, with a result or without."""
        return self.get_state(job_id, mode) in ENDED

    def _ask(self) -> None:
        """Updates the states. If the controller does not answer, they stay unchanged: jobs continue without it."""
        command = ["squeue", "--noheader", "--states=all", f"--user={os.getuid()}", "--format=%i %T"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            found = dict(line.split() for line in answer.stdout.splitlines() if line.strip())
            self._states = {
                job_id: found.get(job_id, state if state in ENDED else "GONE") for job_id, state in self._states.items()
            }


@dataclass(frozen=True)
class SlurmJob:
    """A submitted run."""

    job: SubmittedJob[tuple[int, str]]
    queue: Queue

    def done(self) -> bool:
        """Returns whether the run is trained, or the job has ended.

        A run that was stopped has a result, but Slurm may put its job back into the queue (preemption, a failed node,
        `scontrol requeue`), where it continues and replaces the result.
        """
        if not self.job.done():
            return False
        if self.queue.is_done(self.job.job_id) or self.result()[0] == 0:
            return True
        self.queue.hurry()
        return False

    def cancel(self) -> None:
        """Removes a waiting job from the queue; a running job saves and ends."""
        if not self.done():
            self.queue.hurry()
            self.job.cancel(check=False)

    def result(self) -> tuple[int, str]:
        """Returns the exit code and the reason; LOST if Slurm or submitit ended the job."""
        from submitit.core.utils import FailedJobError, UncompletedJobError

        paths, state = self.job.paths, self.queue.get_state(self.job.job_id)
        where = f"Slurm job {self.job.job_id}"
        if state == "CANCELLED" and not paths.stdout.exists():
            return LOST, f"{where} was cancelled before it had started."
        try:
            code, line = self.job.result()
        except FailedJobError as error:
            code, line = LOST, _last_line(str(error))
        except UncompletedJobError:
            known = "is no longer in the queue" if state == "GONE" else f"ended as {state}"
            code, line = LOST, f"it {known} and left no result{_end_of(paths.stderr)}."
        return code, f"{line} {where}, log: {paths.stderr}" if code else line


class Training:
    """The content of a job: `train`, which can be stopped before the time limit and continued (submitit's protocol)."""

    def __init__(self, train: Callable[..., tuple[int, str]]) -> None:
        self.train = train
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """Trains.

        Slurm signals all processes of a job; the training process receives only the SIGTERM of `checkpoint`.
        """
        handler = signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # inherited by the child process

        def started(process: subprocess.Popen[str]) -> None:
            self.process = process
            signal.signal(signal.SIGUSR2, handler)

        return self.train(*arguments, started=started, log=sys.stderr.write)

    def checkpoint(self, *arguments: str) -> DelayedSubmission:
        """Lets the training save and end, and returns its continuation; submitit calls it near the time limit."""
        from submitit.core.utils import DelayedSubmission

        if self.process is not None:
            self.process.terminate()
            with suppress(ChildProcessError):  # it had already ended
                # Not Popen.wait: the signal may have interrupted it while it holds its lock.
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Training(self.train), *arguments)


def check_options(options: Mapping[str, Any]) -> None:
    """Raises UsageError for options that submitit lacks or that have no effect here, PluginError without Slurm."""
    _executor(options, Path("slurm"))


def submitter(options: Mapping[str, Any], place: Path) -> Submit:
    """Returns the function that submits a run; `place` is a folder for scripts and logs. Raises like `check_options`.

    The function raises UsageError if sbatch refuses a job.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor, queue = _executor(options, place / "slurm"), Queue()

    def submit(train: Callable[..., tuple[int, str]], *arguments: str) -> Job:
        try:
            # submitit prints sbatch's output, which the error contains too
            with redirect_stderr(io.StringIO()), _outside_of_a_job():
                job = executor.submit(Training(train), *arguments)
        except (FailedJobError, FailedSubmissionError) as error:
            said = "; ".join(line.removeprefix("sbatch: error: ") for line in str(error).strip().splitlines())
            do = "Change the --engine-option that it names."
            raise UsageError("--engine slurm", f"sbatch refuses the job: {said.rstrip('.')}.", do=do) from error
        job.watcher = queue
        queue.register_job(job.job_id)
        return SlurmJob(job, queue)

    return submit


@contextmanager
def _outside_of_a_job() -> Iterator[None]:
    """Hides the Slurm variables of an enclosing job, which jobs submitted from it would inherit."""
    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    from submitit.core.utils import environment_variables
    from submitit.helpers import clean_env

    kept = {name: os.environ[name] for name in CHOSEN_BY_USERS if name in os.environ}
    with clean_env(), environment_variables(**kept):
        yield


def _executor(options: Mapping[str, Any], folder: Path) -> Any:
    try:
        import submitit
    except ImportError as error:
        do = "Install it: pip install 'multistream[slurm]'."
        raise PluginError("--engine", "submitit is not installed.", do=do) from error
    _check_meaning(options)
    at_start = {name: value for name, value in options.items() if name in OF_THE_EXECUTOR}
    parameters = {"name": "multistream", "timeout_min": TIMEOUT_MIN, **_step_options(options), **options}
    try:
        executor = submitit.AutoExecutor(folder, cluster="slurm", **at_start)
        executor.update_parameters(**{name: value for name, value in parameters.items() if name not in at_start})
    except RuntimeError as error:  # no srun
        do = "Start the command on a machine of the cluster."
        raise PluginError("--engine slurm", "there is no srun on PATH.", do=do) from error
    except (NameError, ValueError, TypeError, AssertionError) as error:  # the exceptions of submitit
        raise UsageError("--engine-option", f"{said_by(error)}.", right=OPTIONS) from error
    return executor


def _step_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Passes the number of cores to srun, which since Slurm 22.05 does not read it from the job."""
    cores = options.get("cpus_per_task", options.get("slurm_cpus_per_task"))
    return {} if cores is None else {"slurm_srun_args": [f"--cpus-per-task={cores}"]}


def _check_meaning(options: Mapping[str, Any]) -> None:
    for name, why in MEANINGLESS.items():
        if name in options:
            raise UsageError("--engine-option", f"{name} cannot be set: {why}", right=OPTIONS)
    minutes, delay = options.get("timeout_min", TIMEOUT_MIN), options.get("slurm_signal_delay_s", SIGNAL_DELAY)
    if isinstance(minutes, (int, float)) and isinstance(delay, int) and minutes * 60 <= delay:
        what = f"timeout_min={minutes} leaves no time: a run saves {delay} s before its limit (slurm_signal_delay_s)."
        raise UsageError("--engine-option", what, right=f"It must be {delay // 60 + 1} or more.")


def _end_of(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    last = [line.strip() for line in lines if line.strip()][-1:]
    return "".join(f"; its log ends with: {line.rstrip('.')}" for line in last)


def _last_line(trace: str) -> str:
    """Extracts the exception's own message from submitit's text about a failed job.

    >>> _last_line("Job (task=0) failed during processing with trace:\\n----------------------\\n"
    ...     "Traceback\\nOSError: no space\\n\\n----------------------\\nYou can check full logs")
    'no space.'
    """
    parts = trace.split("\n" + "-" * 22)
    last = (parts[1] if len(parts) > 1 else trace).strip().splitlines()[-1]
    return (last.partition(": ")[2] or last).rstrip(".") + "."
