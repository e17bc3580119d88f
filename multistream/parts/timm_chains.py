"""Chains of steps for timm models whose `forward_features` does not just run their modules in order.

The steps use the model's own modules and parameters, without copies. `timm_stages.cut` compares their output with that
of the model's `forward_features`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from multistream.parts.timm_hierarchical import hiera, levit, mvit, twins, visformer, volo
from multistream.parts.timm_isotropic import beit, cait, convit, eva, naflex, sam, xcit
from multistream.parts.timm_steps import Chain

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
