"""A timm model's own summary of a whole photo: its class token, attention pool or projected embedding."""

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
