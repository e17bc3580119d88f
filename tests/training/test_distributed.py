"""Training on many ranks: the same samples, the same weights, one writer (gloo on the CPU)."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from itertools import chain
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file
from torch.distributed import TCPStore

from multistream import compose, runs
from multistream.errors import MultistreamWarning, UsageError
from multistream.inputs import Image
from multistream.recipe import Recipe
from multistream.runs.model_file import MODEL_FILE, load_model
from multistream.runs.predictions_file import read_predictions
from multistream.runtime.distributed import ALONE, Ranks, processes, ranks_of
from multistream.spec import INSTANCE
from multistream.training.feeds import PhotoFeed
from multistream.training.prepare import prepare
from multistream.training.sharding import check_sharding
from tests.training.killing import newest
from tests.training.ranks import Plain, work, work_extract

Start = Callable[..., list[int | None]]
Launch = Callable[..., tuple[list[ForkServerProcess], TCPStore]]


@pytest.fixture(scope="module")
def launch() -> Launch:
    """Starts ranks in milliseconds: their common parent has imported torch. Keep the store while they run."""
    context: ForkServerContext = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.ranks", "multistream.parts.timm_stages", "multistream_object"])

    def begin(
        size: int,
        recipe: Recipe,
        out: Path,
        *,
        resume: bool = False,
        steps: int = -1,
        target: Callable[..., None] = work,
    ) -> tuple[list[ForkServerProcess], TCPStore]:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun holds one
        port = store.port
        arguments = (size, port, recipe.dumps(), out, os.environ["MULTISTREAM_CACHE"])
        if target is work:
            arguments = (*arguments, resume, steps)
        ranks = [context.Process(target=target, args=(rank, *arguments), daemon=True) for rank in range(size)]
        for rank in ranks:
            rank.start()
        return ranks, store

    return begin


@pytest.fixture(scope="module")
def start(launch: Launch) -> Start:
    """Starts ranks, waits for them, and gives their exit codes."""

    def run(size: int, recipe: Recipe, out: Path, **options: Any) -> list[int | None]:
        ranks, _store = launch(size, recipe, out, **options)
        for rank in ranks:
            rank.join(120)
        return [rank.exitcode for rank in ranks]

    return run


def said(place: Path) -> str:
    """What the ranks have printed."""
    return "".join(path.read_text() for path in place.glob("stderr-*"))


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    """What a run has learned."""
    return load_model(run, streams={"n": Plain()}).network.state_dict()


def difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """The largest difference of a weight."""
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


@pytest.fixture
def trained(recipe: Recipe, vectors: Path) -> Recipe:
    """Two streams, one of which trains, with dropout, flips, class weights; no number of ranks divides the batches."""
    return recipe.updated(
        {
            "network": {
                "streams": {"anp": "anp", "n": INSTANCE},
                "weights": {},
                "freeze": ["none"],
                "inputs": {"anp": str(vectors)},
            },
            "options": {"fusion": {"dropout": 0.5}},
            "training": {"epochs": 2, "batch_size": 11, "accumulation": 2, "class_weights": "balanced"},
        }
    )


def test_ranks_end_with_the_weights_of_one_process(start: Start, trained: Recipe, tmp_path: Path) -> None:
    """Whether each rank has all weights or, with `runtime.shard`, its part of them."""
    shard = ["runtime.shard=true"]
    for name, size, settings in (("1", 1, []), ("2", 2, []), ("3", 3, []), ("divided", 2, shard)):
        assert start(size, trained.with_settings(settings), tmp_path / name) == [0] * size
    one = weights_of(tmp_path / "1")
    lines = runs.read_lines(tmp_path / "1" / runs.METRICS)
    for name in ("2", "3", "divided"):
        assert difference(one, weights_of(tmp_path / name)) < 1e-5
        for mine, theirs in zip(lines, runs.read_lines(tmp_path / name / runs.METRICS), strict=True):
            assert {k: v for k, v in theirs.items() if k != "seconds"} == pytest.approx(
                {k: v for k, v in mine.items() if k != "seconds"}, abs=1e-6
            )
        first, second = (read_predictions(tmp_path / n / runs.PREDICTIONS) for n in ("1", name))
        assert np.abs(first.probabilities - second.probabilities).max() < 1e-5


def test_a_run_resumes_on_another_number_of_ranks(start: Start, trained: Recipe, tmp_path: Path) -> None:
    assert start(1, trained, tmp_path / "whole") == [0]
    assert start(2, trained, tmp_path / "halved", steps=2) == [143, 143]
    for size in (1, 4):
        shutil.copytree(tmp_path / "halved", tmp_path / f"{size}")
        assert start(size, trained, tmp_path / f"{size}", resume=True) == [0] * size
    for name in ("1", "4"):
        assert difference(weights_of(tmp_path / "whole"), weights_of(tmp_path / name)) < 1e-5


@pytest.mark.slow
def test_a_divided_run_resumes_on_another_number_of_ranks(start: Start, trained: Recipe, tmp_path: Path) -> None:
    """On as many ranks bit by bit, on one undivided; the average of the weights and the clipped gradient are divided.

    Of the last batch, and of the validation, some ranks have no image.
    """
    divided = trained.with_settings(["runtime.shard=true", "training.ema=0.9", "training.clip_norm=0.1"])
    one = divided.with_settings(["runtime.shard=false"])
    assert start(1, one, tmp_path / "one") == [0]
    assert start(2, divided, tmp_path / "whole") == [0, 0]
    assert start(2, divided, tmp_path / "halved", steps=2) == [143, 143]
    for size in (1, 2, 3):
        shutil.copytree(tmp_path / "halved", tmp_path / f"{size}")
        if size == 1:
            own = Recipe.load(tmp_path / "1").with_settings(["runtime.shard=false"])
            own.save(tmp_path / "1" / runs.RECIPE)
        assert start(size, divided, tmp_path / f"{size}", resume=True) == [0] * size
    assert difference(weights_of(tmp_path / "whole"), weights_of(tmp_path / "2")) == 0
    for name in ("whole", "1", "3"):
        assert difference(weights_of(tmp_path / "one"), weights_of(tmp_path / name)) < 1e-5


@pytest.mark.parametrize(
    ("size", "settings", "says"),
    [
        (1, ["network.freeze=['none']"], "one process cannot divide weights"),
        (2, [], "all streams are frozen, so rank 0 trains the heads alone"),
        (2, ["network.freeze=['none']", "runtime.fit_batch=true"], "not work with --batch-size auto"),
        (
            2,
            ["network.freeze=['none']", "training.optimizer=timm:lamb"],
            "not work with training.optimizer = timm:lamb",
        ),
    ],
)
def test_weights_that_cannot_be_divided(recipe: Recipe, size: int, settings: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        prepare(recipe.with_settings(["runtime.shard=true", *settings]), say=str, ranks=Ranks(0, size))


def test_weights_in_fp16_cannot_be_divided(recipe: Recipe) -> None:
    """On a GPU: a CPU does not compute in fp16 at all, which is refused before."""
    network = compose(["object"], classes=("awe", "fear"), image_size=32)
    settings = ["runtime.shard=true", "runtime.precision=fp16"]
    with pytest.raises(UsageError, match=r"not work with runtime\.precision = fp16"):
        check_sharding(recipe.with_settings(settings), network, Ranks(0, 2))


def test_frozen_streams_train_on_rank_0_with_the_features_of_all(
    start: Start, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe.with_settings(["training.epochs=2"])
    assert start(2, recipe, tmp_path / "two") == [0, 0]
    assert said(tmp_path).count("rank 0 trains alone on the features of all ranks") == 1
    monkeypatch.setenv("MULTISTREAM_CACHE", str(tmp_path / "other"))
    assert start(1, recipe, tmp_path / "one") == [0]
    one, two = (load_model(tmp_path / name).network.state_dict() for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_loss_that_is_not_finite_ends_all_ranks_with_one_message(
    start: Start, trained: Recipe, tmp_path: Path
) -> None:
    wild = trained.with_settings(["training.learning_rate=1e30", "training.optimizer=sgd", "training.epochs=9"])
    assert start(2, wild, tmp_path / "run") == [70, 70]
    assert said(tmp_path).count("SAID training: ") == 1


def test_an_error_of_one_rank_is_told_once(start: Start, trained: Recipe, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")  # rank 0 alone makes the folder
    assert start(2, trained, tmp_path / "run") == [2, 2]
    assert said(tmp_path).count("SAID") == 1


def test_extraction_on_two_ranks_computes_each_photo_once_and_the_same_bits(
    start: Start, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start(2, recipe, tmp_path / "two.npz", target=work_extract) == [0, 0]
    assert [(tmp_path / f"computed-{rank}").read_text() for rank in (0, 1)] == ["60", "60"]  # of all ranks together
    held = sum(len(_files_of(path)) for path in (tmp_path / "cache").rglob("*.safetensors"))
    assert held == 60
    monkeypatch.setenv("MULTISTREAM_CACHE", str(tmp_path / "other"))
    assert start(1, recipe, tmp_path / "one.npz", target=work_extract) == [0]
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        assert all(np.array_equal(one[name], two[name]) for name in one.files)


def _files_of(shard: Path) -> list[str]:
    """The files whose features a shard holds."""
    with safe_open(shard, framework="numpy") as stored:
        files: list[str] = json.loads(stored.metadata()["files"])
    return files


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_ranks_see_every_image_once_in_the_order_of_one(recipe: Recipe, size: int) -> None:
    prepared = prepare(recipe.with_settings(["training.batch_size=13"]), say=str)
    labels = torch.from_numpy(prepared.table.labels)

    def batches(ranks: Ranks, epoch: int) -> list[list[int]]:
        feed = PhotoFeed(prepared.photos, labels, prepared.recipe.training, prepared.runtime, workers=0, ranks=ranks)
        return [batch.indices.tolist() for batch in feed.training(prepared.parts.train[:41], epoch=epoch)]

    for epoch in (0, 1):
        whole = batches(ALONE, epoch)
        cut = [batches(Ranks(rank, size), epoch) for rank in range(size)]
        assert [list(chain.from_iterable(parts)) for parts in zip(*cut, strict=True)] == whole
        assert sorted(chain.from_iterable(whole)) == sorted(prepared.parts.train[:41].tolist())


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"WORLD_SIZE": "x"}, "'x' in the environment is not a number"),
        ({"WORLD_SIZE": "-2"}, "not a number"),
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "2 is out of range"),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1"}, "torchrun --nproc-per-node N"),
    ],
)
def test_an_environment_that_cannot_be_meant(environment: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ranks_of(environment)


def test_no_variables_or_a_world_of_one_is_one_process() -> None:
    assert ranks_of({}) == ranks_of({"WORLD_SIZE": "1"}) == ranks_of({"OMPI_COMM_WORLD_SIZE": "1"}) == ALONE


def test_each_rank_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for extraction and decoding, where "cuda" is all that is said."""
    taken: list[int] = []
    environment = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    with processes() as ranks:
        assert ranks.rank == 3
    assert taken == [1]


def test_separate_tasks_of_srun_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be meant, such as a seed each; in a batch script, where SLURM_NTASKS is set as well, nothing is said."""
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with warnings.catch_warnings(action="error"), processes() as ranks:
        assert ranks == ALONE
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.warns(MultistreamWarning, match=r"srun started 2 tasks, and each works alone\..*torchrun"), processes():
        pass


def test_plain_reads_images_of_32() -> None:
    assert Plain().input == Image(size=32)


def _launch(*arguments: str, launcher: str = "--standalone --nproc-per-node 2") -> subprocess.Popen[bytes]:
    """Starts `multistream train` on two ranks, or on those of `launcher`, the options of torchrun."""
    module = ["-m", "torch.distributed.run", *launcher.split(), "-m", "multistream"]
    command = [sys.executable, *module, "train", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _saved(recipe: Recipe, place: Path, *settings: str) -> str:
    """The path of a recipe's file."""
    recipe.with_settings(["network.freeze=['none']", *settings]).save(place / "recipe.toml")
    return str(place / "recipe.toml")


def _ranks_below(launcher: int) -> list[int]:
    """The processes that a launcher has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(child) for child in children]


def _runs(process: int) -> bool:
    """Whether a process is at work: neither gone nor a zombie, which its parent has not looked at yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait_for(condition: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_one_of_two_ranks_killed_twenty_times_the_run_ends_the_same(
    launch: Launch, start: Start, recipe: Recipe, tmp_path: Path
) -> None:
    """At any instant, also while the ranks find each other: the other one leaves in 10 s, told to by the launcher.

    Batches of three: one rank has a single image, for which its batch norms use running statistics.
    """
    settings = ["network.freeze=['none']", "training.checkpoint_minutes=0", "training.batch_size=3"]
    recipe = recipe.with_settings([*settings, "training.epochs=4"])
    out, chance, took, steps = tmp_path / "killed", random.Random(0), [], []
    began = time.monotonic()
    assert start(2, recipe, tmp_path / "whole") == [0, 0]
    lasts = time.monotonic() - began
    while len(took) < 20:
        ranks, _store = launch(2, recipe, out, resume=(out / runs.RECIPE).is_file())
        time.sleep(chance.uniform(0, lasts / 5))
        dying, other = chance.sample(ranks, 2)
        if not all(rank.is_alive() for rank in ranks):  # it was through before the kill came: once more
            shutil.rmtree(out)
            continue
        dying.kill()
        end = time.monotonic()
        other.join(0.1)
        other.terminate()  # as torchrun does when it has seen that a rank is gone
        other.join(30)
        took.append(time.monotonic() - end)
        assert took[-1] < 10
        if out.exists() and not (out / runs.RECIPE).is_file():
            shutil.rmtree(out)  # killed before it wrote what it is to do
        steps.append(newest(out))
    assert start(2, recipe, out, resume=True) == [0, 0]
    print(f"gone after at most {max(took):.2f} s; newest checkpoints {steps}")
    assert len(set(steps)) > 3, "the kills must fall into the training"
    whole, killed = (load_file(place / MODEL_FILE) for place in (tmp_path / "whole", out))
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert (out / runs.PREDICTIONS).read_bytes() == (tmp_path / "whole" / runs.PREDICTIONS).read_bytes()


@pytest.mark.slow
def test_launchers_on_two_machines_train_one_network(recipe: Recipe, tmp_path: Path) -> None:
    """Both have one rank, of local rank 0; the weights are those of one launcher with two ranks."""
    path = _saved(recipe, tmp_path, "training.epochs=2", "runtime.threads=1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    options = f"--nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint {endpoint}"
    both = [_launch("--recipe", path, "--out", str(tmp_path / "two"), launcher=options) for _ in range(2)]
    errors = [launched.communicate(timeout=300)[1] for launched in both]
    assert [launched.returncode for launched in both] == [0, 0], errors
    one = _launch("--recipe", path, "--out", str(tmp_path / "one"))
    assert one.wait(300) == 0
    first, second = (load_file(tmp_path / name / MODEL_FILE) for name in ("one", "two"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert sum(b"data: " in error for error in errors) == 1  # rank 0 alone prints


@pytest.mark.slow
def test_torchrun_ends_all_ranks_when_one_is_killed(recipe: Recipe, tmp_path: Path) -> None:
    """The ranks are gone in 10 s; the launcher then writes its own report, which takes seconds on a busy machine."""
    chance = random.Random(0)
    path = _saved(recipe, tmp_path, "training.checkpoint_minutes=0", "training.epochs=60")
    launched = _launch("--recipe", path, "--out", str(tmp_path / "run"))
    _wait_for(lambda: any((tmp_path / "run" / "checkpoints").glob("step-1*")), 120)
    time.sleep(chance.random() * 2)
    ranks = _ranks_below(launched.pid)
    os.kill(chance.choice(ranks), signal.SIGKILL)
    _wait_for(lambda: not any(_runs(rank) for rank in ranks), 10)
    _, errors = launched.communicate(timeout=60)
    assert b"ended without a message: killed, out of memory, or its machine failed" in errors


@pytest.mark.slow
def test_a_launcher_that_is_told_to_stop_saves(recipe: Recipe, tmp_path: Path) -> None:
    path = _saved(recipe, tmp_path, "training.checkpoint_minutes=60", "training.epochs=500")
    launched = _launch("--recipe", path, "--out", str(tmp_path / "run"))
    _wait_for(lambda: (tmp_path / "run" / runs.METRICS).is_file(), 120)
    launched.send_signal(signal.SIGTERM)
    _, errors = launched.communicate(timeout=60)
    assert b"stopped and saved" in errors, errors.decode()
    assert b"Warning" not in errors, errors.decode()
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) >= 2
    resumed = _launch("--resume", str(tmp_path / "run"), "--epochs", "2", "--json", "--quiet")
    printed, errors = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, errors.decode()[-2000:]
    assert json.loads(printed)["epochs"] >= 2  # one result, rank 0's
