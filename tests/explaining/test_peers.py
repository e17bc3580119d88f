"""Comparisons with other libraries: captum's test case, VGG16 with in-place activations (checks E1, E5, E8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from multistream import FusionOutput, Map, Stream, Tap, compose, read_map
from multistream.explaining.gradients import grad_cam
from multistream.interfaces import Fusion
from multistream.network.branch import Branch
from multistream.network.network import MultiStream
from multistream.parts.taps import GlobalAverage


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_pooling_and_projecting_commute(kind: torch.dtype, tolerance: float) -> None:
    """Check E1, computed by hand in both orders and by the network."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 24, 14, 14, generator=generator, dtype=kind)
    tap = GlobalAverage(24, width=64).to(kind)
    convolved = nn.functional.conv2d(x, tap.projection.weight[..., None, None], tap.projection.bias).mean((2, 3))
    linear = tap.projection(x.mean((2, 3)))
    assert (convolved - linear).abs().max() <= tolerance
    if kind == torch.float32:
        assert (convolved - tap(x)).abs().max() <= tolerance


class OneConv(Stream):
    """Captum's BasicModel_ConvNet_One_Conv up to its activation."""

    def __init__(self) -> None:
        stages = {"conv1": nn.Conv2d(1, 2, 3), "relu1": nn.ReLU()}
        picture = Map("picture", channels=1, size=4, read=read_map)
        super().__init__(stages, channels={"conv1": 2, "relu1": 2}, input=picture)

    def make_head(self, width: int, classes: int) -> nn.Module:
        assert width == classes
        return nn.ReLU()


class Flat(Tap):
    """A tap that applies captum's linear layer to every pixel instead of pooling."""

    last_only: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__(8, width=4)
        self.on_pixels = nn.Linear(8, 4)

    def pool(self, map_BChw: Tensor) -> Tensor:
        return map_BChw.flatten(1)

    def project(self, pooled_BP: Tensor) -> Tensor:
        projected: Tensor = self.on_pixels(pooled_BP)
        return projected


class Through(Fusion):
    """The stream's own head."""

    def forward(self, vectors: Mapping[str, Tensor], present: frozenset[str] | None = None) -> FusionOutput:
        del present
        ((key, vector),) = vectors.items()
        return FusionOutput(self.heads[key](vector), {})


def captums_network() -> tuple[MultiStream, nn.Module]:
    theirs = pytest.importorskip("captum.testing.helpers.basic_models").BasicModel_ConvNet_One_Conv()
    stream, tap = OneConv(), Flat()
    stream.stages["conv1"].load_state_dict(theirs.conv1.state_dict())
    tap.on_pixels.load_state_dict(theirs.fc1.state_dict())
    branch = Branch(stream, taps={"relu1": tap}, make_temporal=None)
    return MultiStream({"one": branch}, make_fusion=make_through, classes=["a", "b", "c", "d"]), theirs


def make_through(widths: Mapping[str, int], heads: Mapping[str, nn.Module]) -> Fusion:
    return Through(widths, classes=4, heads=heads)


def test_grad_cam_equals_captum_test_case() -> None:
    """Check E8."""
    network, theirs = captums_network()
    picture = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(network({"picture": picture}), theirs(picture))
    cams = grad_cam(network, {"picture": picture}, score=lambda logits: logits[:, 0], flow="total")["one"]
    assert torch.allclose(cams["conv1"][0], torch.tensor([[11.25, 13.5], [20.25, 22.5]]), atol=1e-4)
    assert torch.allclose(cams["relu1"][0], torch.tensor([[0.0, 4.0], [28.0, 32.5]]), atol=1e-4)


class OfImage(nn.Module):
    """The network with captum's interface."""

    def __init__(self, network: MultiStream) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network({"image": image})


def test_vgg16_with_in_place_activations() -> None:
    """Check E5: maps with in-place activations equal captum's without them, at every stage."""
    captum = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    network = compose(["places"], classes=["a", "b", "c"], image_size=64).freeze("streams").eval()
    batch = {"image": torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)}
    rectifiers = [module for module in network.modules() if isinstance(module, nn.ReLU)]
    assert all(module.inplace for module in rectifiers)
    ours = grad_cam(network, batch, score=lambda logits: logits[:, 1], flow="total")["places"]
    for module in rectifiers:
        module.inplace = False
    for name, stage in network.branches["places"].stream.stages.items():
        image = batch["image"].float().requires_grad_()
        theirs = captum.LayerGradCam(OfImage(network), stage).attribute(image, target=1)[:, 0].detach()
        assert (ours[name] - theirs).abs().max() <= 1e-6 * theirs.abs().max()
