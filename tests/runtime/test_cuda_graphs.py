"""Groups as a CPU runs them; tests/gpu has what a GPU does with them."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import multistream as ms
from multistream import Stream
from multistream.network.branch import Branch
from multistream.runtime.cuda_graphs import PooledGroups
from multistream.runtime.device import Runtime

CPU = Runtime(torch.device("cpu"), precision="bf16")


class Small(Stream):
    """Two convolutions."""

    def __init__(self) -> None:
        stages = {"low": nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "high": nn.Conv2d(4, 8, 3)}
        super().__init__(stages, channels={"low": 4, "high": 8}, input=ms.Image(size=16))


@pytest.fixture
def branch() -> Branch:
    torch.manual_seed(0)
    return ms.compose({"small": Small()}, classes=["awe", "fear"]).eval().branches["small"]


def images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.mark.parametrize("count", [1, 4])
@torch.no_grad()
def test_groups_are_pooled_in_the_runtimes_precision(branch: Branch, count: int) -> None:
    found = PooledGroups(CPU, size=4).pool(branch, images(count))
    with CPU.autocast:
        expected = branch.pool(images(count))
    assert all(torch.equal(found[stage], expected[stage]) for stage in ("low", "high"))
    assert not torch.equal(found["high"], branch.pool(images(count))["high"])


@torch.no_grad()
def test_compiled_groups(branch: Branch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole groups only, each branch once."""
    compiled: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or function)
    groups = PooledGroups(replace(CPU, compile=True), size=4)
    for count in (4, 4, 1):
        groups.pool(branch, images(count))
    assert compiled == [branch.pool]


@pytest.mark.slow
@torch.no_grad()
def test_the_compiler_computes_the_same(branch: Branch) -> None:
    found = PooledGroups(replace(CPU, compile=True, precision="fp32"), size=4).pool(branch, images(4))
    expected = branch.pool(images(4))
    for stage, values in expected.items():
        torch.testing.assert_close(found[stage], values)


@torch.no_grad()
def test_what_was_made_for_this_process_stays_here(branch: Branch) -> None:
    groups = PooledGroups(CPU, size=4)
    groups.pool(branch, images(4))
    assert len(groups.runs) == 1
    assert pickle.loads(pickle.dumps(groups)).runs == {}
