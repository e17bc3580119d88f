"""Small composed networks for tests of explanations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from multistream import Image, MultiStream, Stream, Vector, compose

CLASSES = ["amusement", "awe", "fear"]


class Toy(Stream):
    """Three convolution stages, 8, 12 and 16 channels, with batch norm and in-place ReLU."""

    def __init__(self, size: int = 32) -> None:
        def block(a: int, b: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True))

        stages = {"low": block(3, 8), "middle": block(8, 12), "high": block(12, 16)}
        super().__init__(stages, channels={"low": 8, "middle": 12, "high": 16}, input=Image(size=size))


class Words(Stream):
    """A vector of 10 with a linear head."""

    def __init__(self) -> None:
        super().__init__({}, channels={}, input=Vector("words", width=10))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"vector": x.float()}


Make = Callable[..., MultiStream]


@pytest.fixture
def make() -> Make:
    """`make(temporal=..., fusion=...)` composes two image streams and a vector, frozen and with fitted taps."""

    def composed(*, frozen: bool = True, **options: object) -> MultiStream:
        torch.manual_seed(0)
        network = compose({"left": Toy(), "right": Toy(), "words": Words()}, classes=CLASSES, **options)  # type: ignore[arg-type]
        if frozen:
            network.freeze("streams")
        network.eval()
        with torch.no_grad():
            network.fit(network.pool(example(16, seed=1)))
        network.prior.copy_(torch.tensor([0.5, 0.3, 0.2]))
        return network

    return composed


def example(size: int = 4, *, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randint(0, 256, (size, 3, 32, 32), generator=generator, dtype=torch.uint8),
        "words": torch.rand(size, 10, generator=generator),
    }
