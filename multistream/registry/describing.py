"""Describes one part for users and plugin authors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from multistream.registry.building import signature, variants
from multistream.registry.catalogue import Part


@dataclass(frozen=True)
class Description:
    """One part: its owner, keyword arguments, variants, and the sources of its weights."""

    name: str
    kind: str
    distribution: str
    version: str
    factory: str
    signature: str
    doc: str
    variants: tuple[str, ...]
    weights: Mapping[str, Mapping[str, Any]]


def describe(part: Part) -> Description:
    """Imports the part's factory and describes it; raises PluginError if that fails."""
    factory = part.resolve()
    sources: Mapping[str, Any] = getattr(factory, "weights", None) or {}
    return Description(
        name=part.name,
        kind=part.kind,
        distribution=part.distribution,
        version=part.version,
        factory=f"{factory.__module__}:{getattr(factory, '__qualname__', repr(factory))}",
        signature=str(signature(part, factory).replace(return_annotation=inspect.Signature.empty)),
        doc=inspect.getdoc(factory) or "",
        variants=variants(factory),
        weights={variant: _fields(source) for variant, source in sources.items()},
    )


def _fields(source: Any) -> Mapping[str, Any]:
    """A source of weights as names and values, without empty fields."""
    if is_dataclass(source) and not isinstance(source, type):
        return {name: value for name, value in asdict(source).items() if value not in (None, "")}
    return {"source": str(source)}
