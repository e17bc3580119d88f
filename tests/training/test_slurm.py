"""The engine `slurm`, with commands that stand for Slurm's: what is refused, lost, stopped and continued."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from multistream.console import Console
from multistream.errors import PluginError, UsageError
from multistream.recipe import Recipe
from multistream.training import engines, slurm
from multistream.training.engines import Engine, RunsFailed, run_all
from multistream.training.jobs import PlannedRun
from multistream.training.stop import Interrupted, Stop
from tests.training import fake_slurm

pytest.importorskip("submitit")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands on PATH; the folder of their state."""
    folder = tmp_path / "cluster"
    for name, value in fake_slurm.install(folder).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setattr(slurm, "OFTEN", 0.05)
    monkeypatch.setattr(slurm, "SELDOM", 0.1)
    return folder


def planned(place: Path, count: int) -> list[PlannedRun]:
    return [PlannedRun(f"run-{n}", Recipe(), place / f"run-{n}") for n in range(1, count + 1)]


def run(place: Path, count: int, **more: Any) -> None:
    run_all(planned(place, count), Engine("slurm"), place=place, console=Console(quiet=False), **more)


def soon(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)


def in_the_background(act: Callable[[], None]) -> None:
    threading.Thread(target=act, daemon=True).start()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"banana": 3}, "Parameter 'banana' need to be prefixed"),
        ({"slurm_banana": 3}, "Unknown argument 'banana' for executor 'slurm'"),
        ({"timeout_min": "abc"}, r'"timeout_min" expected type .*"abc"'),
        ({"timeout_min": 1}, r"timeout_min=1 leaves no time: .*must be 2 or more"),
        ({"nodes": 2}, "nodes cannot be set: a run is one process on one node"),
        ({"slurm_array_parallelism": 2}, "each run is a job of its own"),
    ],
)
@pytest.mark.usefixtures("cluster")
def test_options_are_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        Engine("slurm", options)
    assert "\\n" not in str(error.value)
    assert error.value.exit_code == 2


def test_a_machine_without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PluginError, match="no srun on PATH"):
        Engine("slurm")


def test_options_of_sbatch_reach_it(cluster: Path, tmp_path: Path) -> None:
    (cluster / "hold").touch()
    options = ["cpus_per_task=4", "slurm_partition=main", 'slurm_setup=["module load cuda"]', "slurm_max_num_timeout=7"]
    engine = Engine.parse("slurm", dict(option.split("=", 1) for option in options))
    assert options[2] in engine.words
    slurm.submitter(engine.options, tmp_path)(print)
    script = (cluster / "1.sh").read_text()
    for words in ("--partition=main", "--cpus-per-task=4\n", "--time=60", "module load cuda", "--cpus-per-task=4 "):
        assert words in script


def test_a_job_that_submits_jobs(cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """srun refuses to start with the outer job's memory for each core and the inner one's for each node."""
    (cluster / "hold").touch()
    given = {"SLURM_JOB_ID": "7", "SLURM_MEM_PER_CPU": "500", "SLURM_CONF": "/slurm.conf", "SBATCH_ACCOUNT": "lab"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    slurm.submitter({}, tmp_path)(print)
    inherited = (cluster / "1.environment").read_text().split()
    assert "SLURM_CONF=/slurm.conf" in inherited
    assert "SBATCH_ACCOUNT=lab" in inherited
    assert not [line for line in inherited if line.startswith(("SLURM_MEM_PER_CPU", "SLURM_JOB_ID"))]
    assert os.environ["SLURM_MEM_PER_CPU"] == "500"


def test_a_job_that_sbatch_refuses(cluster: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The second of three: the first is withdrawn, and one line says why."""
    (cluster / "hold").touch()
    (cluster / "refusal").write_text("1")
    with pytest.raises(UsageError, match=r"sbatch refuses the job: invalid partition specified: nosuch; ") as error:
        run(tmp_path, 3)
    assert error.value.exit_code == 2
    assert fake_states(cluster) == {"1": "CANCELLED"}
    assert "sbatch: error" not in capfd.readouterr().err


def fake_states(cluster: Path) -> dict[str, str]:
    return {file.stem: file.read_text() for file in cluster.glob("*.state")}


def test_jobs_that_end_without_a_result_are_named(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cancelled in the queue, killed at its limit, or forgotten by Slurm; a controller that restarts is waited for."""
    (cluster / "hold").touch()
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 0)

    def end() -> None:
        soon(lambda: len(fake_states(cluster)) == 3)
        (cluster / "down").touch()
        time.sleep(0.3)
        (cluster / "1.state").write_text("CANCELLED")
        (tmp_path / "slurm" / "2_0_log.err").write_text("srun: fatal: no memory\n\n")
        (cluster / "2.state").write_text("TIMEOUT")
        (cluster / "3.state").unlink()
        (cluster / "down").unlink()

    in_the_background(end)
    with pytest.raises(
        RunsFailed, match=r"3 of 3 runs failed\. To train what is missing: give the same command"
    ) as all3:
        run(tmp_path, 3)
    assert all3.value.exit_code == 71
    said = capsys.readouterr().err
    assert "run run-1: failed (Slurm job 1 was cancelled before it had started.)" in said
    assert (
        "run run-2: failed (it ended as TIMEOUT and left no result; its log ends with: srun: fatal: no memory." in said
    )
    assert "Slurm job 2, log: " in said
    assert "run run-3: failed (it is no longer in the queue and left no result. Slurm job 3" in said


def test_a_stop_withdraws_jobs_that_wait(cluster: Path, tmp_path: Path) -> None:
    (cluster / "hold").touch()

    class Late(Stop):
        def __call__(self) -> bool:
            self.signal = signal.SIGINT if len(fake_states(cluster)) == 2 else 0
            return self.signal != 0

    with pytest.raises(Interrupted):
        run(tmp_path, 2, stop=Late())
    assert fake_states(cluster) == {"1": "CANCELLED", "2": "CANCELLED"}


@pytest.mark.parametrize("times", [1, 0])
def test_at_its_time_limit_a_run_saves_and_goes_on(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Slurm signals all processes of the job: the training saves, and the job goes back to the queue, so many times."""
    monkeypatch.setattr(engines, "train_in_process", fake_slurm.train_once_stopped)

    def limit() -> None:
        soon((tmp_path / "run-1" / "started").exists)
        subprocess.run(["scancel", "--signal", "USR2", "1"], check=True)

    in_the_background(limit)
    engine = Engine("slurm", {"timeout_min": 2, "slurm_max_num_timeout": times})
    said = r"Job not requeued because: timed-out too many times\. Slurm job 1, log: "
    with nullcontext() if times else pytest.raises(RunsFailed, match=said):
        run_all(planned(tmp_path, 1), engine, place=tmp_path, console=Console(quiet=True))
    soon(lambda: fake_states(cluster) == {"1": "COMPLETED" if times else "FAILED"})
    assert (tmp_path / "run-1" / "saved").exists()


def test_a_job_that_slurm_puts_back_into_the_queue_goes_on(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preemption and `scontrol requeue`: the run saves, its job leaves a result, and starts again somewhere."""
    monkeypatch.setattr(engines, "train_in_process", fake_slurm.train_once_stopped)

    def requeue() -> None:
        soon((tmp_path / "run-1" / "started").exists)
        subprocess.run(["scontrol", "requeue", "1"], check=True)

    in_the_background(requeue)
    run(tmp_path, 1)
    assert (tmp_path / "run-1" / "saved").exists()
    soon(lambda: fake_states(cluster) == {"1": "COMPLETED"})


@pytest.mark.usefixtures("cluster")
def test_a_run_that_is_cancelled_saves_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "train_in_process", fake_slurm.train_once_stopped)

    def cancel() -> None:
        soon((tmp_path / "run-1" / "started").exists)
        subprocess.run(["scancel", "1"], check=True)

    in_the_background(cancel)
    with pytest.raises(
        RunsFailed, match=r"run run-1: stopped Slurm job 1, log: .*1_0_log\.err 1 of 1 runs failed\."
    ) as one:
        run(tmp_path, 1)
    assert one.value.exit_code == 143
    assert (tmp_path / "run-1" / "saved").exists()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("sbatch"), reason="needs Slurm: there is no sbatch on PATH")
def test_on_a_real_cluster(tmp_path: Path) -> None:
    """Folds of the demo set: one job is cancelled, and the next call trains that fold alone."""
    if subprocess.run(["sinfo"], capture_output=True, check=False, timeout=60).returncode:
        pytest.skip("needs Slurm: its controller does not answer")
    words = ["train", "--streams", "anp", "--folds", "2", "--epochs", "2", "--set", "runtime.threads=1"]
    engine = ["--engine", "slurm", "--engine-option", "timeout_min=5", "--engine-option", "cpus_per_task=1"]
    environment = {**os.environ, "MULTISTREAM_CACHE": str(tmp_path / "cache")}
    name = f"multistream-{os.getpid()}"

    def start(*more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "multistream", *more, *engine, "--engine-option", f"name={name}"]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)

    def jobs() -> list[str]:
        command = ["squeue", "--noheader", f"--name={name}", "--format=%i"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    first = start(*words, "--out", "run")
    soon(lambda: len(jobs()) == 2)
    subprocess.run(["scancel", max(jobs(), key=int)], check=True)
    _, errors = first.communicate(timeout=300)
    assert "run 1-1: finished" in errors
    assert "run 1-2: failed" in errors
    assert "multistream train --resume run --engine slurm --engine-option timeout_min=5" in errors
    _, errors = start("train", "--resume", "run").communicate(timeout=300)
    assert "engine slurm: 1 of 2 runs to train" in errors
    assert len(json.loads((tmp_path / "run" / "summary.json").read_text())["folds"]) == 2
