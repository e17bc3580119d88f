"""Recipes: all settings of a run with their defaults, as frozen dataclasses and as TOML."""

from multistream.recipe.recipe import (
    DataSettings,
    NetworkSettings,
    OptionSettings,
    Recipe,
    RuntimeSettings,
    TrainingSettings,
    differences,
)
from multistream.recipe.sections import MissingVectors

__all__ = [
    "DataSettings",
    "MissingVectors",
    "NetworkSettings",
    "OptionSettings",
    "Recipe",
    "RuntimeSettings",
    "TrainingSettings",
    "differences",
]
