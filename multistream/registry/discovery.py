"""Which plugins there are: the entry points of all installed distributions, read without importing any of them.

An entry point of group `multistream` is one line a part: the part's name, and the module whose hooks offer it.
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
"""Distributions of this project: `multistream` brings all, and the three plugins can be installed alone."""
DISABLED = "MULTISTREAM_DISABLED_PLUGINS"


@dataclass(frozen=True)
class Claim:
    """A distribution's entry point: it says that `module` offers a part of this `name`."""

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
        """Whether the part is one that multistream itself brings."""
        return normalised(self.distribution) in OURS


def discover(*, refresh: bool = False) -> tuple[Claim, ...]:
    """All claims of all installed distributions, sorted by name and distribution; read once a process.

    `refresh` reads again, and forgets what was loaded (for tests, and after an installation in a living process).
    MULTISTREAM_DISABLED_PLUGINS names distributions, by commas, whose plugins stay out; `all` means all but our own.
    """
    if refresh:
        importlib.invalidate_caches()
        forget()
    return _claims()


def forget() -> None:
    """Forgets all that was discovered or loaded in this process."""
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
    """The distributions, in normal form, that the environment switches off; warns of one that is not installed."""
    asked = [normalised(word) for word in os.environ.get(DISABLED, "").split(",") if word.strip()]
    if "all" in asked:
        return frozenset(installed) - {normalised(GROUP)} | frozenset(asked)
    for word in asked:
        if word not in installed:
            known = did_you_mean(word, installed.values())
            warnings.warn(f"{DISABLED}: no installed plugin is of a distribution {word!r}. {known}", stacklevel=2)
    return frozenset(asked)


def normalised(distribution: str) -> str:
    """A distribution's name as packaging compares it: `Multistream_Sketch` is `multistream-sketch`."""
    return re.sub(r"[-_.]+", "-", distribution.strip()).lower()
