"""Ablation: which depth, which tap, which stream matters, and what each costs."""

from multistream.ablation.ablating import ablate
from multistream.ablation.results import Ablation, Row

__all__ = ["Ablation", "Row", "ablate"]
