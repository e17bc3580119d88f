"""The profile's integers against torch's own counter and the published counts (checks.md, Profile)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from multistream import MultiStream, compose, streams
from multistream.profiling import profile
from multistream.profiling.profiler import count_pieces
from multistream.runtime import Runtime

CPU = Runtime(torch.device("cpu"))


def small() -> MultiStream:
    anp = streams["anp"](width=12)
    return compose({"object": "object", "anp": anp}, classes=["a", "b"], image_size=32, temporal="bigru+att")


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


@pytest.mark.parametrize("model", ["resnet18", "regnety_002", "convnext_atto", "vit_tiny_patch16_224"])
def test_any_timm_net_counts_as_torch_counts_it(model: str) -> None:
    network = compose({"net": f"timm:{model}"}, classes=["a"]).eval()
    image = torch.zeros(1, 3, 224, 224)
    backbone = timm.create_model(model, pretrained=False).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        backbone.forward_features(image)
    found = count_pieces(network)
    ours = sum(
        counted.macs for (_, stage), (counted, *_) in found.items() if stage not in ("taps", "temporal", "fusion")
    )
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


def test_truncated_networks_cost_less() -> None:
    network = compose(["object"], classes=["a"], image_size=32)
    costs = [
        sum(c.macs for c, *_ in count_pieces(network.truncate({"object": n}).eval()).values()) for n in range(1, 6)
    ]
    assert costs == sorted(costs)
    assert len(set(costs)) == 5
