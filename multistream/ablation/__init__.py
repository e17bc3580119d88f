"""Ablation: the effect of each depth, tap and stream on the accuracy (or mAP), and its cost."""

from multistream.ablation.results import Ablation, VariantResult
from multistream.ablation.runner import ablate

__all__ = ["Ablation", "VariantResult", "ablate"]
