"""timm's models in stages: each map is timm's own, whatever the family."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from multistream.errors import UsageError, WeightsError
from multistream.inputs import Image
from multistream.parts.timm_stages import CannotCut, cut
from multistream.parts.timm_stream import TimmStream
from multistream.runs.composition import compose

MODELS = {
    "mobilenetv1_100": 64,
    "mobilenetv2_050": 64,
    "mobilenetv3_small_050": 64,
    "mobilenetv3_large_075": 64,
    "mobilenetv4_conv_small_035": 64,
    "resnet10t": 64,
    "resnet18": 64,
    "vgg11": 64,
    "vgg11_bn": 64,
    "efficientnet_b0": 64,
    "tf_efficientnetv2_b0": 64,
    "convnext_atto": 64,
    "convnextv2_atto": 64,
    "regnetx_002": 64,
    "regnety_002": 64,
    "densenet121": 64,
    "vit_tiny_patch16_224": 96,
    "deit_tiny_distilled_patch16_224": 96,
    "deit3_small_patch16_224": 96,
    "swin_tiny_patch4_window7_224": 96,
    "swinv2_tiny_window8_256": 96,
}
"""Small models of the families that are promised, with the size of the pictures that they are tried with."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def reference(variant: str) -> nn.Module:
    """timm's own model, every weight moved so that no residual branch or scale is the identity that it starts as."""
    kwargs = {"dynamic_img_size": True} if "vit" in variant or "deit" in variant else {}
    kwargs |= {"strict_img_size": False} if "swin" in variant else {}
    model: nn.Module = timm.create_model(variant, pretrained=False, **kwargs).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and not name.endswith("running_var"):
                tensor.add_(0.02 * torch.randn_like(tensor))
    return model


def intermediates(model: nn.Module, x: Tensor, stages: int) -> list[Tensor]:
    """timm's own maps: every feature that it lists, of a transformer the ends of four groups."""
    indices = [2, 5, 8, 11] if isinstance(model, VisionTransformer) else stages
    maps: list[Tensor] = model.forward_intermediates(x, indices=indices, intermediates_only=True)
    return maps


def final(model: nn.Module, x: Tensor) -> Tensor:
    """timm's `forward_features` as a map."""
    features: Tensor = model.forward_features(x)
    if features.ndim == 3:
        places = features[:, model.num_prefix_tokens :]
        side = int(places.shape[1] ** 0.5)
        return places.reshape(-1, side, side, places.shape[2]).permute(0, 3, 1, 2)
    return features.permute(0, 3, 1, 2) if "Swin" in type(model).__name__ else features


@pytest.mark.parametrize("variant", MODELS)
@torch.no_grad()
def test_maps_are_timms_own(variant: str) -> None:
    model = reference(variant)
    stream = TimmStream(variant=variant, size=MODELS[variant]).eval()
    stream.load_weights(model.state_dict())
    images = torch.randint(256, (2, 3, MODELS[variant], MODELS[variant]), dtype=torch.uint8)
    maps = stream(images)
    assert {stage: m.shape[1] for stage, m in maps.items()} == stream.channels
    assert all(m.isfinite().all() and m.std() > 1e-6 for m in maps.values())

    x = stream.prepare(images)
    expected = intermediates(model, x, 6 if variant.startswith("vgg") else len(maps))
    if variant.startswith("vgg"):
        assert torch.equal(expected.pop(), functional.max_pool2d(expected[-1], 2))  # the sixth is not a stage
        last = expected[-1]
    else:
        last = final(model, x)
    for ours, theirs in zip(list(maps.values())[:-1], expected[:-1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(maps[f"stage{len(maps)}"], last, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "variant", ["mobilenetv2_050", "resnet10t", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"]
)
@torch.no_grad()
def test_truncation_gives_the_same_maps_and_drops_the_compute(variant: str) -> None:
    stream = TimmStream(variant=variant, size=64).eval()
    images = torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8)
    with FlopCounterMode(display=False) as whole:
        maps = stream(images)
    short = stream.truncate(2)
    with FlopCounterMode(display=False) as less:
        kept = short(images)
    assert list(kept) == ["stage1", "stage2"]
    assert all(torch.equal(kept[stage], maps[stage]) for stage in kept)
    assert 0 < less.get_total_flops() < whole.get_total_flops()
    assert all(name.startswith(("stages.stage1.", "stages.stage2.")) for name, _ in short.named_parameters())
    assert sum(p.numel() for p in short.parameters()) < sum(p.numel() for p in stream.parameters())


@pytest.mark.parametrize("variant", ["mobilenetv3_small_050", "vgg11", "vit_tiny_patch16_224", "convnext_atto"])
def test_nothing_of_the_classifier_is_kept(variant: str) -> None:
    stream = TimmStream(variant=variant, size=64)
    used = {id(p) for p in stream.parameters()}
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    sum(m.sum() for m in stream(images).values()).backward()
    assert used == {id(p) for p in stream.parameters() if p.grad is not None}


@pytest.mark.parametrize("variant", ["resnet10t", "vit_tiny_patch16_224"])
@torch.no_grad()
def test_state_dict_round_trip(variant: str) -> None:
    first, second = (TimmStream(variant=variant, size=64).eval() for _ in range(2))
    images = torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8)
    assert not torch.equal(first(images)["stage2"], second(images)["stage2"])
    second.load_weights(first.state_dict())
    assert all(torch.equal(second(images)[stage], m) for stage, m in first(images).items())


def test_a_file_that_lacks_a_tensor_is_refused() -> None:
    tensors = timm.create_model("resnet10t").state_dict()
    del tensors["layer3.0.conv1.weight"]
    with pytest.raises(WeightsError, match=r"layer3"):
        TimmStream(variant="resnet10t").load_weights(tensors)


def test_input_is_what_the_pretrained_weights_were_made_for() -> None:
    stream = TimmStream(variant="vit_tiny_patch16_224")
    assert stream.input == Image(224, mean=(127.5,) * 3, std=(127.5,) * 3, interpolation="bicubic")
    resnet = TimmStream(variant="resnet18.tv_in1k")
    assert resnet.input.interpolation == "bilinear"
    assert resnet.input.mean == pytest.approx((123.675, 116.28, 103.53))
    assert resnet.weights["resnet18.tv_in1k"].hub == "timm/resnet18.tv_in1k"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"variant": "resnet5"}, "timm:resnet5 is unknown. Did you mean 'resnet50'"),
        ({"variant": "resnet18.nope"}, "'nope' is not a tag of resnet18. timm has it with a1_in1k"),
        ({"variant": "vit_tiny_patch16_224", "size": 100}, "cannot read 100 pixels. It must be a multiple"),
    ],
)
def test_what_cannot_be_is_refused_by_name(options: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        TimmStream(**options)
    assert says in str(caught.value)


class Crooked(nn.Module):
    """A model whose forward is not the chain of its children."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.feature_info = [
            {"module": "first", "num_chs": 4, "reduction": 1},
            {"module": "second", "num_chs": 4, "reduction": 1},
        ]

    def forward_features(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


def test_a_cut_that_computes_something_else_is_refused() -> None:
    with pytest.raises(CannotCut, match="not the chain"):
        cut(Crooked(), sizes=(16,))


def test_pictures_of_other_sizes_keep_a_vision_transformers_maps_square() -> None:
    stream = TimmStream(variant="vit_tiny_patch16_224", size=96)
    assert stream(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))["stage1"].shape == (1, 192, 6, 6)


def test_the_recipes_image_size_reaches_the_model_and_an_impossible_one_is_refused() -> None:
    network = compose({"k": "timm:vit_tiny_patch16_224"}, classes=["awe", "fear"], image_size=96)
    assert network.inputs["k"].size == 96
    with pytest.raises(UsageError, match=r"timm:vit_tiny_patch16_224 cannot read 100 pixels\. It must be a multiple"):
        compose({"k": "timm:vit_tiny_patch16_224"}, classes=["awe", "fear"], image_size=100)
