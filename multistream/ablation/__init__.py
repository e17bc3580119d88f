"""Ablation: which depth, which tap, which stream matters, and what each costs."""

from multistream.ablation.results import Ablation, VariantResult
from multistream.ablation.runner import ablate

__all__ = ["Ablation", "VariantResult", "ablate"]
