"""Where and how precisely a network runs: the parity check, the pooling's gradient, the allocator."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from multistream import Image, MultiStream, Stream, compose, streams
from multistream.nn.global_average import global_average
from multistream.recipe import RuntimeSettings
from multistream.runtime import device as runtime
from multistream.runtime import precision_check
from multistream.runtime.device import Runtime
from multistream.runtime.precision_check import TOLERANCE, compare, settle

BF16 = Runtime(torch.device("cpu"), precision="bf16", channels_last=True)


class Fragile(Stream):
    """A stream that bf16 ruins: it looks at the difference of two large numbers."""

    def __init__(self) -> None:
        stages = {"whole": nn.Conv2d(3, 4, 3, padding=1), "broken": _Difference()}
        super().__init__(stages, channels={"whole": 4, "broken": 4}, input=Image(size=32))


class _Difference(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 4, 1)

    def forward(self, map_BChw: Tensor) -> Tensor:
        """(x + 300) - 300, of which bf16 keeps steps of 2."""
        found: Tensor = self.convolution(map_BChw)
        return (found + 300) - 300


@pytest.fixture
def bf16_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "has_bf16", lambda device: device.type == "cpu")


def fragile() -> MultiStream:
    torch.manual_seed(0)
    return compose({"fragile": Fragile()}, classes=["a", "b"])


@pytest.mark.usefixtures("bf16_everywhere")
def test_auto_takes_bf16_where_it_agrees_and_says_by_how_much() -> None:
    said: list[str] = []
    network = compose(["object"], classes=["a", "b"], image_size=64).train()
    found = settle(RuntimeSettings(device="cpu"), network, say=said.append)
    assert found.precision == "bf16"
    (line,) = said
    assert line.startswith("precision: bf16; pooled features differ from fp32 by at most ")
    assert "object/" in line
    assert network.training


@pytest.mark.usefixtures("bf16_everywhere")
def test_auto_falls_back_aloud() -> None:
    said: list[str] = []
    found = settle(RuntimeSettings(device="cpu"), fragile(), say=said.append)
    assert found.precision == "fp32"
    (line,) = said
    assert "fragile/broken" in line
    assert line.endswith("more than the limit of 5 %; using fp32")


@pytest.mark.usefixtures("bf16_everywhere")
def test_who_asks_for_bf16_gets_it_unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_check, "compare", lambda *_: pytest.fail("it was checked"))
    said: list[str] = []
    assert settle(RuntimeSettings(device="cpu", precision="bf16"), fragile(), say=said.append).precision == "bf16"
    assert settle(RuntimeSettings(device="cpu", precision="fp32"), fragile(), say=said.append).precision == "fp32"
    vectors = compose({"anp": streams["anp"](width=4)}, classes=["a", "b"])
    settle(RuntimeSettings(device="cpu"), vectors, say=said.append)
    assert said == []


def test_the_figure_is_the_relative_difference() -> None:
    network = compose(["object"], classes=["a"], image_size=64).eval()
    found = compare(network, BF16)
    assert found.holds
    assert 0 < found.difference < TOLERANCE
    assert compare(network, Runtime(torch.device("cpu"))).difference == 0
    assert found == compare(network, BF16)  # always the same pictures


def test_not_a_number_does_not_hold() -> None:
    network = compose(["object"], classes=["a"], image_size=64)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    assert not compare(network, BF16).holds


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pooling_is_torchs_mean_bit_by_bit_in_both_directions(kind: torch.dtype, layout: torch.memory_format) -> None:
    ours = torch.randn(3, 5, 7, 6).to(kind).contiguous(memory_format=layout).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    weights = torch.randn(3, 5)
    pooled, expected = global_average(ours.relu()), theirs.relu().mean((2, 3), dtype=torch.float32)
    assert torch.equal(pooled, expected)
    (pooled * weights).sum().backward()
    (expected * weights).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)


def test_poolings_gradient_takes_no_memory_and_has_a_gradient() -> None:
    image = torch.randn(2, 3, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(global_average(image).square().sum(), image, create_graph=True)
    assert gradient.untyped_storage().nbytes() == 2 * 3 * 4
    (second,) = torch.autograd.grad(gradient.sum(), image)
    assert torch.allclose(second, torch.full_like(image, 2 / 64))


def test_pooling_can_be_mapped() -> None:
    maps = torch.randn(4, 2, 3, 5, 5)
    per_map: Callable[[Tensor], Tensor] = torch.func.grad(lambda m: global_average(m).square().sum())
    mapped = torch.func.vmap(per_map)(maps)
    assert torch.allclose(mapped, torch.stack([per_map(m) for m in maps]))


ALLOCATING = """
import resource, sys, torch
from multistream.runtime.malloc import keep_memory
torch.set_num_threads(1)
print(keep_memory() if sys.argv[1] == "keep" else False)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(2**24)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_kept_memory_is_not_fetched_again() -> None:
    def faults(mode: str, **environment: str) -> tuple[str, int]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))}
        asked = [sys.executable, "-c", ALLOCATING, mode]
        told = subprocess.run(asked, env={**clean, **environment}, capture_output=True, text=True, check=True)
        kept, count = told.stdout.split()
        return kept, int(count)

    kept, few = faults("keep")
    if kept != "True":
        pytest.skip("the C library is not glibc")
    many = faults("leave")[1]
    for _ in range(4):  # 0 to 3 blocks of five, as addresses fall
        if few < many / 3:
            break
        few = min(few, faults("keep")[1])
    assert few < many / 3
    assert faults("keep", MALLOC_MMAP_THRESHOLD_="131072")[0] == "False"


def test_placing_leaves_numbers_alone() -> None:
    network = compose(["object"], classes=["a"], image_size=32)
    before = copy.deepcopy(network.state_dict())
    BF16.place(network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
