"""What a user would write instead: the paper's network in one plain PyTorch module, NCHW, float32."""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn

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


class ByHand(nn.Module):
    """The same network as ours, its stages called one after the other and its taps written as they stand."""

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
