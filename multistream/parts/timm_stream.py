"""`KEY=timm:MODEL`: a timm model as a stream, if it can be split into stages."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict
from difflib import get_close_matches
from typing import Any, Literal

import timm
import torch
from timm.data.imagenet_info import infer_imagenet_subset
from torch import Tensor, nn

from multistream.errors import UsageError
from multistream.inputs import Image
from multistream.interfaces import Stream
from multistream.nn.modules import evaluating
from multistream.parts.timm_stages import CLASSIFIER, CannotCut, Cut, as_map, cut, features_of
from multistream.parts.timm_steps import Step, Tokens
from multistream.weights import Source

SUMMARIES = ("cls", "embed")


class NoSummary(Exception):
    """The model has no such summary; the message says why."""


def one_line(model: Any, name: str) -> nn.Module:
    """The stage that computes a summary from the last stage's state; must be built before the model is split."""
    if name == "embed":
        if infer_imagenet_subset(model):
            raise NoSummary(f"its head is a classifier of {model.num_classes} classes; take cls or gap")
        return Step(_head_of(model), _embedding)
    pool = getattr(model, "attn_pool", None)
    if isinstance(pool, nn.Module) and not isinstance(pool, nn.Identity):
        skipped = 0 if getattr(model, "pool_include_prefix", True) else model.num_prefix_tokens
        return Step(pool, _attention_pool, skipped=skipped)
    if getattr(model, "cls_token", None) is None:
        raise NoSummary("it has neither a class token nor an attention pool; take gap or last")
    return Step(nn.Identity(), _class_token)


def summary_width(made: Cut, read: nn.Module) -> int:
    """The channels of a summary, computed from the last state of the test image."""
    with evaluating(read), torch.no_grad():
        return int(read(made.last_state).shape[1])


def _head_of(model: Any) -> Any:
    """A copy of the model with only the modules of `forward_head`, which it shares."""
    head = copy.copy(model)
    head.__dict__ = dict(model.__dict__)
    head._modules = {name: module for name, module in model._modules.items() if name in CLASSIFIER}
    head._parameters, head._buffers = dict.fromkeys(model._parameters), {}
    return head


def _embedding(head: Any, state: Any) -> Tensor:
    embedding: Tensor = head.forward_head(features_of(state))
    return embedding[:, :, None, None]


def _attention_pool(pool: nn.Module, state: Any, *, skipped: int) -> Tensor:
    features = features_of(state)
    pooled: Tensor = pool(features[:, skipped:] if skipped else features)
    return pooled[:, :, None, None]


def _class_token(_: nn.Module, state: Tensor | Tokens) -> Tensor:
    return features_of(state)[:, 0, :, None, None]


ANY_SIZE: Mapping[str, Mapping[str, bool]] = {
    "vision_transformer": {"dynamic_img_size": True},
    "deit": {"dynamic_img_size": True},
    "swin_transformer": {"strict_img_size": False},
    "swin_transformer_v2": {"strict_img_size": False},
    "eva": {"dynamic_img_size": True},
    "naflexvit": {},
    "xcit": {},
}
"""Arguments with which models that timm builds for one size read other sizes too, by timm's module name."""

PATCHED = frozenset({"vision_transformer", "deit", "eva"})
"""Architectures that read images of any size that is a multiple of their patch size."""

COMPUTED = (".attn_mask", ".relative_position_index")
"""Suffixes of keys in older weight files for tensors that timm computes itself."""


class TimmStream(Stream):
    """A timm model whose stages end where timm extracts features; transformers have four groups of blocks.

    `variant` is timm's name, `MODEL` or `MODEL.TAG`. The last stage ends with `forward_features`, including the final
    norm; the classifier is left out. Normalisation, size and interpolation are those of the model's pretrained weights;
    the weights are random. `size` sets another image size. `summary` adds a last stage of that name, whose map
    (B, C, 1, 1) is the model's own summary of the whole photo: `cls`, its class token or attention pool; `embed`, its
    pooled and projected embedding. Raises UsageError for an unknown model, and, with the reason, for a model that
    cannot be split or has no such summary.

    >>> TimmStream(variant="resnet10t").channels
    {'stage1': 64, 'stage2': 64, 'stage3': 128, 'stage4': 256, 'stage5': 512}
    """

    def __init__(self, *, variant: str, size: int = 0, summary: Literal["", "cls", "embed"] = "") -> None:
        _check_known(variant)
        model, image = created(variant, size, summary)
        names = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}
        sizes = (_small(variant, model, image), image.size) if _reads_any_size(variant) else (image.size,)
        try:
            read = one_line(model, summary) if summary else None
            made = cut(model, sizes=sizes)
            stages, channels = dict(made.stages), dict(made.channels)
            if read is not None:
                stages[summary], channels[summary] = read, summary_width(made, read)
        except CannotCut as reason:
            raise UsageError("streams", f"timm:{variant} cannot be cut into stages: {reason}.") from reason
        except NoSummary as reason:
            raise UsageError("tap", f"timm:{variant} has nothing for {summary!r}: {reason}.") from reason
        super().__init__(stages, channels=channels, input=image)
        self.variant = variant
        self.layout, self.prefix_tokens = made.layout, made.prefix_tokens
        self.names = {names[id(t)]: ours for ours, t in self.state_dict(keep_vars=True).items() if id(t) in names}
        kept = {name.partition(".")[0] for name in self.names}
        self.ignored_weights = tuple(f"{name}." for name in made.classifier if name not in kept)  # type: ignore[misc]
        self.weights = _sources(variant, model.pretrained_cfg)  # type: ignore[misc]

    def to_map(self, state: Any, stage: str) -> Tensor:
        """A stage's state -> its map (B, C, h, w): NHWC is permuted, tokens are reshaped without class tokens."""
        if stage in SUMMARIES:
            return state  # type: ignore[no-any-return]
        return as_map(state, self.layout, self.prefix_tokens)

    def rename(self, key: str) -> str | None:
        """Maps timm's names of tensors to this stream's; the stream's own names stay."""
        return None if key.endswith(COMPUTED) else self.names.get(key, key)


def _architecture(variant: str) -> str:
    """The name of timm's module that builds a model."""
    name: str = timm.models.model_entrypoint(variant.partition(".")[0]).__module__
    return name.rpartition(".")[2]


def _pretrained(variant: str) -> dict[str, Any]:
    """timm's information on the pretrained weights: input size, normalisation, hub."""
    described = timm.get_pretrained_cfg(variant)
    assert described is not None, "_check_known has refused what timm does not know"
    return asdict(described)


def _reads_any_size(variant: str) -> bool:
    """Whether the model reads other image sizes, so that the stages can be tested on a small image."""
    return not _pretrained(variant)["fixed_input_size"] or _architecture(variant) in ANY_SIZE


def created(variant: str, size: int, summary: str) -> tuple[Any, Image]:
    """Creates the model with random weights; returns it with its input."""
    settings: dict[str, Any] = dict(ANY_SIZE.get(_architecture(variant), {}))
    if summary != "embed":
        settings["num_classes"] = 0
    pretrained = _pretrained(variant)
    image = _image(variant, pretrained, size)
    fixed = not _reads_any_size(variant)
    if fixed and image.size != pretrained["input_size"][1]:
        settings["img_size"] = image.size
    try:
        return timm.create_model(variant, pretrained=False, **settings), image
    except Exception as error:  # a model may raise anything for a size
        if "img_size" not in settings:
            raise
        own = pretrained["input_size"][1]
        raise UsageError(
            "streams", f"timm:{variant} cannot read images of {size} pixels.", right=f"It reads {own}."
        ) from error


def _check_known(variant: str) -> None:
    """Raises UsageError, with similar names, for a model or tag that timm does not have."""
    model, _, tag = variant.partition(".")
    if not timm.is_model(model):
        near = get_close_matches(model, timm.list_models(), n=3)
        guess = f"Did you mean {' or '.join(map(repr, near))}?" if near else ""
        do = f"timm.list_models() names all that timm {timm.__version__} has."
        raise UsageError("streams", f"timm:{variant} is unknown.", right=guess, do=do)
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{model}.*")]
    if tag and tag not in tags:
        right = f"timm has it with {', '.join(tags)}." if tags else "timm has no weights for it."
        raise UsageError("streams", f"timm:{variant}: {tag!r} is not a tag of {model}.", right=right)


def _image(variant: str, pretrained: Mapping[str, Any], size: int) -> Image:
    """The input of the model's pretrained weights, with images of `size` pixels unless it is 0."""
    channels, own, _ = pretrained["input_size"]
    if channels != 3:
        raise UsageError("streams", f"timm:{variant} reads {channels} channels.", right="Photos have 3.")
    mean, std = (tuple(round(255 * value, 4) for value in pretrained[name]) for name in ("mean", "std"))
    interpolation = "bilinear" if pretrained["interpolation"] == "bilinear" else "bicubic"
    return Image(size or own, mean=mean, std=std, interpolation=interpolation)  # type: ignore[arg-type]


def _small(variant: str, model: Any, image: Image) -> int:
    """The side, in pixels, of a small image to test the stages on."""
    patch_embed = getattr(model, "patch_embed", None)
    patch = getattr(patch_embed, "patch_size", None)
    if _architecture(variant) in PATCHED and patch:
        patch = patch[0]
        if image.size % patch:
            right = f"It must be a multiple of the patch size {patch}, for example {image.size // patch * patch}."
            raise UsageError("streams", f"timm:{variant} cannot read {image.size} pixels.", right=right)
        return 4 * int(patch)
    return min(96, image.size)  # Inception needs 75


def _sources(variant: str, pretrained: Mapping[str, Any]) -> dict[str, Source]:
    """The source of the model's pretrained weights, by variant; empty if timm has none."""
    hub = pretrained.get("hf_hub_id")
    if not hub:
        return {}
    _, size, _ = pretrained["input_size"]
    return {
        variant: Source(
            hub=hub,
            trained_on=pretrained.get("tag", ""),
            licence=pretrained.get("license", ""),
            preprocessing=f"RGB {size}, mean {pretrained['mean']}, std {pretrained['std']}",
        )
    }
