"""timm's models whose `forward_features` is not a chain of their modules, written as a chain of steps.

A step takes a state and returns the next. Beside the features a state holds what the blocks of these models share: a
rotary table, a bias, the sides of the grid. The steps use the model's own modules and parameters, so nothing is copied,
and `timm_stages.cut` compares what they compute with the model's own `forward_features`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from timm.layers.pos_embed import resample_abs_pos_embed_nhwc
from torch import Tensor, nn

GROUPS = 4
"""Stages of a model whose blocks are all alike."""


class Tokens(NamedTuple):
    """The features `x` (B, prefix + h x w, C): `prefix` tokens without a place, then those of the `grid` (h, w).

    `shared` is what all blocks are given. `spread`, where there is one, lays `x` out as (B, h, w, C) instead.
    """

    x: Tensor
    grid: tuple[int, int] = (0, 0)
    prefix: int = 0
    shared: Any = None
    spread: Callable[[Tensor], Tensor] | None = None

    def to_map(self) -> Tensor:
        """The features as a map (B, C, h, w)."""
        if self.spread is not None:
            return self.spread(self.x).permute(0, 3, 1, 2)
        places_BNC = self.x[:, self.prefix :]
        return places_BNC.transpose(1, 2).reshape(len(self.x), -1, *self.grid)


@dataclass(frozen=True)
class Chain:
    """The `steps` of a model in order, and the names of those at which stages end."""

    steps: Mapping[str, nn.Module]
    ends: tuple[str, ...]


class Step(nn.Module):
    """One step: `run(module, state, **arguments)`."""

    def __init__(self, module: nn.Module, run: Callable[..., Any], **arguments: Any) -> None:
        super().__init__()
        self.module, self.run, self.arguments = module, run, arguments

    def forward(self, state: Any) -> Any:
        """The next state."""
        return self.run(self.module, state, **self.arguments)


class WithParameter(nn.Module):
    """Modules with a parameter that the model itself held: a class token, positions."""

    def __init__(self, parameter: nn.Parameter | None, *modules: nn.Module) -> None:
        super().__init__()
        self.parameter = parameter
        self.modules_in_order = nn.ModuleList(modules)


def chain_of(model: nn.Module) -> Chain | None:
    """The chain of a model of one of the classes below; None for every other model."""
    for kind in type(model).__mro__:
        if kind.__name__ in CHAINS:
            return CHAINS[kind.__name__](model)
    return None


def emptied(model: nn.Module, children: Iterable[str], parameters: Iterable[str] = ()) -> nn.Module:
    """The model itself with only these of its children and own parameters: a stage holds nothing of later ones."""
    for name, _ in list(model.named_children()):
        if name not in children:
            setattr(model, name, nn.Identity())
    for name, _ in list(model.named_parameters(recurse=False)):
        if name not in parameters:
            setattr(model, name, None)
    return model


def quarters(names: list[str]) -> tuple[str, ...]:
    """The last names of four groups of equal size."""
    groups = min(GROUPS, len(names))
    return tuple(names[(group + 1) * len(names) // groups - 1] for group in range(groups))


def blocks_of(blocks: Iterable[nn.Module], run: Callable[..., Any]) -> dict[str, nn.Module]:
    """A step for each block."""
    return {f"blocks.{number}": Step(block, run) for number, block in enumerate(blocks)}


def square(x: Tensor, prefix: int = 0) -> tuple[int, int]:
    """The grid of tokens of a square picture."""
    side = math.isqrt(x.shape[1] - prefix)
    return side, side


def apply(module: nn.Module, state: Tokens) -> Tokens:
    """The module on the features alone: a norm, a block that needs nothing else."""
    return state._replace(x=module(state.x))


def nhwc(x: Tensor) -> Tensor:
    """Features that lie as (B, h, w, C) already."""
    return x


# Eva: EVA-02, DINOv3, Perception Encoder.


def eva(model: Any) -> Chain:
    """Patches, class and register tokens, a rotary table for all blocks or one for each."""
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


# NaFlexViT, whose grid may be of any shape; here it is square.


def naflex(model: Any) -> Chain:
    """Embeddings and rotary table of a batch of pictures of one size; no mask is needed."""
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


# BEiT, with a bias of relative positions that all blocks may share.


def beit(model: Any) -> Chain:
    """Patches, class token, positions; the shared bias belongs to the first stage."""
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


# XCiT, CaiT, ConViT: the class token comes late.


def xcit(model: Any) -> Chain:
    """Cross-covariance attention over patches; class attention at the end."""
    blocks, norm, late = list(model.blocks), model.norm, model.cls_attn_blocks
    token = model.cls_token if late is not None else None
    steps = {
        "embedding": Step(emptied(model, {"patch_embed", "pos_embed", "pos_drop"}), _embed_xcit),
        **blocks_of(blocks, _xcit_block),
    }
    if late is not None:
        steps["cls"] = Step(WithParameter(token, *late), _class_token_joins)
    return Chain(steps | {"norm": Step(norm, apply)}, quarters([f"blocks.{n}" for n in range(len(blocks))]))


def _embed_xcit(model: Any, images: Tensor) -> Tokens:
    x, grid = model.patch_embed(images)
    if model.pos_embed is not None:
        x = x + model.pos_embed(len(x), *grid).reshape(len(x), -1, x.shape[1]).permute(0, 2, 1)
    return Tokens(model.pos_drop(x), (int(grid[0]), int(grid[1])))


def _xcit_block(block: nn.Module, state: Tokens) -> Tokens:
    return state._replace(x=block(state.x, *state.grid))


def _class_token_joins(held: WithParameter, state: Tokens) -> Tokens:
    """The class token comes before the others, and blocks (if any) attend to all."""
    assert held.parameter is not None
    x = torch.cat((held.parameter.expand(len(state.x), -1, -1), state.x), dim=1)
    for block in held.modules_in_order:
        x = block(x)
    return state._replace(x=x, prefix=1)


def cait(model: Any) -> Chain:
    """Blocks over patches; then blocks in which the class token alone changes."""
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
    # Not a view of the parameter: torch's counter, which hooks a block's inputs, takes a view for part of a graph.
    token = held.parameter.repeat(len(state.x), 1, 1)
    for block in held.modules_in_order:
        token = block(state.x, token)
    return state._replace(x=torch.cat((token, state.x), dim=1), prefix=1)


def convit(model: Any) -> Chain:
    """Gated positional attention first; the class token joins before the last blocks."""
    blocks, norm, late, token = list(model.blocks), model.norm, model.local_up_to_layer, model.cls_token
    positions = {"pos_embed"} if model.use_pos_embed else set()
    steps: dict[str, nn.Module] = {
        "embedding": Step(emptied(model, {"patch_embed", "pos_drop"}, positions), _embed_plain)
    }
    for number, block in enumerate(blocks):
        if number == late and token is not None:
            steps["cls"] = Step(WithParameter(token), _class_token_joins)
        steps[f"blocks.{number}"] = Step(block, apply)
    return Chain(steps | {"norm": Step(norm, apply)}, quarters([f"blocks.{n}" for n in range(len(blocks))]))


# Hierarchical models, in their own stages.


def hiera(model: Any) -> Chain:
    """Tokens in an order of their own (mask units); `reroll` lays them out as a map."""
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
    """Pooling attention; each stage returns its tokens and their grid."""
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
    """A stage embeds the map before it again, and adds positions after its first block."""
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
    """A convolutional stem, then stages of tokens (or, with `use_conv`, of maps)."""
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
    """Outlook attention on maps (B, h, w, C), positions, transformers, then class attention on tokens."""
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
        steps["cls"] = Step(WithParameter(token, *late), _class_token_joins)
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
    """Three stages of maps, each after patches and positions."""
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


def sam(model: Any) -> Chain:
    """Segment Anything's image tower: maps (B, h, w, C) up to a convolutional neck."""
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


CHAINS: Mapping[str, Callable[[Any], Chain]] = {
    "Beit": beit,
    "Cait": cait,
    "ConVit": convit,
    "Eva": eva,
    "Hiera": hiera,
    "Levit": levit,
    "MultiScaleVit": mvit,
    "NaFlexVit": naflex,
    "Twins": twins,
    "VOLO": volo,
    "VisionTransformerSAM": sam,
    "Visformer": visformer,
    "Xcit": xcit,
}
"""By the names of timm's classes; a class that derives from one of them is cut alike."""
