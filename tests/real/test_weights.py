"""Real weight files: they read as their publishers meant them."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision

from multistream.weights import fit, inspect, read_tensors, to_names

SHARED = Path(__file__).parents[3] / "shared"
MOBILENET = SHARED / "weights" / "mobilenet_v2_imagenet.safetensors"
SQUEEZENET = SHARED / "weights" / "squeezenet_places365.safetensors"
MEAN = SHARED / "data" / "places365" / "places365CNN_mean.binaryproto"

pytestmark = pytest.mark.skipif(not SHARED.exists(), reason="needs shared/ beside the repository")


@torch.no_grad()
def test_torchvision_and_timm_agree_on_the_real_mobilenet() -> None:
    tensors = read_tensors(MOBILENET).tensors
    assert tensors["features.0.0.weight"].dtype == torch.float16  # kept as stored, cast when loaded
    first, second = torchvision.models.mobilenet_v2().eval(), timm.create_model("mobilenetv2_100").eval()
    fit(first, tensors)
    fit(second, to_names(tensors, "timm"))
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    logits = first(images)
    assert logits.std() > 0.1
    torch.testing.assert_close(second(images), logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("path", "architecture", "tensors", "parameters"),
    [(MOBILENET, "MobileNetV2", 314, 3_504_872), (SQUEEZENET, "", 177, 915_629)],
    ids=["mobilenet", "squeezenet"],
)
def test_inspect_counts_real_files(path: Path, architecture: str, tensors: int, parameters: int) -> None:
    found = inspect(path)
    assert (found.architecture, found.tensors, found.parameters) == (architecture, tensors, parameters)


def test_the_published_mean_image_of_places365() -> None:
    mean = read_tensors(MEAN).tensors["mean"]
    assert mean.shape == (3, 256, 256)
    torch.testing.assert_close(mean.mean((1, 2)), torch.tensor([104.05, 112.51, 116.68]), rtol=0, atol=0.006)
