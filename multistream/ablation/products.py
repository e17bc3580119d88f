"""Many products of matrices at once, each with the bits that it has alone.

The kernels of a CPU choose their order of summation by a matrix's shape and by where it begins in memory. Shapes are
equal for all rows; so every matrix, read or written, is made to begin at a multiple of 64 bytes. Threads share a batch
out by its matrices, and only a matrix that is alone would be split among them: that one is left to a single thread.
Images lie along the last dimension: six rows of 64 numbers take half the time of 64 rows of six.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from multistream.runtime.device import one_thread

LINE = 16
"""float32 numbers in 64 bytes."""


def shared_product(weights_GVWP: Tensor, x_GBP: Tensor) -> Tensor:
    """Weights (G, V, W, P) times images (G, B, P) -> (G, V, W, B), for each of G seeds and V variants.

    Differentiated by the weights alone: the images need no gradient.
    """
    product: Tensor = _SharedProduct.apply(weights_GVWP, x_GBP)
    return product


def product(a_GVnk: Tensor, b_GVkm: Tensor) -> Tensor:
    """(G, V, n, k) times (G, V, k, m) -> (G, V, n, m), row by row."""
    result: Tensor = _Product.apply(a_GVnk, b_GVkm)
    return result


def direct_product(columns_GVKW: Tensor, weights_GVWP: Tensor, bias_GVW: Tensor, x_GBP: Tensor) -> Tensor:
    """Columns times (weights x + bias) -> (G, V, K, B); columns meet weights first: K rows an image instead of W."""
    result: Tensor = _DirectProduct.apply(columns_GVKW, weights_GVWP, bias_GVW, x_GBP)
    return result


def dropped_product(
    columns_GVKW: Tensor,
    weights_GVWP: Tensor,
    bias_GVW: Tensor,
    x_GBP: Tensor,
    mask_GEB: Tensor,
    places: Sequence[int],
) -> Tensor:
    """Columns times ((weights x + bias) times mask) -> (G, V, K, B); variant v's mask begins at entry places[v].

    One function, as `direct_product` is: between products of small matrices the passes over their numbers cost as much.
    """
    result: Tensor = _DroppedProduct.apply(columns_GVKW, weights_GVWP, bias_GVW, x_GBP, mask_GEB, places)
    return result


class _SharedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, x: Tensor) -> Tensor:
        x = _aligned(x)
        ctx.save_for_backward(x)
        return _over_seeds(weights, x.mT)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_GVWB: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return _over_seeds(gradient_GVWB, x), None


class _DirectProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, columns: Tensor, weights: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        columns, weights, x = _aligned(columns), _aligned(weights), _aligned(x)
        ctx.save_for_backward(columns, weights, bias, x)
        result_GVKB = _over_seeds(_multiplied(columns, weights), x.mT)
        result_GVKB += (columns * bias.unsqueeze(2)).sum(3, keepdim=True)
        return result_GVKB

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_GVKB: Tensor) -> tuple[Tensor | None, ...]:
        columns, weights, bias, x = ctx.saved_tensors
        of_merged, of_offset = _over_seeds(gradient_GVKB, x), gradient_GVKB.sum(3, keepdim=True)
        of_columns = of_weights = of_bias = None
        if ctx.needs_input_grad[0]:
            of_columns = _multiplied(of_merged, weights.mT) + of_offset * bias.unsqueeze(2)
        if ctx.needs_input_grad[1]:
            of_weights, of_bias = _multiplied(columns.mT, of_merged), (columns * of_offset).sum(2)
        return of_columns, of_weights, of_bias, None


class _DroppedProduct(torch.autograd.Function):
    """Tokens are made, dropped from and read; their gradient lies in one buffer, written by a product, masked there."""

    @staticmethod
    def forward(
        ctx: Any, columns: Tensor, weights: Tensor, bias: Tensor, x: Tensor, mask: Tensor, places: Sequence[int]
    ) -> Tensor:
        x, columns = _aligned(x), _aligned(columns)
        tokens_GVWB = _over_seeds(weights, x.mT)
        tokens_GVWB += bias.unsqueeze(3)
        _mask(tokens_GVWB, mask, places)
        ctx.places = places
        ctx.save_for_backward(x, mask, columns, tokens_GVWB)
        return _multiplied(columns, tokens_GVWB)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, mask, columns, tokens = ctx.saved_tensors
        gradient = _aligned(gradient)
        of_columns = _multiplied(gradient, tokens.mT) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return of_columns, None, None, None, None, None
        of_tokens = _multiplied(columns.mT, gradient)
        _mask(of_tokens, mask, ctx.places)
        return of_columns, _over_seeds(of_tokens, x), of_tokens.sum(3), None, None, None


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
        return of_a, _multiplied(a.mT, gradient) if ctx.needs_input_grad[1] else None


def _mask(tokens_GVWB: Tensor, mask_GEB: Tensor, places: Sequence[int]) -> None:
    """Multiplies each variant's tokens with its part of the mask, in place."""
    width = tokens_GVWB.shape[2]
    for tokens_GWB, place in zip(tokens_GVWB.unbind(1), places, strict=True):
        tokens_GWB *= mask_GEB[:, place : place + width]


def _over_seeds(a_GVnk: Tensor, b_Gkm: Tensor) -> Tensor:
    """(G, V, n, k) times (G, k, m) -> (G, V, n, m): seed by seed, so that what all variants share is not copied."""
    seeds, variants, rows, _ = a_GVnk.shape
    result = _space(a_GVnk, seeds, variants, rows, b_Gkm.shape[2])
    with _threads(variants):
        for a_Vnk, b_km, out in zip(_aligned(a_GVnk), b_Gkm, result, strict=True):
            torch.bmm(a_Vnk, b_km.expand(variants, -1, -1), out=out)
    return result


def _multiplied(a: Tensor, b: Tensor) -> Tensor:
    result = _space(a, *a.shape[:2], a.shape[2], b.shape[3])
    with _threads(a.shape[0] * a.shape[1]):
        torch.bmm(a.flatten(0, 1), b.flatten(0, 1), out=result.flatten(0, 1))
    return result


def _threads(matrices: int) -> AbstractContextManager[None]:
    """All threads for a batch of products, one for a single product."""
    return nullcontext() if matrices > 1 else one_thread()


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
