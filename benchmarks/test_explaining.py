"""The time of an explanation, against a plain forward pass and against captum, measured alternately in one run.

pytest benchmarks/test_explaining.py -s      on a CPU, with two threads
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from multistream import MultiStream, compose
from multistream.explaining.decomposition import Decomposer
from multistream.explaining.forward import forward_pass
from multistream.recipe import RuntimeSettings
from multistream.runtime.device import Runtime, resolve

Report = Callable[..., Any]
CASES = {"object": (["object"], 16), "object+places": (["object", "places"], 4)}


@pytest.fixture
def exact() -> Runtime:
    """Explanations run in float32, in the memory layout of all commands."""
    torch.set_num_threads(2)
    return resolve(RuntimeSettings(precision="fp32"))


def frozen(streams: list[str], size: int, runtime: Runtime) -> tuple[MultiStream, dict[str, Tensor]]:
    """Returns a random network with eight classes, and a batch for it."""
    torch.manual_seed(0)
    network = runtime.place(compose(streams, classes=[f"class {number}" for number in range(8)]))
    images = torch.randint(0, 256, (size, 3, 224, 224), dtype=torch.uint8)
    return network.freeze("streams").eval(), runtime.send({"image": images})


@pytest.mark.parametrize("case", CASES)
def test_all_stages_and_classes_against_a_plain_forward(case: str, exact: Runtime, report: Report) -> None:
    """At most 1.2 times a forward pass, including the residual: plain / explained is above 1 / 1.2."""
    streams, size = CASES[case]
    network, given = frozen(streams, size, exact)
    decomposer = Decomposer(network)

    def explain() -> Tensor:
        return decomposer.decompose(forward_pass(network, given, runtime=exact)).residual

    @torch.no_grad()
    def plain() -> Tensor:
        return network(given)

    found = report(f"plain forward against explained, {case}", explain, plain)
    assert found.median > 1 / 1.2


def test_five_stages_against_captum(exact: Runtime, report: Report) -> None:
    """Captum runs forward and backward once per stage, for one class; the decomposition covers all eight."""
    captum = pytest.importorskip("captum.attr")
    network, given = frozen(["object"], 16, exact)
    decomposer = Decomposer(network)
    whole = OfImage(network)
    peers = [captum.LayerGradCam(whole, stage) for stage in network.branches["object"].stream.stages.values()]

    def theirs() -> list[Tensor]:
        image = given["image"].float().requires_grad_()
        return [peer.attribute(image, target=1) for peer in peers]

    def mine() -> Any:
        return decomposer.decompose(forward_pass(network, given, runtime=exact))

    last = list(mine().maps["object"].values())[-1][:, 1]
    assert torch.allclose(last, theirs()[-1][:, 0], atol=1e-5 * float(last.abs().max()))
    found = report("captum against explained, five stages", mine, theirs, pairs=3, warmup=1)
    assert found.median > 5


class OfImage(nn.Module):
    """The network as a function of the photo only."""

    def __init__(self, network: MultiStream) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network({"image": image})
        return logits
