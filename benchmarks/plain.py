"""The baseline that a user would write: the paper's network in one plain PyTorch module, NCHW, float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import timm
import torch
from torch import Tensor, nn

from benchmarks.subjects import batch_of

MEAN, STD = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
INDICES = {"mobilenetv2_100": (0, 1, 2, 3, 4), "vgg16": (0, 1, 2, 3, 4)}


class Plain(nn.Module):
    """timm backbones, 1x1 convolutions on the maps, global average, concatenation, dropout, one linear layer."""

    def __init__(self, *models: str, classes: int = 8) -> None:
        super().__init__()
        self.backbones = nn.ModuleList(
            timm.create_model(model, pretrained=False, features_only=True, out_indices=INDICES[model])
            for model in models
        )
        self.taps = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(channels, 64, 1) for channels in backbone.feature_info.channels())
            for backbone in self.backbones
        )
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(64 * 5 * len(models), classes))
        self.register_buffer("mean", MEAN.view(3, 1, 1))
        self.register_buffer("std", STD.view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = (images.float() - self.mean) / self.std
        tokens = []
        for backbone, taps in zip(self.backbones, self.taps, strict=True):
            tokens += [tap(m).mean((2, 3)) for tap, m in zip(taps, backbone(x), strict=True)]
        logits: Tensor = self.head(torch.cat(tokens, 1))
        return logits


def plain_step(models: Sequence[str], size: int, device: str) -> Callable[[], None]:
    """Returns one fine-tuning step of the plain loop."""
    images, labels = batch_of(size, torch.device(device))
    network = Plain(*models).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    def step() -> None:
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def plain_inference(models: Sequence[str], size: int, device: str) -> Callable[[], Tensor]:
    """Returns a function that computes the logits of a batch."""
    images, _ = batch_of(size, torch.device(device))
    network = Plain(*models).to(device).eval()
    return torch.no_grad()(lambda: network(images))


def plain_features(model: str, size: int, device: str) -> Callable[[], list[Tensor]]:
    """Returns timm's own feature extraction: the maps of `forward_intermediates`, averaged."""
    images, _ = batch_of(size, torch.device(device))
    network = timm.create_model(model, pretrained=False).to(device).eval()
    mean, std = MEAN.view(3, 1, 1).to(device), STD.view(3, 1, 1).to(device)

    @torch.no_grad()
    def run() -> list[Tensor]:
        maps = network.forward_intermediates(
            (images.float() - mean) / std, indices=list(INDICES[model]), intermediates_only=True
        )
        return [each.mean((2, 3)) for each in maps]

    return run


def tuned_step(models: Sequence[str], size: int, device: str) -> Callable[[], None]:
    """Returns one optimised fine-tuning step: bf16, channels-last, compile, fused AdamW."""
    images, labels = batch_of(size, torch.device(device))
    plain = Plain(*models).to(device, memory_format=torch.channels_last).train()
    tuned = torch.compile(plain)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, fused=True)
    given = images.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(tuned(given), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


class ByHand(nn.Module):
    """The same network as `ours`, with its stages called one after the other and its taps written out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        (branch,) = network.branches.values()
        self.stages = nn.ModuleList(branch.stream.stages.values())
        self.taps = nn.ModuleList(tap.projection for tap in branch.taps.values())
        self.scales = [(tap.mean, tap.scale) for tap in branch.taps.values()]
        self.mean, self.std = branch.stream.mean, branch.stream.std
        (self.head,) = network.fusion.heads.values()

    def forward(self, images: Tensor) -> Tensor:
        x = (images.float() - self.mean) / self.std
        tokens = []
        for stage, tap, (mean, scale) in zip(self.stages, self.taps, self.scales, strict=True):
            x = stage(x)
            tokens.append(tap((x.mean((2, 3), dtype=torch.float32) - mean) * scale))
        logits: Tensor = self.head(torch.cat(tokens, 1))
        return logits
