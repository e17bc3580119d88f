"""The code under test: this library's network and its steps, as in training, prediction and extraction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from multistream import MultiStream, compose
from multistream.parts.losses import CrossEntropy
from multistream.recipe import TrainingSettings
from multistream.runtime.cuda_graphs import GraphedStreams
from multistream.runtime.device import Runtime
from multistream.training.optimizers import make_optimizer
from multistream.training.step import Objective

CLASSES = [f"class {number}" for number in range(8)]
CASES = {
    "object": (("object",), ("mobilenetv2_100",), 16),
    "places": (("places",), ("vgg16",), 4),
    "both": (("object", "places"), ("mobilenetv2_100", "vgg16"), 4),
}
"""This library's streams, timm's names of the same networks, and the batch size."""


def ours(streams: Sequence[str], runtime: Runtime) -> MultiStream:
    """Composes the paper's network with random weights."""
    torch.manual_seed(0)
    return runtime.place(compose(streams, classes=CLASSES))


def batch_of(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns random pictures uint8 (B, 3, 224, 224) and labels (B,)."""
    chance = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, 3, 224, 224), dtype=torch.uint8, generator=chance)
    return images.to(device), (torch.arange(size) % 8).to(device)


def step_of(network: MultiStream, runtime: Runtime, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """Returns one fine-tuning step as in training: on a GPU, streams are replayed from CUDA graphs."""
    graphs = GraphedStreams(network, runtime, batch_size=len(labels), say=print) if runtime.cuda_graphs else None
    objective = Objective(network.train(), criterion=CrossEntropy(), runtime=runtime, pooled=False, graphs=graphs)
    whole = torch.compile(objective) if runtime.compile and not graphs else objective
    optimizer = make_optimizer(network, TrainingSettings(), runtime)
    given = runtime.send({"image": images})

    def step() -> None:
        whole(given, labels)[0].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def inference_of(network: MultiStream, runtime: Runtime, images: Tensor) -> Callable[[], Tensor]:
    """Returns a function that computes the logits of a batch, as in prediction."""
    given = runtime.send({"image": images})

    @torch.no_grad()
    def run() -> Tensor:
        with runtime.autocast:
            pooled = network.pool(given)
        return network.classify(pooled)

    return run
