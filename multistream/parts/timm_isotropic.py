"""Chains of timm's isotropic vision transformers: one grid of tokens from the first block to the last."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.pos_embed import resample_abs_pos_embed_nhwc
from torch import Tensor, nn

from multistream.parts.timm_steps import (
    Chain,
    Step,
    Tokens,
    WithParameter,
    apply,
    blocks_of,
    class_token_joins,
    emptied,
    nhwc,
    quarters,
    square,
)

# Eva: EVA-02, DINOv3, Perception Encoder.


def eva(model: Any) -> Chain:
    """Patches, class and register tokens, and a rotary table, shared by all blocks or one per block."""
    blocks, norm = list(model.blocks), model.norm
    mixed = bool(getattr(model, "rope_mixed", False))
    kept = {"patch_embed", "pos_drop", "patch_drop", "rope", "norm_pre"}
    embedding = emptied(model, kept, {"cls_token", "reg_token", "pos_embed"})
    steps: dict[str, nn.Module] = {"embedding": Step(embedding, _embed_eva)}
    for number, block in enumerate(blocks):
        steps[f"blocks.{number}"] = Step(block, _eva_block, number=number if mixed else None)
    return Chain(steps | {"norm": Step(norm, apply)}, quarters([f"blocks.{n}" for n in range(len(blocks))]))


def _embed_eva(model: Any, images: Tensor) -> Tokens:
    x, rope = model._pos_embed(model.patch_embed(images))
    x = model.norm_pre(x)
    return Tokens(x, square(x, model.num_prefix_tokens), model.num_prefix_tokens, rope)


def _eva_block(block: nn.Module, state: Tokens, *, number: int | None) -> Tokens:
    rope = state.shared if number is None or state.shared is None else state.shared[number]
    return state._replace(x=block(state.x, rope=rope))


# NaFlexViT, whose grid may have any shape; here it is square.


def naflex(model: Any) -> Chain:
    """Embeddings and rotary table for a batch of images of one size, which needs no mask."""
    blocks, norm = list(model.blocks), model.norm
    embedding = emptied(model, {"embeds", "rope", "norm_pre", "patch_drop"})
    steps: dict[str, nn.Module] = {"embedding": Step(embedding, _embed_naflex)}
    for number, block in enumerate(blocks):
        steps[f"blocks.{number}"] = Step(block, _naflex_block, number=number if model.rope_is_mixed else None)
    return Chain(steps | {"norm": Step(norm, apply)}, quarters([f"blocks.{n}" for n in range(len(blocks))]))


def _embed_naflex(model: Any, images: Tensor) -> Tokens:
    embedded = model._forward_embeds(images, None, None, None)
    rope = embedded["rope_embeds"]
    shared = (list(rope) if model.rope_is_mixed and rope is not None else rope, embedded["attn_mask"])
    x = embedded["patches"]
    return Tokens(x, square(x, model.num_prefix_tokens), model.num_prefix_tokens, shared)


def _naflex_block(block: nn.Module, state: Tokens, *, number: int | None) -> Tokens:
    rope, mask = state.shared
    if rope is None:
        return state._replace(x=block(state.x, attn_mask=mask))
    return state._replace(x=block(state.x, rope=rope if number is None else rope[number], attn_mask=mask))


# BEiT, with a relative position bias that all blocks may share.


def beit(model: Any) -> Chain:
    """Patches, class token and positions; the shared bias is part of the first stage."""
    blocks, norm = list(model.blocks), model.norm
    embedding = emptied(model, {"patch_embed", "pos_drop", "rel_pos_bias"}, {"cls_token", "pos_embed"})
    steps = {"embedding": Step(embedding, _embed_beit), **blocks_of(blocks, _beit_block), "norm": Step(norm, apply)}
    return Chain(steps, quarters([f"blocks.{n}" for n in range(len(blocks))]))


def _embed_beit(model: Any, images: Tensor) -> Tokens:
    x = model.patch_embed(images)
    x = torch.cat((model.cls_token.expand(len(x), -1, -1), x), dim=1)
    x = model.pos_drop(x if model.pos_embed is None else x + model.pos_embed)
    return Tokens(x, square(x, 1), 1, None if model.rel_pos_bias is None else model.rel_pos_bias())


def _beit_block(block: nn.Module, state: Tokens) -> Tokens:
    return state._replace(x=block(state.x, shared_rel_pos_bias=state.shared))


# XCiT, CaiT, ConViT: the class token is added after some or all of the blocks.


def xcit(model: Any) -> Chain:
    """XCiT: cross-covariance attention over patches; class attention at the end."""
    blocks, norm, late = list(model.blocks), model.norm, model.cls_attn_blocks
    token = model.cls_token if late is not None else None
    steps = {
        "embedding": Step(emptied(model, {"patch_embed", "pos_embed", "pos_drop"}), _embed_xcit),
        **blocks_of(blocks, _xcit_block),
    }
    if late is not None:
        steps["cls"] = Step(WithParameter(token, *late), class_token_joins)
    return Chain(steps | {"norm": Step(norm, apply)}, quarters([f"blocks.{n}" for n in range(len(blocks))]))


def _embed_xcit(model: Any, images: Tensor) -> Tokens:
    x, grid = model.patch_embed(images)
    if model.pos_embed is not None:
        x = x + model.pos_embed(len(x), *grid).reshape(len(x), -1, x.shape[1]).permute(0, 2, 1)
    return Tokens(model.pos_drop(x), (int(grid[0]), int(grid[1])))


def _xcit_block(block: nn.Module, state: Tokens) -> Tokens:
    return state._replace(x=block(state.x, *state.grid))


def cait(model: Any) -> Chain:
    """CaiT: blocks over patches, then blocks that update only the class token."""
    blocks, norm, late = list(model.blocks), model.norm, model.blocks_token_only
    token = model.cls_token if late is not None else None
    steps = {
        "embedding": Step(emptied(model, {"patch_embed", "pos_drop"}, {"pos_embed"}), _embed_plain),
        **blocks_of(blocks, apply),
    }
    if late is not None:
        steps["cls"] = Step(WithParameter(token, *late), _class_token_looks)
    return Chain(steps | {"norm": Step(norm, apply)}, quarters([f"blocks.{n}" for n in range(len(blocks))]))


def _embed_plain(model: Any, images: Tensor) -> Tokens:
    x = model.patch_embed(images)
    if getattr(model, "pos_embed", None) is not None:
        x = x + model.pos_embed
    return Tokens(model.pos_drop(x), square(x))


def _class_token_looks(held: WithParameter, state: Tokens) -> Tokens:
    assert held.parameter is not None
    # A copy, because torch's FLOP counter, which hooks a block's inputs, fails on a view of a parameter.
    token = held.parameter.repeat(len(state.x), 1, 1)
    for block in held.modules_in_order:
        token = block(state.x, token)
    return state._replace(x=torch.cat((token, state.x), dim=1), prefix=1)


def convit(model: Any) -> Chain:
    """ConViT: gated positional attention first; the class token is added before the last blocks."""
    blocks, norm, late, token = list(model.blocks), model.norm, model.local_up_to_layer, model.cls_token
    positions = {"pos_embed"} if model.use_pos_embed else set()
    steps: dict[str, nn.Module] = {
        "embedding": Step(emptied(model, {"patch_embed", "pos_drop"}, positions), _embed_plain)
    }
    for number, block in enumerate(blocks):
        if number == late and token is not None:
            steps["cls"] = Step(WithParameter(token), class_token_joins)
        steps[f"blocks.{number}"] = Step(block, apply)
    return Chain(steps | {"norm": Step(norm, apply)}, quarters([f"blocks.{n}" for n in range(len(blocks))]))


# Segment Anything: maps, then a convolutional neck.


def sam(model: Any) -> Chain:
    """Segment Anything's image encoder: maps (B, h, w, C), then a convolutional neck."""
    blocks, neck = list(model.blocks), model.neck
    embedding = emptied(model, {"patch_embed", "pos_drop", "patch_drop", "norm_pre"}, {"pos_embed"})
    steps = {"embedding": Step(embedding, _embed_sam), **blocks_of(blocks, apply), "neck": Step(neck, _sam_neck)}
    return Chain(steps, quarters([f"blocks.{n}" for n in range(len(blocks))]))


def _embed_sam(model: Any, images: Tensor) -> Tokens:
    x = model.patch_embed(images)
    if model.pos_embed is not None:
        x = x + resample_abs_pos_embed_nhwc(model.pos_embed, x.shape[1:3])
    return Tokens(model.norm_pre(model.patch_drop(model.pos_drop(x))), spread=nhwc)


def _sam_neck(neck: nn.Module, state: Tokens) -> Tensor:
    following: Tensor = neck(state.x.permute(0, 3, 1, 2))
    return following
