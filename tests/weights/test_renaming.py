"""Names of torchvision and of timm: the same tensors give the same logits in both libraries' models."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from multistream.errors import WeightsError
from multistream.weights import match_by_order, to_names

PAIRS = [("mobilenet_v2", "mobilenetv2_100"), ("vgg16", "vgg16"), ("resnet18", "resnet18"), ("resnet50", "resnet50")]


def alive(name: str) -> nn.Module:
    """torchvision's model with random statistics; its own initialisation is dead in eval mode."""
    torch.manual_seed(0)
    net = torchvision.models.get_model(name)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return net.eval()


def alphabetical(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors returns them."""
    return dict(sorted(tensors.items()))


@pytest.mark.parametrize(("torchvisions", "timms"), PAIRS)
@torch.no_grad()
def test_equal_logits_and_the_way_back(torchvisions: str, timms: str) -> None:
    first = alive(torchvisions)
    tensors = alphabetical(first.state_dict())
    renamed = to_names(tensors, "timm")
    second = timm.create_model(timms).eval()
    second.load_state_dict(renamed)
    size = 224 if torchvisions == "vgg16" else 96
    images = torch.randn(2, 3, size, size)
    logits = first(images)
    assert logits.std() > 1e-4
    torch.testing.assert_close(second(images), logits, rtol=1e-5, atol=1e-5)
    back = to_names(renamed, "torchvision")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    assert to_names(tensors, "torchvision").keys() == tensors.keys()
    assert to_names(renamed, "timm").keys() == renamed.keys()


def test_files_without_counters_and_classifier_are_renamed_too() -> None:
    tensors = {
        name: tensor
        for name, tensor in torchvision.models.mobilenet_v2().state_dict().items()
        if not name.endswith("num_batches_tracked") and not name.startswith("classifier")
    }
    renamed = to_names(tensors, "timm")
    reference = timm.create_model("mobilenetv2_100").state_dict()
    assert {name: t.shape for name, t in renamed.items()}.items() <= {
        name: t.shape for name, t in reference.items()
    }.items()
    assert len(renamed) == len(tensors)


def test_another_architecture_is_refused() -> None:
    with pytest.raises(WeightsError, match="Supported: MobileNetV2, VGG16 and ResNet"):
        to_names(timm.create_model("efficientnet_b0").state_dict(), "torchvision")


REFERENCE = {"a.weight": torch.ones(2), "a.bias": torch.ones(2)}


def test_matching_by_order() -> None:
    tensors = {"x.weight": torch.zeros(2), "x.bias": torch.ones(2)}
    assert match_by_order(tensors, REFERENCE)["a.weight"] is tensors["x.weight"]


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"x.weight": torch.ones(2)}, "1 tensors cannot be matched to 2"),
        ({"x.weight": torch.ones(2), "x.bias": torch.ones(3)}, r"x\.bias \(3,\) is in the position of a\.bias"),
        ({"x.bias": torch.ones(2), "x.weight": torch.ones(2)}, r"x\.bias \(2,\) is in the position of a\.weight"),
    ],
)
def test_matching_is_checked_all_the_way(tensors: dict[str, Tensor], says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        match_by_order(tensors, REFERENCE)
