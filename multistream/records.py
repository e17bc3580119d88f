"""Results as frozen dataclasses that convert to JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any


class JsonRecord:
    """Base class of dataclasses with JSON fields: numbers, texts, paths, and mappings, tuples and records of these."""

    def to_dict(self) -> dict[str, Any]:
        """The dictionary that `--json` prints: the fields by name, tuples as lists and paths as texts."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}  # type: ignore[arg-type]  # see above


def plain(value: Any) -> Any:
    """A field's value as JSON data.

    >>> plain({"range": (0, 1), "run": Path("runs/a")})
    {'range': [0, 1], 'run': 'runs/a'}
    """
    if isinstance(value, JsonRecord):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, tuple | list):
        return [plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
