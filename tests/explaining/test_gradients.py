"""Grad-CAM and integrated gradients compared with three other libraries (checks E2, E4, E5, E7, E10, E12)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from multistream import MultiStream
from multistream.explaining.decomposition import decompose
from multistream.explaining.forward import forward_pass
from multistream.explaining.gradients import attention, grad_cam, integrated_gradients
from multistream.runtime.device import Runtime
from tests.explaining.conftest import Make, example

CPU = Runtime(torch.device("cpu"))
COMPOSITIONS = [("concat", "early"), ("bigru+att", "early"), ("bigru+att", "late"), ("concat", "gated")]


def second(logits: Tensor) -> Tensor:
    return logits[:, 1]


class OfImage(nn.Module):
    """The network with the interface of other libraries: a float image with gradients in, logits out."""

    def __init__(self, network: MultiStream, batch: dict[str, Tensor]) -> None:
        super().__init__()
        self.network, self.batch = network, batch

    def forward(self, image: Tensor) -> Tensor:
        return self.network({**self.batch, "image": image})


def close(ours: Tensor, theirs: Tensor, *, tolerance: float) -> None:
    assert (ours - theirs.squeeze(1)).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize(("temporal", "fusion"), COMPOSITIONS)
@pytest.mark.parametrize("frozen", [True, False])
def test_last_stage_equals_captum(make: Make, temporal: str, fusion: str, frozen: bool) -> None:
    """Checks E2 and E7: the backward pass through the head alone equals the one through everything."""
    captum = pytest.importorskip("captum.attr")
    network, batch = make(temporal=temporal, fusion=fusion, frozen=frozen), example()
    layer = network.branches["left"].stream.stages["high"]
    peer = captum.LayerGradCam(OfImage(network, batch), layer)
    theirs = peer.attribute(batch["image"].float().requires_grad_(), target=1)
    close(grad_cam(network, batch, score=second)["left"]["high"], theirs.detach(), tolerance=1e-5)


@pytest.mark.parametrize("stage", ["low", "middle"])
def test_total_flow_equals_captum_at_inner_stages(make: Make, stage: str) -> None:
    """Check E12: the direct maps differ strongly at inner stages."""
    captum = pytest.importorskip("captum.attr")
    network, batch = make(), example()
    peer = captum.LayerGradCam(OfImage(network, batch), network.branches["left"].stream.stages[stage])
    theirs = peer.attribute(batch["image"].float().requires_grad_(), target=1).detach()
    close(grad_cam(network, batch, score=second, flow="total")["left"][stage], theirs, tolerance=1e-5)
    direct = grad_cam(network, batch, score=second)["left"][stage]
    assert (direct - theirs.squeeze(1)).abs().max() > 0.05 * theirs.abs().max()


def test_last_stage_equals_pytorch_grad_cam_and_torch_cam(make: Make) -> None:
    """Check E4."""
    peers = pytest.importorskip("pytorch_grad_cam")
    torchcam = pytest.importorskip("torchcam.methods")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    network, batch = make(frozen=False), example(2)
    whole, layer = OfImage(network, batch).eval(), network.branches["left"].stream.stages["high"]
    ours = grad_cam(network, batch, score=second)["left"]["high"]
    with peers.GradCAM(whole, [layer]) as peer:
        image = batch["image"].float().requires_grad_()
        peer(image, targets=[ClassifierOutputTarget(1)] * 2)
        activations, gradients = peer.activations_and_grads.activations[0], peer.activations_and_grads.gradients[0]
        raw = peer.get_cam_image(
            image, layer, [ClassifierOutputTarget(1)] * 2, activations.numpy(), gradients.numpy(), False
        )
    close(ours, torch.from_numpy(raw).unsqueeze(1), tolerance=1e-5)
    with torchcam.GradCAM(whole, layer) as extractor:
        scores = whole(batch["image"].float().requires_grad_())
        (cam,) = extractor([1, 1], scores, normalized=False)
    # torch-cam keeps the positive part
    close(ours.clamp_min(0), cam.detach().unsqueeze(1), tolerance=1e-5)


def test_last_stage_equals_exact_decomposition(make: Make) -> None:
    """Check E2: with a linear head Grad-CAM at the last stage is the exact decomposition's map; captum's is too."""
    captum = pytest.importorskip("captum.attr")
    network, batch = make(), example()
    cam = grad_cam(network, batch, score=second)["left"]["high"]
    exact = decompose(network, batch, runtime=CPU).maps["left"]["high"][:, 1]
    assert (cam - exact).abs().max() <= 5e-6 * exact.abs().max()
    peer = captum.LayerGradCam(OfImage(network, batch), network.branches["left"].stream.stages["high"])
    theirs = peer.attribute(batch["image"].float().requires_grad_(), target=1).detach()
    close(exact, theirs, tolerance=5e-6)


def test_in_place_activations_after_a_stage_have_no_effect(make: Make) -> None:
    """Check E5: maps are the tap's inputs, before later in-place operations."""
    network, batch = make(), example()
    before = grad_cam(network, batch, score=second, flow="total")
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    after = grad_cam(network, batch, score=second, flow="total")
    for stage, cam in before["left"].items():
        assert torch.allclose(cam, after["left"][stage], atol=1e-6 * float(cam.abs().max()))


@pytest.mark.parametrize(("temporal", "fusion"), [("bigru+att", "early"), ("bigru", "late"), ("concat", "late")])
def test_integrated_gradients_are_complete_and_equal_captum(make: Make, temporal: str, fusion: str) -> None:
    """Check E10."""
    captum = pytest.importorskip("captum.attr")
    network, batch = make(temporal=temporal, fusion=fusion), example()
    forward = forward_pass(network, batch, runtime=CPU)
    pooled = forward.pooled
    found = integrated_gradients(network, forward, score=second)
    assert found.gap.max() < 1e-5
    tokens = {key: branch.tokens(pooled[key]).detach() for key, branch in network.branches.items()}
    means = {k: {s: t.baseline.expand_as(pooled[k][s]) for s, t in b.taps.items()} for k, b in network.branches.items()}
    starts = {key: branch.tokens(means[key]).detach() for key, branch in network.branches.items()}

    def of_tokens(*parts: Tensor) -> Tensor:
        from multistream.explaining.gradients import fused_of_tokens

        return fused_of_tokens(network, dict(zip(tokens, parts, strict=True)))

    peer = captum.IntegratedGradients(of_tokens)
    theirs = peer.attribute(
        tuple(tokens.values()), tuple(starts.values()), target=1, n_steps=32, method="gausslegendre"
    )
    for (key, branch), their in zip(network.branches.items(), theirs, strict=True):
        assert torch.allclose(found.tokens[key], their.float(), atol=1e-5)
        for step, stage in enumerate(branch.taps):  # the pixels have the same sums as the tokens
            assert torch.allclose(found.pixels[key][stage].flatten(1).sum(1), their[:, step].sum(1).float(), atol=2e-5)


def test_attention_equals_the_weights_of_the_temporal(make: Make) -> None:
    network, batch = make(temporal="bigru+att"), example()
    with torch.no_grad():
        found = attention(network, network.pool(batch))
    assert set(found) == {"left", "right"}
    assert found["left"].shape == (4, 3)
    assert ((found["left"] >= 0) & (found["left"] < 1)).all()


def test_score_can_be_a_contrast_or_a_fused_probability(make: Make) -> None:
    """A contrast of two classes is the difference of their maps; late's fused probability has a gradient."""
    network, batch = make(), example()
    first = grad_cam(network, batch, score=lambda logits: logits[:, 0])["right"]["high"]
    other = grad_cam(network, batch, score=second)["right"]["high"]
    contrast = grad_cam(network, batch, score=lambda logits: logits[:, 0] - logits[:, 1])["right"]["high"]
    assert torch.allclose(contrast, first - other, atol=1e-5)
    late = make(fusion="late")
    fused = grad_cam(late, batch, score=lambda logits: logits.softmax(1)[:, 1])
    assert fused["right"]["high"].abs().max() > 0


@pytest.mark.parametrize("flow", ["direct", "total"])
@pytest.mark.parametrize("breaks", [False, True])
def test_network_is_restored_after_explaining(make: Make, flow: str, breaks: bool) -> None:
    """Check E6, including after an exception."""
    network, batch = make(temporal="bigru+att"), example()
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    flags = [(module.training, len(module._forward_hooks), len(module._backward_hooks)) for module in network.modules()]
    asked = [p.requires_grad for p in network.parameters()]

    def score(logits: Tensor) -> Tensor:
        if breaks:
            raise RuntimeError("half way")
        return logits[:, 1]

    if breaks:
        with pytest.raises(RuntimeError, match="half way"):
            grad_cam(network, batch, score=score, flow=flow)  # type: ignore[arg-type]
    else:
        cams = grad_cam(network, batch, score=score, flow=flow)  # type: ignore[arg-type]
        assert all(cam.abs().max() > 0 for cam in cams["left"].values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert flags == [(m.training, len(m._forward_hooks), len(m._backward_hooks)) for m in network.modules()]
    assert asked == [p.requires_grad for p in network.parameters()]
    assert all(parameter.grad is None for parameter in network.parameters())
