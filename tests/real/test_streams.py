"""The object stream with real weights: it loads them strictly, and sees what torchvision sees."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from multistream import streams
from multistream.weights import read_tensors

FILE = Path(__file__).parents[3] / "shared" / "weights" / "mobilenet_v2_imagenet.safetensors"
TAPS = (1, 3, 6, 13, 18)
"""The ends of our stages in torchvision's `features`."""


@pytest.mark.skipif(not FILE.exists(), reason="needs shared/weights beside the repository")
@torch.no_grad()
def test_real_mobilenet_gives_torchvisions_features() -> None:
    tensors = read_tensors(FILE).tensors
    stream = streams["object"](end=1280).eval()
    stream.load_weights(tensors)
    theirs = torchvision.models.mobilenet_v2().eval()
    theirs.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
    images = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x, expected = stream.prepare(images), []
    for number, layer in enumerate(theirs.features):
        x = layer(x)
        if number in TAPS:
            expected.append(x)
    for ours, feature in zip(stream(images).values(), expected, strict=True):
        assert (ours - feature).abs().max() < 1e-5
