"""The one place where the paths of a recipe are made absolute: a run is found again from any folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from multistream.data.layouts.data_source import absolute_source
from multistream.recipe import Recipe
from multistream.spec import Spec

NO_PATHS = ("hub", "random")
"""What `--weights KEY=` takes besides paths."""


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths of data, inputs, weights and runs."""
    network = recipe.network
    weights = {key: text if text in NO_PATHS else _absolute(text) for key, text in network.weights.items()}
    inputs = {name: _absolute(path) for name, path in network.inputs.items()}
    changes = {"inputs": inputs, "weights": weights, "streams": _streams(network.streams)}
    return recipe.updated({"data": {"source": absolute_source(recipe.data.source)}, "network": changes})


def _streams(streams: Mapping[str, str]) -> dict[str, str]:
    """Specs by key, those that are paths of runs absolute."""
    runs = {key: Spec.parse(text, key=key).run for key, text in streams.items()}
    return {key: text if runs[key] is None else _absolute(str(runs[key])) for key, text in streams.items()}


def _absolute(path: str) -> str:
    """An absolute path to what is there; a name that is no path (a CSV's column of maps) stays."""
    there = Path(path).expanduser()
    return os.path.abspath(there) if there.exists() else path
