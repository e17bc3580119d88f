"""Chains of timm's hierarchical vision transformers, whose grid of tokens shrinks from stage to stage."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from multistream.parts.timm_steps import (
    Chain,
    Step,
    Tokens,
    WithParameter,
    apply,
    class_token_joins,
    emptied,
    nhwc,
    square,
)


def hiera(model: Any) -> Chain:
    """Hiera: tokens are ordered by mask unit; `reroll` arranges them as a map."""
    blocks, reroll, ends = list(model.blocks), model.reroll, list(model.stage_ends)
    positions = {"pos_embed", "pos_embed_win", "pos_embed_spatial", "pos_embed_temporal"}
    embedding = emptied(model, {"patch_embed", "unroll"}, positions)
    steps: dict[str, nn.Module] = {"embedding": Step(embedding, _embed_hiera)}
    for number, block in enumerate(blocks):
        steps[f"blocks.{number}"] = Step(block, _hiera_block, spread=partial(reroll, block_idx=number))
    return Chain(steps, tuple(f"blocks.{number}" for number in ends))


def _embed_hiera(model: Any, images: Tensor) -> Tokens:
    return Tokens(model.unroll(model._pos_embed(model.patch_embed(images, mask=None))))


def _hiera_block(block: nn.Module, state: Tokens, *, spread: Callable[[Tensor], Tensor]) -> Tokens:
    return state._replace(x=block(state.x), spread=spread)


def mvit(model: Any) -> Chain:
    """MViT: pooling attention; each stage returns its tokens and their grid."""
    stages, norm = list(model.stages), model.norm
    embedding = emptied(model, {"patch_embed"}, {"cls_token", "pos_embed"})
    steps: dict[str, nn.Module] = {"embedding": Step(embedding, _embed_mvit)}
    steps |= {f"stages.{number}": Step(stage, _mvit_stage) for number, stage in enumerate(stages)}
    return Chain(steps | {"norm": Step(norm, apply)}, tuple(f"stages.{n}" for n in range(len(stages))))


def _embed_mvit(model: Any, images: Tensor) -> Tokens:
    x, grid = model.patch_embed(images)
    if model.cls_token is not None:
        x = torch.cat((model.cls_token.expand(len(x), -1, -1), x), dim=1)
    if model.pos_embed is not None:
        x = x + model.pos_embed
    return Tokens(x, tuple(grid), 0 if model.cls_token is None else 1)


def _mvit_stage(stage: nn.Module, state: Tokens) -> Tokens:
    x, grid = stage(state.x, list(state.grid))
    return state._replace(x=x, grid=tuple(grid))


def twins(model: Any) -> Chain:
    """Twins: each stage embeds the previous map again, and adds positions after its first block."""
    parts = zip(model.patch_embeds, model.pos_drops, model.blocks, model.pos_block, strict=True)
    steps: dict[str, nn.Module] = {
        f"stages.{number}": Step(nn.ModuleList([embed, drop, position, *blocks]), _twins_stage)
        for number, (embed, drop, blocks, position) in enumerate(parts)
    }
    ends = tuple(steps)
    return Chain(steps | {"norm": Step(model.norm, apply)}, ends)


def _twins_stage(modules: nn.ModuleList, state: Tensor | Tokens) -> Tokens:
    embed, drop, position, *blocks = modules
    x, grid = embed(state if isinstance(state, Tensor) else state.to_map().contiguous())
    x = drop(x)
    for number, block in enumerate(blocks):
        x = block(x, grid)
        if number == 0:
            x = position(x, grid)
    return Tokens(x, (int(grid[0]), int(grid[1])))


def levit(model: Any) -> Chain:
    """LeViT: a convolutional stem, then stages of tokens (or, with `use_conv`, of maps)."""
    stages = list(model.stages)
    stem = model.stem
    steps: dict[str, nn.Module] = {"stem": Step(stem, _levit_stem, is_map=model.use_conv)}
    steps |= {f"stages.{number}": Step(stage, _levit_stage) for number, stage in enumerate(stages)}
    return Chain(steps, tuple(f"stages.{n}" for n in range(len(stages))))


def _levit_stem(stem: nn.Module, images: Tensor, *, is_map: bool) -> Tensor | Tokens:
    x: Tensor = stem(images)
    return x if is_map else Tokens(x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3]))


def _levit_stage(stage: nn.Module, state: Tensor | Tokens) -> Tensor | Tokens:
    if isinstance(state, Tensor):
        following: Tensor = stage(state)
        return following
    x = stage(state.x)
    return Tokens(x, square(x))


def volo(model: Any) -> Chain:
    """VOLO: outlook attention on maps (B, h, w, C), positions, transformers, then class attention on tokens."""
    network, norm, late = list(model.network), model.norm, model.post_network
    positions = WithParameter(model.pos_embed, model.pos_drop)
    token = model.cls_token if late is not None else None
    steps: dict[str, nn.Module] = {"embedding": Step(model.patch_embed, _embed_volo)}
    for number, block in enumerate(network):
        if number == 2:
            steps["positions"] = Step(positions, _add_positions)
        steps[f"network.{number}"] = Step(block, apply)
    steps["tokens"] = Step(nn.Identity(), _as_tokens)
    if late is not None:
        steps["cls"] = Step(WithParameter(token, *late), class_token_joins)
    return Chain(steps | {"norm": Step(norm, apply)}, tuple(f"network.{n}" for n in model.stage_ends))


def _embed_volo(embed: nn.Module, images: Tensor) -> Tokens:
    return Tokens(embed(images).permute(0, 2, 3, 1), spread=nhwc)


def _add_positions(held: WithParameter, state: Tokens) -> Tokens:
    if held.parameter is None:
        return state
    (drop,) = held.modules_in_order
    return state._replace(x=drop(state.x + held.parameter))


def _as_tokens(_: nn.Module, state: Tokens) -> Tokens:
    height, width, channels = state.x.shape[1:]
    return Tokens(state.x.reshape(len(state.x), -1, channels), (height, width))


def visformer(model: Any) -> Chain:
    """Visformer: three stages of maps, each after a patch embedding and positions."""
    steps: dict[str, nn.Module] = {}
    if model.stem is not None:
        steps["stem"] = model.stem
    for place in (1, 2, 3):
        embed = getattr(model, f"patch_embed{place}")
        if embed is not None:
            positions = WithParameter(getattr(model, f"pos_embed{place}"), embed, model.pos_drop)
            steps[f"patch_embed{place}"] = Step(positions, _embed_visformer)
        steps[f"stage{place}"] = getattr(model, f"stage{place}")
    steps["norm"] = model.norm
    return Chain(steps, ("stage1", "stage2", "stage3"))


def _embed_visformer(held: WithParameter, map_BChw: Tensor) -> Tensor:
    embed, drop = held.modules_in_order
    x: Tensor = embed(map_BChw)
    if held.parameter is not None:
        x = drop(x + held.parameter)
    return x
