"""Splits a timm model into stages: its own modules, in their order, without the classifier.

Models whose `forward_features` does not just run their modules in order have a chain of steps, which use the model's
own modules and parameters, without copies. `cut` compares the output with that of `forward_features`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.models import VisionTransformer
from torch import Tensor, nn

from multistream.nn.modules import evaluating
from multistream.parts.timm_hierarchical import hiera, levit, mvit, twins, visformer, volo
from multistream.parts.timm_isotropic import beit, cait, convit, eva, naflex, sam, xcit
from multistream.parts.timm_steps import GROUPS, Chain, Tokens

Layout = Literal["NCHW", "NHWC", "tokens"]

CLASSIFIER = frozenset(
    """
    global_pool attn_pool fc_norm head head_dist head_drop aux_head pre_logits fc classifier
    """.split()  # noqa: SIM905  a list would take a screen
)
"""Names of the children of a model that run after `forward_features`."""

EMBEDDING = frozenset({"patch_embed", "pos_drop", "patch_drop", "norm_pre"})
"""Children of a VisionTransformer that run before its first block."""


class CannotCut(Exception):
    """The model cannot be split into stages; the message says why."""


@dataclass(frozen=True)
class Cut:
    """A model as `stages`, shallow to deep, each with the `channels` of its map.

    `layout` and `prefix_tokens` are the memory layout of a stage's state. `after` is the rest of `forward_features`
    that is not a stage (VGG's last pooling). `classifier` names the model's children that are left out.
    """

    stages: Mapping[str, nn.Module]
    channels: Mapping[str, int]
    layout: Layout
    prefix_tokens: int
    after: nn.Module
    classifier: tuple[str, ...]
    last_state: Any
    """The output of the last stage for the image that the stages were tested on."""


def cut(model: nn.Module, *, sizes: Sequence[int]) -> Cut:
    """Splits the model into stages, and compares their output with `forward_features` on a test image.

    `sizes` are the sizes to try for that image, in pixels. Stages end at the modules of timm's `feature_info`; the last
    stage contains the rest of `forward_features`, including the final norm. The stages use the model's own modules, and
    `model` must not be used afterwards. Raises CannotCut if the model cannot be split or the outputs differ.
    """
    with evaluating(model), torch.no_grad():
        picture, expected = _features(model, sizes)
        owners, children = _owners(model), dict(model.named_children())  # before the embedding empties the model
        special = chain_of(model)
        ends = dict.fromkeys(special.ends, 0) if special else _ends(model)
        chain = dict(special.steps) if special else dict(_chain(model, ends))
        segments, after = _segments(chain, ends)
        stages = {f"stage{n}": nn.Sequential(OrderedDict(s)) for n, s in enumerate(segments, start=1)}
        states = _states(stages, picture, any_state=special is not None)
        if not torch.equal(features_of(after(states[-1])), expected):
            raise CannotCut("its forward_features is not the chain of its modules")
    layout = "NCHW" if special else _layout(model, states)
    prefix = int(getattr(model, "num_prefix_tokens", 0)) if layout == "tokens" else 0
    channels = {s: as_map(state, layout, prefix).shape[1] for s, state in zip(stages, states, strict=True)}
    _check_channels(list(channels.items())[:-1], ends)  # the last stage includes the rest of forward_features
    used = map(owners.get, _owners(nn.ModuleDict(stages)))
    left = (children.keys() | CLASSIFIER).difference(used)
    return Cut(stages, channels, layout, prefix, after, tuple(sorted(left)), states[-1])


def _owners(model: nn.Module) -> dict[int, str]:
    """The name of the child that each tensor of a model belongs to, by the tensor's id."""
    return {id(tensor): name.partition(".")[0] for name, tensor in model.state_dict(keep_vars=True).items()}


def _check_channels(channels: Iterable[tuple[str, int]], ends: Mapping[str, int]) -> None:
    """Raises CannotCut if a stage does not have the channels that timm declares for its end; 0 is undeclared."""
    for (stage, found), promised in zip(channels, ends.values(), strict=False):
        if promised not in (0, found):
            raise CannotCut(f"{stage} has {found} channels where timm declares {promised}")


def as_map(state: Tensor | Tokens, layout: Layout, prefix_tokens: int) -> Tensor:
    """A stage's state -> its map (B, C, h, w); the prefix of tokens (B, prefix + h x w, C) is dropped."""
    if isinstance(state, Tokens):
        return state.to_map()
    if layout == "NHWC":
        return state.permute(0, 3, 1, 2)
    if layout == "tokens":
        places_BCN = state[:, prefix_tokens:].transpose(1, 2)
        side = math.isqrt(places_BCN.shape[2])
        return places_BCN.reshape(*places_BCN.shape[:2], side, side)
    return state


def features_of(state: Tensor | Tokens) -> Tensor:
    """The result of `forward_features` from the last state."""
    return state.x if isinstance(state, Tokens) else state


class Embedding(nn.Module):
    """The steps of a VisionTransformer before its blocks: patches, class and register tokens, positions.

    It is the model itself with all later children replaced by the identity, so that its `forward_features` returns the
    tokens.
    """

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.model = model
        for name, _ in list(model.named_children()):
            if name not in EMBEDDING:
                setattr(model, name, nn.Identity())

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) -> tokens (B, prefix + h x w, C)."""
        tokens: Tensor = self.model.forward_features(images)
        return tokens


def _features(model: nn.Module, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A test image of the first size that the model can read, and the output of `forward_features` for it."""
    size, *others = sizes
    picture = torch.linspace(-2, 2, 3 * size * size).sin().view(1, 3, size, size)
    try:
        features = model.forward_features(picture)  # type: ignore[operator]
    except Exception as error:  # a timm model may raise anything
        if others:
            return _features(model, others)
        what = f"{type(error).__name__}: {error}"
        raise CannotCut(f"it cannot read a picture of {size} pixels ({what})") from error
    if not isinstance(features, Tensor):
        several = f"{len(features)} tensors" if isinstance(features, list | tuple) else f"a {type(features).__name__}"
        raise CannotCut(f"its features are {several}, not one map")
    return picture, features


def _ends(model: nn.Module) -> dict[str, int]:
    """The modules at which stages end, with the channels that timm declares."""
    info = getattr(model, "feature_info", None)
    if not isinstance(info, list) or not info or not all(entry.get("module") for entry in info):
        raise CannotCut("timm does not report where its features are")
    if len(info) > GROUPS and len({entry["reduction"] for entry in info}) == 1:
        info = [info[(group + 1) * len(info) // GROUPS - 1] for group in range(GROUPS)]
    return {entry["module"]: entry["num_chs"] for entry in info}


def _chain(model: nn.Module, ends: Iterable[str], prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The model's modules in order up to the classifier; a module in which a stage ends is split into its children."""
    if isinstance(model, VisionTransformer):
        yield from _embedded(model)
        return
    for own, _ in model.named_parameters(recurse=False):
        raise CannotCut(f"{prefix}{own} is a parameter of no module")
    for child, module in model.named_children():
        name = prefix + child
        if child in CLASSIFIER and not prefix:
            return
        if not any(end.startswith(f"{name}.") for end in ends):
            yield name, module
        elif isinstance(module, nn.Sequential):
            yield from _chain(module, ends, f"{name}.")
        else:
            raise CannotCut(f"a stage ends inside {name}, which is a {type(module).__name__}, not a sequence")


def _embedded(model: VisionTransformer) -> Iterator[tuple[str, nn.Module]]:
    """A transformer's embedding, its blocks and its final norm."""
    blocks, norm = model.blocks, model.norm
    yield "embedding", Embedding(model)
    yield from ((f"blocks.{number}", block) for number, block in enumerate(blocks))
    yield "norm", norm


def _segments(chain: Mapping[str, nn.Module], ends: Iterable[str]) -> tuple[list[dict[str, nn.Module]], nn.Module]:
    """The chain in segments that end at `ends`, and a module to run after the last segment.

    Modules after the last end belong to the last segment. A last segment without parameters is not a stage, because it
    would only repeat the previous map (VGG's last pooling).
    """
    segments: list[dict[str, nn.Module]] = [{}]
    left = list(ends)
    for name, module in chain.items():
        segments[-1][name.replace(".", "_")] = module
        if left and name == left[0]:
            left.pop(0)
            if left:
                segments.append({})
    if left:
        raise CannotCut(f"timm takes features at {left[0]!r}, where none of its modules ends")
    last = segments[-1].values()
    if len(segments) == 1 or any(True for module in last for _ in module.parameters()):
        return segments, nn.Identity()
    return segments[:-1], nn.Sequential(*last)


def _states(stages: Mapping[str, nn.Module], picture: Tensor, *, any_state: bool) -> list[Any]:
    """The output of each stage for the image; CannotCut for one that is not a tensor, unless `any_state`."""
    states: list[Any] = [picture]
    for name, stage in stages.items():
        try:
            states.append(stage(states[-1]))
        except Exception as error:  # a module may raise anything on an unexpected input
            raise CannotCut(f"{name} does not take what comes before it ({type(error).__name__}: {error})") from error
        if not any_state and not isinstance(states[-1], Tensor):
            raise CannotCut(f"{name} returns a {type(states[-1]).__name__}, not a tensor")
    return states[1:]


def _layout(model: nn.Module, states: Sequence[Tensor]) -> Layout:
    """The memory layout of all states of the model; CannotCut if they differ or are neither maps nor tokens."""
    shape = tuple(states[-1].shape)
    if any(state.ndim != len(shape) for state in states):
        raise CannotCut("some of its stages return maps and others tokens")
    if len(shape) == 4:
        return "NHWC" if str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC") else "NCHW"
    if len(shape) == 3 and math.isqrt(places := shape[1] - int(getattr(model, "num_prefix_tokens", 0))) ** 2 == places:
        return "tokens"
    raise CannotCut(f"its features have the shape {shape}, which is not a map")


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
"""The functions that build chains, by the names of timm's classes; also used for subclasses."""


def chain_of(model: nn.Module) -> Chain | None:
    """The chain of a model whose class is in `CHAINS`; None for other models."""
    for kind in type(model).__mro__:
        if kind.__name__ in CHAINS:
            return CHAINS[kind.__name__](model)
    return None
