"""Tests whether a module has trainable parameters."""

from __future__ import annotations

from torch import nn


def trains(module: nn.Module) -> bool:
    """Whether any parameter requires gradients."""
    return any(parameter.requires_grad for parameter in module.parameters())
