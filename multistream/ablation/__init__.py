"""Ablation: which depth, which tap, which stream matters, and what each costs."""

from multistream.ablation.results import Ablation, AblationRow
from multistream.ablation.runner import ablate

__all__ = ["Ablation", "AblationRow", "ablate"]
