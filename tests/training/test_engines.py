"""Lists of runs on engines: the same results as one by one, a failed run is named, what is there is not done again."""

from __future__ import annotations

import _thread
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from multistream import runs
from multistream.console import Console
from multistream.errors import PluginError, RunBusy, UsageError
from multistream.folder_lock import FolderLock
from multistream.recipe import Recipe
from multistream.training import engines, jobs
from multistream.training.engines import Engine, RunsFailed, run_all
from multistream.training.folds import fold_runs, train, train_planned
from multistream.training.jobs import PlannedRun
from multistream.training.stop import Interrupted, Stop
from tests.training import fake_slurm


@pytest.fixture(scope="module")
def vector_recipe(photos: Path, vectors: Path) -> Recipe:
    """A head on vectors alone, on two folds."""
    return Recipe().updated(
        {
            "data": {"source": str(photos), "folds": 2},
            "network": {"streams": {"anp": "anp"}, "inputs": {"anp": str(vectors)}},
            "options": {"streams": {"anp": {"hidden": []}}},
            "training": {"epochs": 2, "batch_size": 16},
            "runtime": {"device": "cpu", "precision": "fp32", "workers": 0, "threads": 1},
        }
    )


@pytest.fixture(scope="module")
def one_by_one(vector_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(vector_recipe, out=tmp_path_factory.mktemp("runs") / "run").folder


def predictions(folder: Path) -> bytes:
    return (folder / runs.PREDICTIONS).read_bytes()


def test_folds_side_by_side_are_those_of_one_by_one(
    vector_recipe: Recipe, one_by_one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second fold is busy at first: it is named, the other one ends, and the next call trains it alone."""
    run, console = tmp_path / "run", Console(quiet=False)
    busy = run / runs.FOLDS / "1-2"
    run.mkdir()
    vector_recipe.save(run / runs.RECIPE)
    (busy / runs.CHECKPOINTS).mkdir(parents=True)
    vector_recipe.save(busy / runs.RECIPE)
    with FolderLock(busy), pytest.raises(RunsFailed, match=r"run 1-2: .*in use by.* 1 of 2 runs failed") as failed:
        train(vector_recipe, resume=run, console=console, engine=Engine("local", {"parallel": 2}))
    assert failed.value.exit_code == RunBusy.exit_code
    states = {each.name: each.state for each in fold_runs(vector_recipe, run)}
    assert states == {"1-1": "finished", "1-2": "stopped"}
    (busy / runs.RECIPE).unlink()
    written = (run / runs.FOLDS / "1-1" / runs.SUMMARY).stat().st_mtime_ns
    train(vector_recipe, resume=run, console=console, engine=Engine("local", {"parallel": 2}))
    assert (run / runs.FOLDS / "1-1" / runs.SUMMARY).stat().st_mtime_ns == written
    assert predictions(run) == predictions(one_by_one)
    said = capsys.readouterr().err
    assert "engine local: 2 of 2 runs to train" in said
    assert "engine local: 1 of 2 runs to train" in said
    assert "run 1-2: failed" in said


@pytest.mark.parametrize("name", ["slurm", pytest.param("ray", marks=pytest.mark.slow)])
def test_other_engines_give_the_same_bits(
    vector_recipe: Recipe, one_by_one: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip({"slurm": "submitit"}.get(name, name))
    (first, _) = fold_runs(vector_recipe, tmp_path)
    if name == "slurm":
        for variable, value in fake_slurm.install(tmp_path / "slurm commands").items():
            monkeypatch.setenv(variable, value)
    engine = Engine("slurm", {"timeout_min": 5}) if name == "slurm" else Engine("ray", {"num_cpus": 1})
    run_all([first], engine, place=tmp_path, console=Console(quiet=True))
    assert predictions(first.folder) == predictions(one_by_one / runs.FOLDS / first.name)


def planned(place: Path, count: int) -> list[PlannedRun]:
    return [PlannedRun(f"run-{n}", Recipe(), place / f"run-{n}") for n in range(count)]


def test_a_job_that_its_engine_lost_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine dies, a time limit ends a job: the engine raises, and the other runs go on."""

    def submit(_function: Callable[..., Any], _recipe: str, folder: str, _cwd: str) -> Future[tuple[int, str]]:
        job: Future[tuple[int, str]] = Future()
        if folder.endswith("run-1"):
            job.set_exception(OSError("node 7 is gone\nmore"))
        else:
            job.set_result((0, ""))
        return job

    monkeypatch.setattr(engines, "_submitter", lambda *_: submit)
    with pytest.raises(RunsFailed, match=r"run run-1: OSError: node 7 is gone 1 of 3 runs failed") as failed:
        run_all(planned(tmp_path, 3), Engine("local"), place=tmp_path, console=Console(quiet=False))
    assert failed.value.exit_code == 71
    assert capsys.readouterr().err.count("finished") == 2


def test_a_stop_ends_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to stop, local runs are told so too, and nothing is left behind."""
    started: list[Any] = []
    popen = engines.subprocess.Popen

    def sleeping(_command: list[str], **options: Any) -> Any:
        started.append(popen(["/bin/sleep", "60"], **options))
        return started[-1]

    monkeypatch.setattr(engines.subprocess, "Popen", sleeping)

    class Late(Stop):
        def __call__(self) -> bool:
            self.signal = 15 if len(started) == 2 else 0
            return self.signal != 0

    began = time.monotonic()
    with pytest.raises(Interrupted):
        run_all(
            planned(tmp_path, 2),
            Engine("local", {"parallel": 2}),
            place=tmp_path,
            console=Console(quiet=True),
            stop=Late(),
        )
    assert time.monotonic() - began < 30
    assert [process.returncode for process in started] == [-15, -15]


def test_a_run_that_another_process_prepares_is_not_removed(
    vector_recipe: Recipe, one_by_one: Path, tmp_path: Path
) -> None:
    """Two jobs of one run, on two machines perhaps: the first has not written its recipe yet."""
    run = PlannedRun("run", vector_recipe.updated({"data": {"fold": 1, "folds": 2}}), tmp_path / "run")
    with FolderLock(run.folder):
        (run.folder / runs.SPLIT).write_text("half")
        code, line = jobs.train_in_process(run.recipe.dumps(), "run", str(tmp_path))
        assert (code, (run.folder / runs.SPLIT).read_text()) == (RunBusy.exit_code, "half")
        assert "in use by process" in line
        with pytest.raises(RunBusy):
            train_planned(run)
    train_planned(run)  # now that process is dead
    assert run.state == "finished"
    assert predictions(run.folder) == predictions(one_by_one / runs.FOLDS / "1-1")


def test_the_plan_lists_every_run(vector_recipe: Recipe, one_by_one: Path, tmp_path: Path) -> None:
    finished = [str(run).split()[:2] for run in fold_runs(vector_recipe, one_by_one)]
    assert finished == [["finished", "1-1"], ["finished", "1-2"]]
    assert [run.to_dict()["state"] for run in fold_runs(vector_recipe, tmp_path)] == ["new", "new"]
    assert PlannedRun("all", vector_recipe, tmp_path).to_dict()["trainings"] == 2


def test_what_cannot_be_meant_is_refused(
    vector_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="one of local, slurm, ray"):
        Engine.parse("dask", {})
    with pytest.raises(UsageError, match=r"'cores' is unknown\. Engine local has parallel"):
        run_all(planned(tmp_path, 1), Engine("local", {"cores": 2}), place=tmp_path, console=Console(quiet=True))
    with pytest.raises(UsageError, match="parallel=0 is not a number of runs"):
        run_all(planned(tmp_path, 1), Engine("local", {"parallel": 0}), place=tmp_path, console=Console(quiet=True))
    with pytest.raises(UsageError, match="this is one run"):
        train(vector_recipe.with_settings(["data.folds=0"]), out=tmp_path / "run", engine=Engine("local"))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(PluginError, match=r"multistream\[slurm\]"):
        run_all(planned(tmp_path, 1), Engine("slurm"), place=tmp_path, console=Console(quiet=True))


@pytest.mark.usefixtures("interruptible")
def test_a_task_that_ray_cancels_saves_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises KeyboardInterrupt in the task's main thread, between two steps of Python."""
    monkeypatch.setattr(jobs, "POLL", 0.05)
    code = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit('saved')); print(flush=True); time.sleep(60)"
    )
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        assert process.stdout is not None
        process.stdout.read(1)  # its handler is set
        threading.Timer(0.2, _thread.interrupt_main).start()
        assert jobs._waited(process) == "saved\n"
