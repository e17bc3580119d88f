"""Today's backbones: each equals timm's own model bit for bit, trains, is counted as torch counts, explains exactly."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from multistream import compose
from multistream.errors import UsageError
from multistream.explaining.decomposition import decompose
from multistream.parts.timm_stages import features_of
from multistream.parts.timm_stream import TimmStream, created
from multistream.profiling.profile import count_pieces
from multistream.profiling.results import ABOVE
from multistream.runtime.device import Runtime

QUICK = {
    "vit_tiny_patch16_224": 64,
    "eva02_tiny_patch14_224": 56,
    "vit_pe_core_tiny_patch16_384": 64,
    "xcit_nano_12_p16_224": 64,
    "levit_128": 0,
    "visformer_tiny": 64,
    "convit_tiny": 64,
    "resnet18": 64,
    "efficientnet_b0": 64,
    "efficientvit_b0": 64,
    "convnext_zepto_rms": 64,
}
"""Models for every run of the tests, with the side of the pictures (0: the model's own)."""

SLOW = {
    "cait_xxs24_224": 64,
    "vit_base_patch16_clip_224.openai": 64,
    "vit_base_patch32_clip_224.openai": 64,
    "vit_small_patch14_dinov2.lvd142m": 56,
    "vit_small_patch14_reg4_dinov2.lvd142m": 56,
    "vit_small_patch16_dinov3": 64,
    "vit_base_patch16_siglip_224": 64,
    "vit_base_patch16_siglip_224.v2_webli": 64,
    "naflexvit_base_patch16_siglip": 64,
    "deit3_small_patch16_224": 64,
    "beit_base_patch16_224": 64,
    "beitv2_base_patch16_224": 64,
    "eva02_small_patch14_224": 56,
    "samvit_base_patch16_224": 0,
    "swin_tiny_patch4_window7_224": 64,
    "swin_tiny_patch4_window7_224.ms_in22k": 64,
    "swinv2_tiny_window8_256": 64,
    "convnext_tiny": 64,
    "convnextv2_atto": 64,
    "resnet50": 64,
    "resnet50_clip.openai": 64,
    "tf_efficientnetv2_s": 64,
    "mobilenetv4_conv_small": 64,
    "maxvit_tiny_tf_224": 0,
    "coatnet_0_rw_224": 0,
    "hiera_tiny_224": 0,
    "mambaout_femto": 64,
    "davit_tiny": 64,
    "fastvit_t8": 64,
    "fastvit_mci0": 64,
    "repvit_m1": 64,
    "tiny_vit_5m_224": 0,
    "mvitv2_tiny": 64,
    "pvt_v2_b0": 64,
    "twins_svt_small": 0,
    "volo_d1_224": 64,
    "mixer_s32_224": 0,
    "gmlp_s16_224": 0,
    "poolformer_s12": 64,
    "edgenext_xx_small": 64,
    "focalnet_tiny_srf": 64,
    "nextvit_small": 64,
    "efficientvit_m0": 0,
    "inception_v3": 96,
    "densenet121": 64,
    "regnety_002": 64,
    "vgg16": 64,
    "aimv2_large_patch14_224": 56,
    "sequencer2d_s": 0,
    "ghostnet_100": 64,
    "hgnetv2_b0": 64,
    "csatv2": 0,
    "fasternet_t0": 64,
    "starnet_s1": 64,
    "shvit_s1": 64,
    "swiftformer_xs": 64,
}
REFUSED = {
    "crossvit_9_240": "its features are 2 tensors, not one map",
    "hrnet_w18_small": "timm takes features at",
    "efficientformer_l1": "some of its stages return maps and others tokens",
}
"""Models that cannot be cut, with the reason that is given."""

CPU = Runtime(torch.device("cpu"))


@pytest.mark.parametrize(
    ("variant", "size"),
    [*QUICK.items(), *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW.items())],
)
def test_a_backbone_of_today(variant: str, size: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = compose({"k": f"timm:{variant}"}, classes=["awe", "fear"], image_size=size).eval()
    stream = network.branches["k"].stream
    model = moved(variant, size)
    stream.load_weights({name: tensor for name, tensor in model.state_dict().items() if "attn_mask" not in name})
    side = stream.example_input().shape[-1]
    batch = {"image": torch.randint(256, (1, 3, side, side), dtype=torch.uint8)}

    equals_its_forward_features(stream, model, batch["image"])
    residual = decompose(network, batch, runtime=CPU).residual
    assert residual is not None
    assert float(residual.max()) < 1e-5
    counted = sum(piece.macs for (_, stage), (piece, *_) in count_pieces(network).items() if stage not in ABOVE)
    model.requires_grad_(False)  # torch's counter fails on a view of a parameter, as CaiT's class token is
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
        model.forward_features(stream.prepare(batch["image"]))
    assert counted == flops.get_total_flops() // 2
    trains(network, batch)


def moved(variant: str, size: int) -> nn.Module:
    """timm's own model, every weight moved so that no residual branch or scale is the identity that it starts as."""
    model, _ = created(variant, size, "")
    model.eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and not name.endswith("running_var"):
                tensor.add_(0.01 * torch.randn_like(tensor))
    return model  # type: ignore[no-any-return]


@torch.no_grad()
def equals_its_forward_features(stream: TimmStream, model: nn.Module, images: torch.Tensor) -> None:
    """The chain of stages computes what timm's own forward does, bit for bit; every map is alive."""
    state = stream.prepare(images)
    expected = model.forward_features(state)
    for stage in stream.stages.values():
        state = stage(state)
    if "vgg" in stream.variant:  # its last pooling is not a stage
        state = nn.functional.max_pool2d(state, 2)
    assert torch.equal(features_of(state), expected)
    assert all(m.isfinite().all() and m.std() > 1e-6 for m in stream(images).values())


def trains(network: nn.Module, batch: dict[str, torch.Tensor]) -> None:
    """One step of SGD moves the weights of every stage, and the loss is finite."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()  # one photo has no statistics
    loss = nn.functional.cross_entropy(network(batch), torch.tensor([0]))
    loss.backward()
    assert torch.isfinite(loss)
    for name, stage in network.branches["k"].stream.stages.items():
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in stage.parameters()), name


@pytest.mark.parametrize(("variant", "reason"), REFUSED.items())
def test_what_cannot_be_cut_is_refused_with_its_reason(variant: str, reason: str) -> None:
    with pytest.raises(UsageError) as told:
        TimmStream(variant=variant)
    assert reason in str(told.value)
