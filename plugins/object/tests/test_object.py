"""The object stream: maps, names in weight files of other libraries, cost."""

import pytest
import timm
import torch
import torchvision
from multistream_object.stream import Object
from torch.utils.flop_counter import FlopCounterMode

from multistream import MultistreamError
from multistream.testing import StreamContract


class TestObject(StreamContract):
    def make(self) -> Object:
        return Object()


class TestMobileNetV1(StreamContract):
    def make(self) -> Object:
        return Object(variant="mobilenetv1")


IMAGES = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("options", "channels"),
    [
        ({}, (16, 24, 32, 96, 320)),
        ({"end": 1280}, (16, 24, 32, 96, 1280)),
        ({"variant": "mobilenetv1"}, (64, 128, 256, 512, 1024)),
    ],
)
@torch.no_grad()
def test_maps_lie_before_each_downsampling_and_a_random_net_is_alive(
    options: dict[str, object], channels: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    maps = Object(**options).eval()(IMAGES)
    assert [tuple(m.shape[1:]) for m in maps.values()] == [(c, 112 >> n, 112 >> n) for n, c in enumerate(channels)]
    for stage, map_BChw in maps.items():
        assert 1e-3 < map_BChw.std() < 100, stage  # with torchvision's initialisation it is 3e-9


@torch.no_grad()
def test_torchvisions_weights_give_torchvisions_features() -> None:
    theirs = torchvision.models.mobilenet_v2().eval()
    for name, tensor in theirs.state_dict().items():
        if name.endswith(("weight", "bias")):
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(name))))
    stream = Object(end=1280).eval()
    stream.load_weights(theirs.state_dict())
    x, expected = stream.prepare(IMAGES), []
    for number, layer in enumerate(theirs.features):
        x = layer(x)
        if number in (1, 3, 6, 13, 18):
            expected.append(x)
    for ours, feature in zip(stream(IMAGES).values(), expected, strict=True):
        torch.testing.assert_close(ours, feature, rtol=1e-5, atol=1e-5 * float(feature.abs().max()))


@pytest.mark.parametrize(("variant", "model"), [("mobilenetv2", "mobilenetv2_100"), ("mobilenetv1", "mobilenetv1_100")])
@torch.no_grad()
def test_timms_weights_give_timms_features(variant: str, model: str) -> None:
    theirs = timm.create_model(model).eval()
    stream = Object(variant=variant).eval()
    stream.load_weights(theirs.state_dict())
    expected = theirs.forward_intermediates(stream.prepare(IMAGES), intermediates_only=True)
    for ours, feature in zip(stream(IMAGES).values(), expected, strict=True):
        torch.testing.assert_close(ours, feature)


@torch.no_grad()
def test_its_own_state_dict_fits() -> None:
    first, second = Object().eval(), Object().eval()
    second.load_weights(first.state_dict())
    assert torch.equal(first(IMAGES)["block5"], second(IMAGES)["block5"])


def test_multiply_adds_of_the_five_stages() -> None:
    stream = Object(end=1280).eval()
    with torch.no_grad(), FlopCounterMode(display=False, depth=10) as counter:
        stream(IMAGES[:1])
    counts = counter.get_flop_counts()
    stages = [sum(counts[f"Object.stages.{stage}"].values()) // 2 for stage in stream.stages]
    assert [round(macs / 1e6, 3) for macs in stages] == [20.873, 54.943, 37.444, 96.601, 89.633]
    assert sum(stages) == counter.get_total_flops() // 2 == 299_494_272


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"variant": "mobilenetv9"}, "'mobilenetv9' is unknown. Known: mobilenetv2, mobilenetv1."),
        ({"end": 640}, "mobilenetv2 ends with 320 or 1280 channels"),
        ({"variant": "mobilenetv1", "end": 1280}, "mobilenetv1 ends with 1024 channels"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(MultistreamError, match=says):
        Object(**options)
