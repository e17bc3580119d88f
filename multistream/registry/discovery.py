"""Discovery of plugins: the entry points of all installed distributions, read without importing them.

An entry point of group `multistream` is one line per part: the part's name, and the module whose hooks offer it.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from multistream.errors import did_you_mean

GROUP = "multistream"
OURS = frozenset({"multistream", "multistream-object", "multistream-places", "multistream-anp"})
"""Distributions of this project: `multistream` includes all parts, and the three plugins can be installed alone."""
DISABLED = "MULTISTREAM_DISABLED_PLUGINS"


@dataclass(frozen=True)
class Claim:
    """A distribution's entry point, which declares that `module` offers a part of this `name`."""

    name: str
    module: str
    distribution: str
    version: str
    disabled: bool = False

    @property
    def owner(self) -> str:
        """Distribution and version, for messages."""
        return f"{self.distribution} {self.version}"

    @property
    def is_ours(self) -> bool:
        """Whether the part is from a distribution of this project."""
        return normalised(self.distribution) in OURS


def discover(*, refresh: bool = False) -> tuple[Claim, ...]:
    """All claims of all installed distributions, sorted by name and distribution; read once per process.

    `refresh` reads them again and clears loaded plugins (for tests, and after an installation in a running process).
    MULTISTREAM_DISABLED_PLUGINS lists distributions, separated by commas, whose plugins are disabled; `all` means all
    but `multistream`.
    """
    if refresh:
        importlib.invalidate_caches()
        forget()
    return _claims()


def forget() -> None:
    """Clears the caches of discovered claims and loaded plugins."""
    from multistream.registry import loading

    _claims.cache_clear()
    loading.load.cache_clear()


@functools.cache
def _claims() -> tuple[Claim, ...]:
    entries = [(entry, entry.dist) for entry in metadata.entry_points(group=GROUP) if entry.dist is not None]
    disabled = _disabled({normalised(dist.name): dist.name for _, dist in entries})
    claims = [
        Claim(entry.name, entry.value, dist.name, dist.version, disabled=normalised(dist.name) in disabled)
        for entry, dist in entries
    ]
    return tuple(sorted(claims, key=lambda claim: (claim.name, normalised(claim.distribution))))


def _disabled(installed: Mapping[str, str]) -> frozenset[str]:
    """The disabled distributions, with normalised names; warns about names that are not installed."""
    asked = [normalised(word) for word in os.environ.get(DISABLED, "").split(",") if word.strip()]
    if "all" in asked:
        return frozenset(installed) - {normalised(GROUP)} | frozenset(asked)
    for word in asked:
        if word not in installed:
            known = did_you_mean(word, installed.values())
            warnings.warn(f"{DISABLED}: no installed plugin is of a distribution {word!r}. {known}", stacklevel=2)
    return frozenset(asked)


def normalised(distribution: str) -> str:
    """A distribution's name, normalised as in Python packaging: `Multistream_Sketch` -> `multistream-sketch`."""
    return re.sub(r"[-_.]+", "-", distribution.strip()).lower()
