"""The profile's counts compared with torch's counter and with published counts (checks.md, Profile)."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import fvcore.nn
import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from multistream import Image, MultiStream, MultistreamError, Stream, compose, streams
from multistream.profiling.counting import count, without_numbers
from multistream.profiling.figure import draw
from multistream.profiling.profile import count_pieces, profile
from multistream.profiling.results import ABOVE
from multistream.runtime.device import Runtime

CPU = Runtime(torch.device("cpu"))


def small(fusion: str = "early") -> MultiStream:
    given = {"object": "object", "anp": streams["anp"](width=12)}
    return compose(given, classes=["a", "b"], image_size=32, temporal="bigru+att", fusion=fusion)


def macs_of(network: MultiStream, key: str) -> list[int]:
    found = count_pieces(network.eval())
    return [counted.macs for (stream, stage), (counted, *_) in found.items() if stream == key and "block" in stage]


def test_published_counts_of_both_backbones() -> None:
    network = compose(["object", "places"], classes=["a"], options={"streams": {"object": {"end": 1280}}})
    objects, places = macs_of(network, "object"), macs_of(network, "places")
    assert sum(objects) == 299_494_272
    assert [round(m / 1e6, 3) for m in objects] == [20.873, 54.943, 37.444, 96.601, 89.633]
    assert sum(places) == 15_346_630_656
    assert [round(m / 1e6, 3) for m in places] == [1936.392, 2774.532, 4624.220, 4624.220, 1387.266]


def test_a_bidirectional_gru_is_counted() -> None:
    """T x directions x 3 x M x (I + M): 737,280 for T = 5, I = 64, M = 128."""
    network = compose(["object"], classes=["a"], temporal="bigru", options={"temporal": {"units": 128}}, image_size=32)
    counted, *_ = count_pieces(network.eval())["object", "temporal"]
    assert counted.macs == 737_280


@pytest.mark.parametrize(
    "model", ["resnet18", "regnety_002", "convnext_atto", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"]
)
def test_counts_of_timm_networks_equal_torch(model: str) -> None:
    network = compose({"net": f"timm:{model}"}, classes=["a"]).eval()
    image = torch.zeros(1, 3, 224, 224)
    backbone = timm.create_model(model, pretrained=False).eval()
    # torch's counter does not know the CPU's fused attention; without fusion its products are counted.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
        backbone.forward_features(image)
    found = count_pieces(network)
    ours = sum(counted.macs for (_, stage), (counted, *_) in found.items() if stage not in ABOVE)
    assert ours == flops.get_total_flops() // 2


def test_rows_sum_to_the_total_and_the_model_is_unchanged(tmp_path: Path) -> None:
    """Checks P1, P2, P3, P5, P6."""
    network = small().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    found = profile(network, runtime=CPU, repeats=2, sweep=(1, 2), trace=tmp_path / "trace.json")
    for name in ("params", "macs", "flops", "activations", "trainable"):
        assert getattr(found.total, name) == sum(getattr(row, name) for row in found.rows)
    assert all(row.flops == 2 * row.macs for row in found.rows)
    assert found.total.params == sum(p.numel() for p in network.parameters())
    assert found.cached.macs < found.total.macs
    assert modes == [module.training for module in network.modules()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        network.eval()({"image": torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "anp": torch.zeros(1, 12)})
    assert found.total.macs == flops.get_total_flops() // 2
    names = {event.get("name") for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    assert {f"{row.stream}/{row.stage}" if row.stream else row.stage for row in found.rows} <= names


def test_published_counts_of_the_whole_networks() -> None:
    """The published MobileNetV2 and VGG16, including their classifiers, counted in the same way."""
    image = torch.zeros(1, 3, 224, 224)
    for model, macs, params in (
        (torchvision.models.mobilenet_v2(), 300_774_272, 3_504_872),
        (torchvision.models.vgg16(), 15_470_264_320, 138_357_544),
    ):
        with without_numbers():
            counted, _ = count(partial(model.eval(), image))
        assert (counted.macs, sum(p.numel() for p in model.parameters())) == (macs, params)


def test_fvcore_additionally_counts_norms_and_pooling() -> None:
    """Check P2, as explained in docs/profile.md."""
    network = compose(["object"], classes=["a"], options={"streams": {"object": {"end": 1280}}})
    ours = sum(macs_of(network, "object")) + 1280 * 1000
    theirs = fvcore.nn.FlopCountAnalysis(torchvision.models.mobilenet_v2().eval(), torch.zeros(1, 3, 224, 224))
    found = theirs.unsupported_ops_warnings(False).by_operator()
    assert found["batch_norm"] == 13_356_224
    assert found["adaptive_avg_pool2d"] == 62_720
    assert found.total() == 314_193_216
    assert found.total() - found["batch_norm"] - found["adaptive_avg_pool2d"] == ours == 300_774_272


@pytest.mark.parametrize("fusion", ["early", "late", "gated"])
def test_heads_are_rows_and_fusion_is_the_rest(fusion: str) -> None:
    network = small(fusion).eval()
    pieces = count_pieces(network)
    given = {"image": torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "anp": torch.zeros(1, 12)}
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        network(given)
    assert sum(counted.macs for counted, *_ in pieces.values()) == flops.get_total_flops() // 2
    assert sum(params for _, _, params, _ in pieces.values()) == sum(p.numel() for p in network.parameters())
    heads = {stream: params for (stream, stage), (_, _, params, _) in pieces.items() if stage == "head"}
    assert heads == {key: sum(p.numel() for p in head.parameters()) for key, head in network.fusion.heads.items()}
    assert bool(heads) == (fusion != "early")


def test_profile_leaves_the_network_unchanged() -> None:
    """Check P5, including gradients, memory layout and random numbers."""
    network = small().train()
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    strides = [tensor.stride() for tensor in network.state_dict().values()]
    drawn = torch.random.get_rng_state()
    profile(network, runtime=Runtime(torch.device("cpu"), channels_last=True), repeats=2, sweep=(1,))
    assert strides == [tensor.stride() for tensor in network.state_dict().values()]
    assert all(parameter.grad is not None and bool((parameter.grad == 1).all()) for parameter in network.parameters())
    assert torch.equal(drawn, torch.random.get_rng_state())


def test_roofline_is_the_longer_of_product_and_copy() -> None:
    found = profile(small(), runtime=CPU, repeats=2, sweep=())
    machine = found.roofline
    for row in found.rows:
        product, copied = row.macs / machine.macs_per_second, row.moved_bytes / machine.bytes_per_second
        assert row.ms_roofline == pytest.approx(1e3 * max(product, copied), abs=1e-5)
        assert row.roofline == pytest.approx(row.ms_roofline / row.ms_p50, abs=1e-3)
    first = found.rows[0]
    assert first.moved_bytes == 4 * (first.params + 3 * 32 * 32 + 16 * 16 * 16)


def test_figure_shows_measured_and_lower_bound() -> None:
    found = profile(small(), runtime=CPU, repeats=2, sweep=())
    (axes,) = draw(found).axes
    bars = [patch.get_width() for patch in axes.patches]  # type: ignore[attr-defined]  # they are rectangles
    assert bars[: len(found.rows)] == [row.ms_p50 for row in found.rows]
    assert bars[len(found.rows) :] == [row.ms_roofline for row in found.rows]


def test_truncated_networks_cost_less() -> None:
    network = compose(["object"], classes=["a"], image_size=32)
    costs = [
        sum(c.macs for c, *_ in count_pieces(network.truncate({"object": n}).eval()).values()) for n in range(1, 6)
    ]
    assert costs == sorted(costs)
    assert len(set(costs)) == 5


def test_memory_by_batch_equals_vgg16_at_its_widest() -> None:
    """Two maps of 64 x 224 x 224 are alive after the first convolutions, in addition to weights and photos."""
    network = compose(["places"], classes=["a", "b"], weights={"places": "random"})
    weights, maps, photo = 4 * sum(p.numel() for p in network.parameters()), 2 * 64 * 224 * 224, 3 * 224 * 224
    for precision, bytes_each in (("fp32", 4), ("bf16", 2)):
        found = profile(network, runtime=Runtime(CPU.device, precision), repeats=1, sweep=(1, 4)).sweep
        for size, row in zip((1, 4), found, strict=True):
            known = weights + size * (maps * bytes_each + 5 * photo)
            assert 1 <= row["peak_bytes"] / known < (1.05 if precision == "fp32" else 1.2)  # plus half of the weights


class Attending(Stream):
    """64 tokens of width 64 with an attention layer of torch, which eval mode fuses."""

    def __init__(self, layer: nn.Module) -> None:
        stages = {"patches": nn.Conv2d(3, 64, 4, stride=4), "attention": Tokens(layer)}
        super().__init__(stages, channels={"patches": 64, "attention": 64}, input=Image(size=32))

    def to_map(self, state: torch.Tensor, stage: str) -> torch.Tensor:
        return state if stage == "patches" else state.transpose(1, 2).unflatten(2, (8, 8))


class Tokens(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, map_BChw: torch.Tensor) -> torch.Tensor:
        tokens = map_BChw.flatten(2).transpose(1, 2)
        if isinstance(self.layer, nn.MultiheadAttention):
            return self.layer(tokens, tokens, tokens, need_weights=False)[0]
        return self.layer(tokens)


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (nn.MultiheadAttention(64, 4, batch_first=True), 1_572_864),
        (nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 1_572_864 + 2 * 64 * 64 * 128),
    ],
    ids=lambda value: type(value).__name__,
)
def test_fused_attention_is_counted(layer: nn.Module, macs: int) -> None:
    before = torch.backends.mha.get_fastpath_enabled()
    counted, shape, *_ = count_pieces(compose({"net": Attending(layer)}, classes=["a"]).eval())["net", "attention"]
    assert counted.macs == macs
    assert shape == (1, 64, 8, 8)  # the map, not the tokens
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_unwritable_trace_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MultistreamError) as told:
        profile(small(), runtime=CPU, repeats=1, sweep=(1,), trace=tmp_path / "file" / "trace.json")
    assert told.value.exit_code == 74
