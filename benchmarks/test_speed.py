"""Fine-tuning, inference, extraction, caching and overhead, against what a user would write instead.

pytest benchmarks -m "not gpu" -s      on a CPU, with two threads
pytest benchmarks -m gpu -s            on a GPU
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.plain import ByHand, Plain
from multistream import MultiStream, compose
from multistream.features.extraction import GROUP
from multistream.profiling.machine import measure_roofline, timed
from multistream.recipe import TrainingSettings
from multistream.runtime import Runtime
from multistream.training.objective import CrossEntropy, Objective
from multistream.training.optimisers import make_optimizer

CLASSES = [f"class {number}" for number in range(8)]
CASES = {
    "object": (["object"], ["mobilenetv2_100"], 16),
    "places": (["places"], ["vgg16"], 4),
    "both": (["object", "places"], ["mobilenetv2_100", "vgg16"], 4),
}
Report = Callable[..., Any]


def ours(streams: list[str], runtime: Runtime) -> MultiStream:
    torch.manual_seed(0)
    return runtime.place(compose(streams, classes=CLASSES))


def batch_of(size: int, runtime: Runtime) -> tuple[Tensor, Tensor]:
    images = torch.randint(0, 256, (size, 3, 224, 224), dtype=torch.uint8)
    return images.to(runtime.device), (torch.arange(size) % 8).to(runtime.device)


def step_of(network: MultiStream, runtime: Runtime, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """One fine-tuning step as training takes it."""
    objective = Objective(network.train(), criterion=CrossEntropy(), runtime=runtime, pooled=False)
    optimizer = make_optimizer(network, TrainingSettings(), runtime)
    given = runtime.send({"image": images})

    def step() -> None:
        objective(given, labels)[0].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def plain_step(network: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(network.train().parameters(), lr=1e-3)

    def step() -> None:
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


@pytest.mark.parametrize("case", CASES)
def test_fine_tuning_step(case: str, fast: Runtime, report: Report) -> None:
    streams, models, size = CASES[case]
    images, labels = batch_of(size, fast)
    mine = step_of(ours(streams, fast), fast, images, labels)
    report(f"fine-tuning step, {case}", mine, plain_step(Plain(*models).to(fast.device), images, labels))


@pytest.mark.parametrize("case", CASES)
def test_inference(case: str, fast: Runtime, report: Report) -> None:
    streams, models, size = CASES[case]
    images, _ = batch_of(size, fast)
    network, plain = ours(streams, fast).eval(), Plain(*models).to(fast.device).eval()
    given = fast.send({"image": images})

    @torch.no_grad()
    def mine() -> Tensor:
        with fast.autocast:
            pooled = network.pool(given)
        return network.classify(pooled)

    report(f"inference, {case}", mine, torch.no_grad()(lambda: plain(images)))


def test_extraction_of_vgg16_against_the_roofline(fast: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    network = ours(["places"], fast).freeze("streams").eval()
    given = fast.send({"image": batch_of(GROUP, fast)[0]})

    def group() -> None:
        with torch.no_grad(), fast.autocast:
            network.pool(given)

    group()
    shares = []
    for _ in range(7):
        (seconds,) = timed(group, fast, repeats=1)
        shares.append(GROUP * 15_346_630_656 / seconds / measure_roofline(fast).macs_per_second)
    with capsys.disabled():
        print(f"\n{'extraction of VGG16, share of the roofline':42} {sorted(shares)[3]:.0%} (median of 7)")


def test_an_epoch_on_the_cache(fast: Runtime, report: Report) -> None:
    network = ours(["object"], fast).freeze("streams")
    images, labels = batch_of(64, fast)
    given = fast.send({"image": images})
    with torch.no_grad(), fast.autocast:
        pooled = network.pool(given)
    optimizer = make_optimizer(network, TrainingSettings(), fast)

    def step(feed: Any, *, cached: bool) -> Callable[[], None]:
        objective = Objective(network.train(), criterion=CrossEntropy(), runtime=fast, pooled=cached)

        def run() -> None:
            objective(feed, labels)[0].backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return run

    report("epoch on the cache against frozen streams", step(pooled, cached=True), step(given, cached=False))


def test_composed_costs_what_by_hand_costs(report: Report) -> None:
    """At most 5 % more: the lower end of theirs / ours must stay above 0.95."""
    torch.set_num_threads(2)
    runtime = Runtime(torch.device("cpu"))
    network = ours(["object"], runtime).eval()
    by_hand = ByHand(network).eval()
    images, _ = batch_of(8, runtime)
    with torch.no_grad():
        assert torch.equal(network({"image": images}), by_hand(images))
        found = report(
            "by hand against composed", lambda: network({"image": images}), lambda: by_hand(images), pairs=21
        )
    assert found.low > 0.95


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("case", CASES)
def test_gpu_against_a_tuned_loop(case: str, fast: Runtime, report: Report) -> None:
    """Against bf16, channels-last and compile, as somebody who knows would write them."""
    streams, models, _ = CASES[case]
    images, labels = batch_of(64, fast)
    mine = step_of(ours(streams, fast), fast, images, labels)
    plain = Plain(*models).to(fast.device, memory_format=torch.channels_last)
    tuned = torch.compile(plain)
    optimizer = torch.optim.AdamW(plain.train().parameters(), lr=1e-3, fused=True)

    def theirs() -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(tuned(images.contiguous(memory_format=torch.channels_last)), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    report(f"GPU, tuned loop against ours, {case}", mine, theirs)
    report(f"GPU, plain loop against ours, {case}", mine, plain_step(Plain(*models).to(fast.device), images, labels))
