"""Plugin hooks for streams, taps, temporal modules, fusions, losses and data sets.

A hook takes no arguments and returns `{name: factory}`. A factory is the class, a function, or `"module:attribute"`,
which is imported when the part is first used. The built-in parts use the same hooks (multistream.parts).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pluggy

API_VERSION = 1
"""Version of these hooks; a plugin module may state the one it was written for as `MULTISTREAM_API = 1`."""

Factory = str | Callable[..., Any]

hookspec = pluggy.HookspecMarker("multistream")
hookimpl = pluggy.HookimplMarker("multistream")


@hookspec
def streams() -> Mapping[str, Factory]:  # type: ignore[empty-body]
    """Streams: factories of `multistream.Stream`."""


@hookspec
def taps() -> Mapping[str, Factory]:  # type: ignore[empty-body]
    """Taps: factories of `multistream.Tap`, called with the map's channels and `width`."""


@hookspec
def temporals() -> Mapping[str, Factory]:  # type: ignore[empty-body]
    """Temporals: factories of `multistream.Temporal`, called with the tokens' width and `steps`."""


@hookspec
def fusions() -> Mapping[str, Factory]:  # type: ignore[empty-body]
    """Fusions: factories of `multistream.Fusion`, called with the branches' widths, `classes` and `heads`."""


@hookspec
def losses() -> Mapping[str, Factory]:  # type: ignore[empty-body]
    """Losses: factories of `multistream.Loss`, called with `weights`, `label_smoothing` and `counts` by name."""


@hookspec
def datasets() -> Mapping[str, Factory]:  # type: ignore[empty-body]
    """Data set layouts: functions of a path that return a `multistream.data.Table`."""
