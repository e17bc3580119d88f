"""The places stream: maps, channel order, names in weight files of other libraries, cost."""

import pytest
import torch
import torchvision
from multistream_places.stream import Places
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from multistream import MultistreamError
from multistream.testing import StreamContract

IMAGES = torch.randint(256, (1, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TAPS = (3, 8, 15, 22, 29)
"""conv1_2 .. conv5_3 after ReLU, in torchvision's `features` (paper section 2)."""


class TestPlaces(StreamContract):
    def make(self) -> Places:
        return Places()


class TestResNet18(StreamContract):
    def make(self) -> Places:
        return Places(variant="resnet18")


@pytest.mark.parametrize(
    ("options", "channels", "side"),
    [
        ({}, (64, 128, 256, 512, 512), 224),
        ({"normalisation": "paper-code"}, (64, 128, 256, 512, 512), 224),
        ({"variant": "resnet18"}, (64, 64, 128, 256, 512), 112),
        ({"variant": "resnet50"}, (64, 256, 512, 1024, 2048), 112),
    ],
)
@torch.no_grad()
def test_maps_have_the_papers_shapes_and_a_random_net_is_alive(
    options: dict[str, str], channels: tuple[int, ...], side: int
) -> None:
    torch.manual_seed(0)
    maps = Places(**options).eval()(IMAGES)
    assert [tuple(m.shape[1:]) for m in maps.values()] == [(c, side >> n, side >> n) for n, c in enumerate(channels)]
    for stage, map_BChw in maps.items():
        assert 1e-2 < map_BChw.std() < 100, stage


@pytest.fixture(scope="module")
def vgg() -> torch.nn.Module:
    """torchvision's VGG16 with random weights, which the test treats like Caffe's: they read B, G, R."""
    torch.manual_seed(1)
    return torchvision.models.vgg16().eval()


def features(vgg: torch.nn.Module, x: Tensor) -> list[Tensor]:
    maps = []
    for number, layer in enumerate(vgg.features):
        x = layer(x)
        if number in TAPS:
            maps.append(x.clone())
    return maps


@torch.no_grad()
def test_vgg16_feeds_published_weights_blue_green_red_minus_the_mean(vgg: torch.nn.Module) -> None:
    stream = Places().eval()
    stream.load_weights(vgg.state_dict())
    red, green, blue = IMAGES.float().unbind(1)
    caffe = torch.stack([blue - 104.0, green - 116.7, red - 122.7], dim=1)
    for ours, theirs in zip(stream(IMAGES).values(), features(vgg, caffe), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.max()))


@torch.no_grad()
def test_paper_code_feeds_the_same_weights_red_green_blue(vgg: torch.nn.Module) -> None:
    stream = Places(normalisation="paper-code").eval()
    stream.load_weights(vgg.state_dict())
    for ours, theirs in zip(stream(IMAGES).values(), features(vgg, IMAGES.float() / 127.5 - 1), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.max()))


@pytest.mark.parametrize("variant", ["resnet18", "resnet50"])
@torch.no_grad()
def test_resnets_take_csails_files(variant: str) -> None:
    theirs = torchvision.models.get_model(variant).eval()
    stream = Places(variant=variant).eval()
    # CSAIL's files are from torch 0.2: a wrapped module, without num_batches_tracked.
    file = {f"module.{k}": v for k, v in theirs.state_dict().items() if not k.endswith("num_batches_tracked")}
    stream.load_weights(file)
    x = theirs.relu(theirs.bn1(theirs.conv1(stream.prepare(IMAGES))))
    maps = stream(IMAGES)
    torch.testing.assert_close(maps["stem"], x)
    x = theirs.maxpool(x)
    for layer in ("layer1", "layer2", "layer3", "layer4"):
        x = getattr(theirs, layer)(x)
        torch.testing.assert_close(maps[layer], x, rtol=1e-5, atol=1e-5 * float(x.max()))


def test_multiply_adds_of_the_five_stages() -> None:
    stream = Places().eval()
    with torch.no_grad(), FlopCounterMode(display=False, depth=10) as counter:
        stream(IMAGES)
    counts = counter.get_flop_counts()
    stages = [sum(counts[f"Places.stages.{stage}"].values()) // 2 for stage in stream.stages]
    assert [round(macs / 1e6, 3) for macs in stages] == [1936.392, 2774.532, 4624.220, 4624.220, 1387.266]
    assert sum(stages) == counter.get_total_flops() // 2 == 15_346_630_656
    assert sum(p.numel() for p in stream.parameters()) == 14_714_688


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"variant": "vgg19"}, "'vgg19' is unknown. Known: vgg16, resnet18, resnet50."),
        ({"variant": "resnet18", "normalisation": "caffe"}, "'caffe' is not for resnet18. Known: imagenet."),
    ],
)
def test_impossible_options_are_refused(options: dict[str, str], says: str) -> None:
    with pytest.raises(MultistreamError, match=says):
        Places(**options)
