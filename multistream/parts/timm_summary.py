"""What a timm model itself makes of a whole photo: its class token, its attention pool, its projected embedding."""

from __future__ import annotations

import copy
from typing import Any

import torch
from timm.data.imagenet_info import infer_imagenet_subset
from torch import Tensor, nn

from multistream.nn.eval_mode import evaluating
from multistream.parts.timm_stages import CLASSIFIER, Cut, features_of
from multistream.parts.timm_steps import Step, Tokens

SUMMARIES = ("cls", "embed")


class NoSummary(Exception):
    """The model has no such summary; the text says why."""


def one_line(model: Any, name: str) -> nn.Module:
    """The stage that reads a summary off the last stage's state; to be made before the model is cut."""
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
    """The channels of a summary, found on the picture that the cut was tried on."""
    with evaluating(read), torch.no_grad():
        return int(read(made.last_state).shape[1])


def _head_of(model: Any) -> Any:
    """The model without all that works before its `forward_head`; shares the head's modules."""
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
