"""The recipe of a command: a base recipe, the options that were given, and --set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from multistream.cli.options import pairs
from multistream.errors import UsageError
from multistream.recipe import Recipe
from multistream.spec import parse_specs

NOT_GIVEN: tuple[Any, ...] = ("", None, {}, [])


def check_run_or_streams(command: str, run: Path | None, streams: str, recipe: str) -> None:
    """Refuses neither and both of RUN and --streams or --recipe."""
    if (run is None) == (not streams and not recipe):
        raise UsageError(command, "give a RUN, or --streams or --recipe.", right="Give exactly one of them.")


def with_options(
    recipe: Recipe, options: Mapping[str, Mapping[str, Any]], settings: Sequence[str] | None = None
) -> Recipe:
    """The recipe with a command's options by section, then with --set; options that were not given change nothing."""
    given = {
        section: {name: value for name, value in values.items() if value not in NOT_GIVEN}
        for section, values in options.items()
    }
    changed = recipe.updated({section: values for section, values in given.items() if values})
    return changed.with_settings(settings or [])


def network_options(
    streams: str,
    *,
    weights: Sequence[str] | None = None,
    inputs: Sequence[str] | None = None,
    freeze: str = "",
    **parts: str,
) -> dict[str, Any]:
    """The section `network` from --streams, --weights, --input, --freeze, and the names of tap, temporal and fusion."""
    return {
        "streams": {spec.key: spec.part for spec in parse_specs(streams)} if streams else {},
        "weights": pairs(weights, "--weights"),
        "inputs": pairs(inputs, "--input"),
        "freeze": freeze.split(",") if freeze else [],
        **parts,
    }
