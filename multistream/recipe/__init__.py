"""Recipes: the full settings of a run, with every default, in one frozen value and one TOML file."""

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
