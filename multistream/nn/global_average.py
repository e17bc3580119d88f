"""Global average pooling whose gradient allocates no map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class GlobalAverageGradient(torch.autograd.Function):
    """(B, C, h, w) -> (B, C) float32: `map.mean((2, 3), dtype=torch.float32)`, bitwise equal, also its gradient.

    torch's own gradient fills a float32 map with B x C different numbers, divides it, and casts it to the map's type:
    three passes over the largest tensors of a step, a twelfth of a fine-tuning step of VGG16 in bf16. Here it is the
    (B, C) numbers, expanded over the pixels.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(map_BChw: Tensor) -> Tensor:
        """The average over the pixels, summed in float32."""
        return map_BChw.mean((2, 3), dtype=torch.float32)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Saves the map's shape and type, not the map."""
        del output
        context.shape, context.kind = inputs[0].shape, inputs[0].dtype

    @staticmethod
    def backward(context: Any, gradient_BC: Tensor) -> Tensor:
        """(B, C) -> (B, C, h, w) of the map's type, with strides of 0."""
        height, width = context.shape[2:]
        per_pixel = (gradient_BC / (height * width)).to(context.kind)
        spread: Tensor = per_pixel[:, :, None, None].expand(context.shape)
        return spread


def global_average(map_BChw: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C) float32: the average over the pixels.

    >>> global_average(torch.ones(2, 3, 4, 4)).shape
    torch.Size([2, 3])
    """
    if not (torch.is_grad_enabled() and map_BChw.requires_grad):  # torch.mean can be exported
        return map_BChw.mean((2, 3), dtype=torch.float32)
    pooled: Tensor = GlobalAverageGradient.apply(map_BChw)
    return pooled
