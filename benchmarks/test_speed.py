"""Fine-tuning, inference and overhead, against code that a user would write instead.

pytest benchmarks -m "not gpu" -s      on a CPU, with two threads
pytest benchmarks -m gpu -s            on a GPU
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.plain import ByHand, plain_inference, plain_step, tuned_step
from benchmarks.subjects import CASES, batch_of, inference_of, ours, step_of
from multistream.runtime.device import Runtime

Report = Callable[..., Any]
GPU_BATCH = 64
gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")]


@pytest.mark.parametrize("case", CASES)
def test_fine_tuning_step(case: str, fast: Runtime, report: Report, elsewhere: Callable[..., Any]) -> None:
    streams, models, size = CASES[case]
    mine = step_of(ours(streams, fast), fast, *batch_of(size, fast.device))
    report(f"fine-tuning step, {case}", mine, elsewhere(plain_step, models, size, str(fast.device)))


@pytest.mark.parametrize("case", CASES)
def test_inference(case: str, fast: Runtime, report: Report, elsewhere: Callable[..., Any]) -> None:
    streams, models, size = CASES[case]
    mine = inference_of(ours(streams, fast).eval(), fast, batch_of(size, fast.device)[0])
    report(f"inference, {case}", mine, elsewhere(plain_inference, models, size, str(fast.device)))


def test_composed_costs_what_by_hand_costs(report: Report) -> None:
    """Overhead of at most 5 %: the lower end of theirs / ours must be above 0.95."""
    torch.set_num_threads(2)
    runtime = Runtime(torch.device("cpu"))
    network = ours(["object"], runtime).eval()
    by_hand = ByHand(network).eval()
    images, _ = batch_of(8, runtime.device)
    with torch.no_grad():
        assert torch.equal(network({"image": images}), by_hand(images))
        found = report(
            "by hand against composed", lambda: network({"image": images}), lambda: by_hand(images), pairs=51
        )
    assert found.low > 0.95


@pytest.mark.parametrize("case", [pytest.param(case, marks=gpu) for case in CASES])
def test_gpu_step(case: str, fast: Runtime, report: Report, elsewhere: Callable[..., Any]) -> None:
    """Against the plain float32 loop, and a tuned one: bf16, channels-last, torch.compile, fused AdamW."""
    streams, models, _ = CASES[case]
    tuned, plain = (elsewhere(make, models, GPU_BATCH, "cuda") for make in (tuned_step, plain_step))
    for compiled in (False, True):
        mine = step_of(ours(streams, fast), replace(fast, compile=compiled), *batch_of(GPU_BATCH, fast.device))
        name = f"GPU step, {case}{', compiled' if compiled else ''}"
        report(f"{name}, against the plain loop", mine, plain, warmup=8)
        report(f"{name}, against the tuned loop", mine, tuned, warmup=8)
