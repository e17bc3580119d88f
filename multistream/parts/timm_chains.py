"""timm's models whose `forward_features` is not a chain of their modules, written as a chain of steps.

The steps use the model's own modules and parameters, so nothing is copied, and `timm_stages.cut` compares what they
compute with the model's own `forward_features`.
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
"""By the names of timm's classes; a class that derives from one of them is cut alike."""


def chain_of(model: nn.Module) -> Chain | None:
    """The chain of a model of one of the classes in `CHAINS`; None for every other model."""
    for kind in type(model).__mro__:
        if kind.__name__ in CHAINS:
            return CHAINS[kind.__name__](model)
    return None
