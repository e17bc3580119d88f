"""Many products of matrices at once, each with the bits that it has alone.

The kernels of a CPU choose their order of summation by a matrix's shape and by where it begins in memory. Shapes are
equal for all rows; so every matrix, read or written, is made to begin at a multiple of 64 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LINE = 16
"""float32 numbers in 64 bytes."""


def shared_product(x_GBP: Tensor, weights_GVWP: Tensor) -> Tensor:
    """Images (G, B, P) times weights (G, V, W, P) -> (G, V, B, W), for each of G seeds and V variants.

    Differentiated by the weights alone: the images need no gradient.
    """
    product: Tensor = _SharedProduct.apply(x_GBP, weights_GVWP)
    return product


def product(a_GVnk: Tensor, b_GVkm: Tensor) -> Tensor:
    """(G, V, n, k) times (G, V, k, m) -> (G, V, n, m), row by row."""
    result: Tensor = _Product.apply(a_GVnk, b_GVkm)
    return result


def dropped_product(
    x_GBP: Tensor,
    weights_GVWP: Tensor,
    bias_GVW: Tensor,
    mask_GBE: Tensor,
    places: Sequence[int],
    columns_GVKW: Tensor,
) -> Tensor:
    """((x weights + bias) times mask) times columns -> (G, V, B, K); variant v's mask begins at entry places[v].

    One function, because between two products of small matrices the passes over their numbers cost as much as they.
    """
    result: Tensor = _DroppedProduct.apply(x_GBP, weights_GVWP, bias_GVW, mask_GBE, places, columns_GVKW)
    return result


class _SharedProduct(torch.autograd.Function):
    """A seed at a time, so that its images lie beside every variant's weights without being copied."""

    @staticmethod
    def forward(ctx: Any, x_GBP: Tensor, weights_GVWP: Tensor) -> Tensor:
        x_GBP = _aligned(x_GBP)
        ctx.save_for_backward(x_GBP)
        seeds, variants, width, _ = weights_GVWP.shape
        result = _space(x_GBP, seeds, variants, x_GBP.shape[1], width)
        for x_BP, weights_VWP, out in zip(x_GBP, _aligned(weights_GVWP), result, strict=True):
            torch.bmm(x_BP.expand(variants, -1, -1), weights_VWP.mT, out=out)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_GVBW: Tensor) -> tuple[None, Tensor]:
        (x_GBP,) = ctx.saved_tensors
        seeds, variants, _, width = gradient_GVBW.shape
        result = _space(x_GBP, seeds, variants, width, x_GBP.shape[2])
        for x_BP, gradient_VBW, out in zip(x_GBP, _aligned(gradient_GVBW), result, strict=True):
            torch.bmm(gradient_VBW.mT, x_BP.expand(variants, -1, -1), out=out)
        return None, result


class _DroppedProduct(torch.autograd.Function):
    """Tokens are made, dropped from and read; their gradient lies in one buffer, written by a product, masked there."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weights: Tensor, bias: Tensor, mask: Tensor, places: Sequence[int], columns: Tensor
    ) -> Tensor:
        x, columns = _aligned(x), _aligned(columns)
        seeds, variants, width, _ = weights.shape
        tokens = _space(x, seeds, variants, x.shape[1], width)
        for x_BP, weights_VWP, out in zip(x, _aligned(weights), tokens, strict=True):
            torch.bmm(x_BP.expand(variants, -1, -1), weights_VWP.mT, out=out)
        tokens += bias.unsqueeze(2)
        _mask(tokens, mask, places)
        ctx.places = places
        ctx.save_for_backward(x, mask, columns, tokens)
        return _multiplied(tokens, columns.mT)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, mask, columns, tokens = ctx.saved_tensors
        gradient = _aligned(gradient)
        of_columns = _multiplied(gradient.mT, tokens) if ctx.needs_input_grad[5] else None
        if not ctx.needs_input_grad[1]:
            return None, None, None, None, None, of_columns
        of_tokens = _multiplied(gradient, columns)
        _mask(of_tokens, mask, ctx.places)
        variants = of_tokens.shape[1]
        of_weights = _space(x, *of_tokens.shape[:2], of_tokens.shape[3], x.shape[2])
        for x_BP, tokens_VBW, out in zip(x, of_tokens, of_weights, strict=True):
            torch.bmm(tokens_VBW.mT, x_BP.expand(variants, -1, -1), out=out)
        return None, of_weights, of_tokens.sum(2), None, None, of_columns


def _mask(tokens_GVBW: Tensor, mask_GBE: Tensor, places: Sequence[int]) -> None:
    """Multiplies each variant's tokens with its part of the mask, in place."""
    width = tokens_GVBW.shape[3]
    for tokens_GBW, place in zip(tokens_GVBW.unbind(1), places, strict=True):
        tokens_GBW *= mask_GBE[..., place : place + width]


class _Product(torch.autograd.Function):
    """One batch of products."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        a, b = _aligned(a), _aligned(b)
        ctx.save_for_backward(a, b)
        return _multiplied(a, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        gradient = _aligned(gradient)
        of_a = _multiplied(gradient, b.mT) if ctx.needs_input_grad[0] else None
        # a^T times the gradient has few columns, for which the kernel takes 17 times as long as for few rows.
        return of_a, _multiplied(gradient.mT, a).mT if ctx.needs_input_grad[1] else None


def _multiplied(a: Tensor, b: Tensor) -> Tensor:
    result = _space(a, *a.shape[:2], a.shape[2], b.shape[3])
    torch.bmm(a.flatten(0, 1), b.flatten(0, 1), out=result.flatten(0, 1))
    return result


def _space(like: Tensor, *shape: int) -> Tensor:
    """Room for matrices (..., n, m) that each begin at a multiple of 64 bytes."""
    rows, columns = shape[-2:]
    if rows * columns % LINE == 0:
        return like.new_empty(shape)
    return like.new_empty(*shape[:-1], -(-columns // LINE) * LINE)[..., :columns]


def _aligned(matrices: Tensor) -> Tensor:
    """The same matrices (..., n, m), each at a multiple of 64 bytes: itself where that is so."""
    *others, row, column = matrices.stride()
    begins = all(step % LINE == 0 for step in others) and matrices.storage_offset() % LINE == 0
    if begins and column == 1 and row >= matrices.shape[-1]:
        return matrices
    return _space(matrices, *matrices.shape).copy_(matrices)
