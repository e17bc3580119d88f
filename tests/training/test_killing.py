"""kill -9 at random instants: the newest checkpoint loads, and the run ends as if nothing had been (promises 1, 2)."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from multistream import runs
from multistream.recipe import Recipe
from multistream.runs.model_file import MODEL_FILE
from tests.training.killing import newest, work

Start = Callable[[Path, Path], ForkServerProcess]


@pytest.fixture(scope="module")
def start() -> Start:
    """Starts a training in a process of its own, in milliseconds: torch is imported once, by their common parent."""
    context: ForkServerContext = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.killing", "multistream.parts.timm_stages", "multistream_object"])

    def begin(recipe: Path, out: Path) -> ForkServerProcess:
        process = context.Process(target=work, args=(recipe, out), daemon=True)
        process.start()
        return process

    return begin


def sums(tensors: dict[str, Tensor]) -> dict[str, str]:
    """sha256 of every tensor's bytes."""
    return {
        name: hashlib.sha256(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in tensors.items()
    }


def killed_and_resumed(start: Start, recipe: Recipe, place: Path, *, kills: int, seed: int) -> list[int]:
    """Kills a run `kills` times at random instants and lets it end; it must end as the run that nobody killed.

    Returns the newest checkpoint's number after each kill.
    """
    recipe.save(place / "recipe.toml")
    began = time.monotonic()
    whole = start(place / "recipe.toml", place / "whole")
    whole.join()
    lasts = time.monotonic() - began
    assert whole.exitcode == 0
    chance, out, seen = random.Random(seed), place / "killed", []
    while len(seen) < kills:
        process = start(place / "recipe.toml", out)
        process.join(chance.uniform(0, 3 * lasts / kills + 0.4))
        process.kill()
        process.join()
        if process.exitcode == 0:  # it was through before the kill came: once more, from the start
            shutil.rmtree(out)
            continue
        assert process.exitcode == -signal.SIGKILL
        if out.exists() and not (out / runs.RECIPE).is_file():
            shutil.rmtree(out)  # killed before it wrote what it is to do: there is nothing to resume
        seen.append(newest(out))
    last = start(place / "recipe.toml", out)
    last.join()
    assert last.exitcode == 0
    assert sums(load_file(place / "whole" / MODEL_FILE)) == sums(load_file(out / MODEL_FILE))
    assert (place / "whole" / runs.PREDICTIONS).read_bytes() == (out / runs.PREDICTIONS).read_bytes()
    lines = [[_timeless(line) for line in runs.read_lines(run / runs.METRICS)] for run in (place / "whole", out)]
    assert lines[0] == lines[1]
    return seen


def _timeless(line: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name != "seconds"}


def settings(precision: str, workers: int, epochs: int) -> list[str]:
    return [
        "training.checkpoint_minutes=0",
        f"training.epochs={epochs}",
        "training.label_smoothing=0.1",
        "network.freeze=['object:2']",
        f"runtime.precision={precision}",
        f"runtime.workers={workers}",
        "runtime.threads=1",
    ]


@pytest.mark.parametrize(("precision", "workers"), [("fp32", 0), pytest.param("bf16", 2, marks=pytest.mark.slow)])
def test_killed_three_times_it_ends_the_same(
    start: Start, recipe: Recipe, tmp_path: Path, precision: str, workers: int
) -> None:
    recipe = recipe.with_settings(settings(precision, workers, epochs=3))
    seen = killed_and_resumed(start, recipe, tmp_path, kills=3, seed=workers)
    assert len(seen) == 3


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("workers", [0, 2, 3])
def test_killed_at_twenty_instants_it_ends_the_same(
    start: Start, recipe: Recipe, tmp_path: Path, precision: str, workers: int
) -> None:
    """Promise 2 with SIGKILL, through the pieces of a batch, late fusion and dropout."""
    changes = ["training.accumulation=2", *settings(precision, workers, epochs=12)]
    seen = killed_and_resumed(start, recipe.with_settings(changes), tmp_path, kills=20, seed=workers)
    print(f"{precision}, {workers} workers: newest checkpoints after 20 kills {json.dumps(seen)}")
    assert len(set(seen)) > 3, "the kills must fall into the training, not before it"
