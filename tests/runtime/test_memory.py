"""Memory that is used up: exit 71 with a batch size that fits, and --batch-size auto, which finds one."""

from __future__ import annotations

import mmap
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from multistream.errors import MemoryExhausted
from multistream.recipe import Recipe
from multistream.runtime import memory
from multistream.runtime.memory import Gauge, as_it_was, exhausted, largest_that_fits, pieces_of
from multistream.training import batch_size
from multistream.training.batch_size import settings_that_fit, smaller_batches
from multistream.training.train import train
from tests.training.test_train import equal, weights_of

AN_IMAGE = 0.001
"""The fraction of the free memory that an image takes."""


def holds(images: int) -> object:
    """An attempt on a device that holds so many images, of which each takes AN_IMAGE."""

    def attempt(size: int) -> float:
        if size > images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return AN_IMAGE * size

    return attempt


@pytest.mark.parametrize("batch", [1, 12, 17, 64])
def test_pieces_make_up_the_batch(batch: int) -> None:
    assert [size for size in pieces_of(batch) if batch % size] == []
    assert (pieces_of(batch)[0], pieces_of(batch)[-1]) == (1, batch)


@pytest.mark.parametrize(("images", "best"), [(64, 64), (63, 32), (5, 4), (1, 1), (1000, 64)])
def test_the_largest_that_the_device_bears(images: int, best: int) -> None:
    assert largest_that_fits(pieces_of(64), holds(images)) == best  # type: ignore[arg-type]


@pytest.mark.parametrize("extra", [0, 0.16])
def test_what_would_not_fit_is_not_tried(extra: float) -> None:
    """On a CPU the attempt itself would be the end: the next size is foreseen from the last two."""
    tried = []

    def attempt(size: int) -> float:
        tried.append(size)
        taken = extra + 0.03 * size
        assert taken <= memory.USABLE, "killed"
        return taken

    assert largest_that_fits(pieces_of(64), attempt) == 16
    assert tried == [1, 2, 4, 8, 16]


def test_not_even_one_image() -> None:
    with pytest.raises(MemoryExhausted, match=r"--freeze streams.*data\.image_size") as error:
        largest_that_fits([1, 2], holds(0))  # type: ignore[arg-type]
    assert error.value.exit_code == 71


def test_other_errors_are_not_taken_for_it() -> None:
    def attempt(size: int) -> float:
        raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({size}x2 and 3x4)")

    with pytest.raises(RuntimeError, match="mat1"):
        largest_that_fits([1], attempt)
    with pytest.raises(RuntimeError, match="mat1"), exhausted("training", "too much.", do=""):
        attempt(1)


@pytest.mark.parametrize("much", [lambda: torch.empty(2**60, dtype=torch.uint8), lambda: np.empty(2**60, np.uint8)])
def test_what_torch_and_numpy_really_raise(much: object) -> None:
    with pytest.raises(MemoryExhausted), exhausted("training", "too much.", do="Take less."):
        much()  # type: ignore[operator]


def test_the_gauge_sees_what_is_taken() -> None:
    gauge = Gauge(torch.device("cpu"))
    gauge.reset()
    block = torch.ones(50_000_000)  # 200 MB
    del block
    assert 190e6 < gauge.taken() * gauge.free < 300e6
    gauge.reset()
    assert gauge.taken() * gauge.free < 100e6


def test_the_gauge_sees_gaps_in_a_limited_address_space() -> None:
    """Space that is reserved and not touched is no memory, and counts towards the limit."""
    gauge = Gauge(torch.device("cpu"))
    gauge.free_space = 2**33
    gauge.reset()
    reserved = mmap.mmap(-1, 2**32)
    reserved.close()
    assert 0.5 <= gauge.taken() < 0.6
    gauge.reset()
    assert gauge.taken() < 0.1, "what was reserved before does not count again"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is set up only for glibc")
def test_freed_memory_is_not_kept_in_a_limited_address_space() -> None:
    code = "from multistream.runtime.malloc import keep_memory; print(keep_memory())"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    for limit, kept in (("unlimited", "True"), ("8000000", "False")):
        command = ["/bin/sh", "-c", f"ulimit -v {limit}; exec {sys.executable} -c '{code}'"]
        told = subprocess.run(command, env=clean, capture_output=True, text=True, check=True)
        assert told.stdout.strip() == kept


def test_a_limit_of_the_address_space_is_heeded(tmp_path: Path) -> None:
    """As `ulimit -v` sets it, on the login nodes of clusters."""
    (tmp_path / "status").write_text("VmSize:\t   2000 kB\n")
    for soft, left in (("4096000", 4_096_000 - 2_048_000), ("unlimited", 2**63 - 1)):
        (tmp_path / "limits").write_text(f"Max address space         {soft}              unlimited            bytes\n")
        assert memory._address_space(tmp_path) == left
    assert memory._address_space(tmp_path / "not Linux") == 2**63 - 1


def test_control_groups_are_heeded(tmp_path: Path) -> None:
    for name, text in (("memory.max", "1000\n"), ("memory.current", "700\n"), ("memory.stat", "anon 600\nfile 100\n")):
        (tmp_path / name).write_text(text)
    assert memory._group_limit(tmp_path) == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._group_limit(tmp_path) > 10**12


def test_trial_steps_leave_nothing_behind() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout()).eval()
    network[2].train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    generator = torch.get_rng_state()
    with as_it_was(network):
        network.train()
        network(torch.rand(2, 3, 4, 4)).sum().backward()
        assert not torch.equal(network[1].running_mean, before["1.running_mean"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert [module.training for module in network] == [False, False, True]
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


def small(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    """Lets the device hold so many images at once."""
    forward = batch_size.Objective.forward

    def limited(self: batch_size.Objective, given: object, labels: torch.Tensor) -> object:
        if self.network.training and len(labels) > images:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, given, labels)  # type: ignore[arg-type]

    monkeypatch.setattr(batch_size.Objective, "forward", limited)


@pytest.mark.parametrize("freeze", ["none", "streams"])
def test_auto_settles_what_fits_and_the_recipe_says_it(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, freeze: str
) -> None:
    recipe = recipe.with_settings(["training.epochs=2", f"network.freeze=['{freeze}']"])
    with monkeypatch.context() as patch:
        small(patch, images=5)
        run = train(recipe.with_settings(["runtime.fit_batch=true"]), out=tmp_path / "auto")
    settled = run.recipe.training
    assert (settled.batch_size, settled.accumulation, run.recipe.runtime.fit_batch) == (4, 2, False)
    assert Recipe.load(run.folder) == run.recipe
    said = train(recipe.with_settings(["training.batch_size=4", "training.accumulation=2"]), out=tmp_path / "said")
    assert equal(run.folder, said.folder)
    assert train(Recipe(), resume=run.folder).epochs == 2


def test_pieces_train_as_the_whole(recipe: Recipe, tmp_path: Path) -> None:
    """Steps of 10 images of 48 (the last of 8), whole and in pieces: the same gradients, up to rounding."""
    recipe = recipe.with_settings(
        ["training.batch_size=10", "training.optimizer=sgd", "training.learning_rate=0.05", "training.epochs=2"]
    )
    whole = weights_of(train(recipe, out=tmp_path / "whole").folder)
    changes = ["training.batch_size=5", "training.accumulation=2"]
    pieces = weights_of(train(recipe.with_settings(changes), out=tmp_path / "pieces").folder)
    for name, tensor in whole.items():
        assert torch.allclose(tensor, pieces[name], atol=1e-5), name
    nine = recipe.with_settings(["training.batch_size=9"])
    three = recipe.with_settings(["training.batch_size=3", "training.accumulation=3"])
    one, other = (weights_of(train(r, out=tmp_path / str(i)).folder) for i, r in enumerate((nine, three)))
    assert all(torch.allclose(tensor, other[name], atol=1e-5) for name, tensor in one.items())


def test_advice_names_a_batch_size(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, images=5)
    with pytest.raises(MemoryExhausted, match=r"8 images do not fit at once.*--batch-size 4 .*accumulation=2") as error:
        train(recipe, out=tmp_path / "run")
    assert error.value.exit_code == 71
    assert "--freeze streams" in smaller_batches(recipe.updated({"training": {"batch_size": 1}}).training)


def test_settings_stay_where_all_fits(recipe: Recipe, tmp_path: Path) -> None:
    run = train(recipe.with_settings(["runtime.fit_batch=true", "training.epochs=1"]), out=tmp_path / "run")
    assert (run.recipe.training.batch_size, run.recipe.training.accumulation) == (8, 1)
    assert settings_that_fit.__doc__


LIMITED = """
import resource, sys
import torch, timm, multistream.training.train, multistream_object.stream
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + {more} * 2**20,) * 2)
sys.argv = ["multistream", *sys.argv[1:]]
from multistream.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits of the address space are set as on Linux")
@pytest.mark.parametrize("size", ["60", "auto"])
def test_a_process_that_really_has_little_memory(photos: Path, tmp_path: Path, size: str) -> None:
    """60 photos of 448 pixels through a whole MobileNetV2 with gradients take 20 GB; here are 5."""
    options = "--streams object --weights object=random --freeze none --epochs 1 --device cpu --precision fp32"
    words = ["train", "--data", str(photos), *options.split(), "--batch-size", size, "--out", "run"]
    for setting in ("data.image_size=448", "training.batch_size=60", "runtime.threads=1", "runtime.workers=0"):
        words += ["--set", setting] if size == "auto" or not setting.startswith("training") else []
    environment = {**os.environ, "MULTISTREAM_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    code = LIMITED.format(more=5000)
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    if size == "auto":
        assert done.returncode == 0, done.stderr
        settled = Recipe.load(tmp_path / "run").training
        assert settled.batch_size * settled.accumulation == 60
        assert 1 <= settled.batch_size < 60
    else:
        assert done.returncode == 71, done.stderr
        assert "--batch-size 30 --set training.accumulation=2" in done.stderr
        assert "Traceback" not in done.stderr
