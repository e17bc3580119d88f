"""Taps `cls` and `embed`: what the model itself makes of the whole photo; it trains, explains, shows places."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from multistream import compose
from multistream.errors import UsageError
from multistream.explaining.decomposition import decompose
from multistream.explaining.gradients import grad_cam
from multistream.network.network import MultiStream
from multistream.parts.timm_stream import created
from multistream.runtime.device import Runtime

CLIP, PERCEPTION, DINO = "vit_xsmall_patch16_clip_224", "vit_pe_core_tiny_patch16_384", "vit_small_patch16_dinov3"
SIGLIP = "vit_base_patch16_siglip_224"

slow = pytest.mark.slow
CASES = [
    (CLIP, "cls"),
    (CLIP, "embed"),
    (DINO, "cls"),
    (PERCEPTION, "cls"),
    (PERCEPTION, "embed"),
    pytest.param("resnet50_clip.openai", "embed", marks=slow),
    pytest.param(SIGLIP, "cls", marks=slow),
    pytest.param(SIGLIP, "embed", marks=slow),
    pytest.param("vit_small_patch14_reg4_dinov2.lvd142m", "cls", marks=slow),
    pytest.param("naflexvit_base_patch16_siglip", "cls", marks=slow),
    pytest.param("vit_so150m_patch16_reg4_map_256", "cls", marks=slow),
]
"""Class tokens with and without registers, attention pools with and without prefix tokens, projections."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def moved(variant: str, size: int, summary: str) -> nn.Module:
    """timm's own model, every weight moved from where it starts."""
    model, _ = created(variant, size, summary)
    model.eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and not name.endswith("running_var"):
                tensor.add_(0.02 * torch.randn_like(tensor))
    return model  # type: ignore[no-any-return]


def with_model(variant: str, tap: str, size: int) -> tuple[MultiStream, nn.Module, dict[str, Tensor]]:
    """A network with this tap, timm's model with the same weights, and two pictures."""
    model = moved(variant, size, tap)
    network = compose({"k": f"timm:{variant}"}, classes=["awe", "fear"], tap=tap, image_size=size).eval()
    stream = network.branches["k"].stream
    stream.load_weights(model.state_dict())
    side = stream.example_input().shape[-1]
    return network, model, {"image": torch.randint(256, (2, 3, side, side), dtype=torch.uint8)}


@torch.no_grad()
def summary_by_timm(model: Any, tap: str, x: Tensor) -> Tensor:
    """timm's own pooled class token or attention pool, or its head's output, (B, C)."""
    features = model.forward_features(x)
    if tap == "embed":
        return model.forward_head(features)  # type: ignore[no-any-return]
    if getattr(model, "attn_pool", None) is not None:
        return model.pool(features) if hasattr(model, "pool") else model._pool(features)  # type: ignore[no-any-return]
    return features[:, 0]  # type: ignore[no-any-return]


@pytest.mark.parametrize(("variant", "tap"), CASES)
def test_a_summary_is_timms_own_trains_and_is_explained_exactly(variant: str, tap: str) -> None:
    network, model, batch = with_model(variant, tap, 56 if "patch14" in variant else 64)
    branch = network.branches["k"]
    with torch.no_grad():
        pooled = network.pool(batch)["k"]
    assert list(branch.taps) == list(pooled) == [tap]
    assert torch.equal(pooled[tap], summary_by_timm(model, tap, branch.stream.prepare(batch["image"])))

    found = decompose(network, batch, runtime=Runtime(torch.device("cpu")))
    assert found.kinds == {"k": "exact"}
    assert found.maps["k"][tap].shape == (2, 2, 1, 1)
    assert found.residual is not None
    assert float(found.residual.max()) < 1e-5

    network.train()
    loss = nn.functional.cross_entropy(network(batch), torch.tensor([0, 1]))
    loss.backward()
    assert torch.isfinite(loss)
    first = next(iter(branch.stream.stages.values()))
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in first.parameters())


@pytest.mark.parametrize(("variant", "stage"), [(CLIP, "stage2"), (DINO, "stage3")])
def test_total_grad_cam_through_tokens_is_that_of_hooks(variant: str, stage: str) -> None:
    """The gradient at a block of timm's own model, caught by a hook there, gives the same map."""
    network, model, batch = with_model(variant, "cls", 64)
    cams = grad_cam(network, batch, score=lambda logits: logits[:, 1], flow="total")["k"]
    number = len(model.blocks) * int(stage[-1]) // 4 - 1  # type: ignore[arg-type]
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    model.blocks[number].register_forward_hook(keep)  # type: ignore[index, union-attr]
    x = network.branches["k"].stream.prepare(batch["image"]).requires_grad_()
    token = model.forward_features(x)[:, 0]  # type: ignore[operator]
    network.fusion({"k": network.branches["k"]({"cls": token})}).logits[:, 1].sum().backward()
    (output,) = kept
    assert output.grad is not None
    prefix = int(model.num_prefix_tokens)  # type: ignore[arg-type]
    places, slopes = output.detach()[:, prefix:], output.grad[:, prefix:]
    by_hook = (places * slopes.mean(1, keepdim=True)).sum(2).reshape(2, 4, 4)
    assert float(by_hook.abs().max()) > 1e-6
    torch.testing.assert_close(cams[stage], by_hook, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("variant", "tap", "says"),
    [
        ("resnet18", "cls", "neither a class token nor an attention pool; take gap or last"),
        ("resnet18", "embed", "its head is a classifier of 1000 classes; take cls or gap"),
    ],
)
def test_a_model_without_such_a_summary_is_refused_with_what_to_take(variant: str, tap: str, says: str) -> None:
    with pytest.raises(UsageError, match=f"has nothing for '{tap}': .*{says}"):
        compose({"k": f"timm:{variant}"}, classes=["awe", "fear"], tap=tap)


def test_a_stream_without_summaries_says_who_has_them() -> None:
    with pytest.raises(UsageError, match="reads the summary 'cls', and this stream has the stages"):
        compose(["object"], classes=["awe", "fear"], tap="cls")
