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

__all__ = [
    "DataSettings",
    "NetworkSettings",
    "OptionSettings",
    "Recipe",
    "RuntimeSettings",
    "TrainingSettings",
    "differences",
]
