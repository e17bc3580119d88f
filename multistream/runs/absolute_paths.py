"""Makes the paths in a recipe absolute, so that a run can be used from any folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from multistream.data.layouts.data_source import absolute_source
from multistream.recipe import Recipe
from multistream.spec import Spec

NO_PATHS = ("hub", "random")
"""Values of `--weights KEY=` that are not paths."""


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """Returns the recipe with absolute paths of data, inputs, weights and runs."""
    network = recipe.network
    weights = {key: text if text in NO_PATHS else _absolute(text) for key, text in network.weights.items()}
    inputs = {name: _absolute(path) for name, path in network.inputs.items()}
    changes = {"inputs": inputs, "weights": weights, "streams": _streams(network.streams)}
    return recipe.updated({"data": {"source": absolute_source(recipe.data.source)}, "network": changes})


def _streams(streams: Mapping[str, str]) -> dict[str, str]:
    """Returns the specs by key, with absolute paths of runs and of files that are a part's variant."""
    return {key: _absolute_spec(text, key) for key, text in streams.items()}


def _absolute_spec(text: str, key: str) -> str:
    spec = Spec.parse(text, key=key)
    if spec.run is not None:
        return _absolute(str(spec.run))
    return replace(spec, variant=_absolute(str(spec.variant_path))).part if spec.variant_path else text


def _absolute(path: str) -> str:
    """Returns the absolute path of an existing file; any other name (such as a CSV's column of maps) is unchanged."""
    there = Path(path).expanduser()
    return os.path.abspath(there) if there.exists() else path
