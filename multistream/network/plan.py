"""Plans: what a network is made of, as data. A model file holds its plan, so that it can be composed again anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from multistream.spec import INSTANCE

Options = Mapping[str, Any]


@dataclass(frozen=True)
class BranchPlan:
    """How one branch is built: specs and options of its stream, tap and temporal."""

    stream: str
    """The stream's spec without its key; INSTANCE (or empty, in older files) for one that was given as an instance."""
    stream_options: Options = field(default_factory=dict)
    tap: str = "gap:64"
    tap_options: Options = field(default_factory=dict)
    temporal: str = "concat"
    temporal_options: Options = field(default_factory=dict)
    depth: int = 0
    """Stages kept; 0 for all."""
    image_size: int = 0
    """The side of an Image input; 0 for the stream's own."""
    known: Options = field(default_factory=dict)
    """What is known of the stream's input from the data (a Vector's `width` and `vocabulary`), and `Stream.settled`."""

    @property
    def is_instance(self) -> bool:
        """Whether the stream was given as an instance, which no file can hold."""
        return self.stream in ("", INSTANCE)


@dataclass(frozen=True)
class NetworkPlan:
    """How a whole network is built: its branches by key, its fusion, and the names of its classes."""

    branches: Mapping[str, BranchPlan]
    fusion: str
    fusion_options: Options
    classes: tuple[str, ...]
    label_sets: bool = False
    """Whether an image may have several classes."""

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-able data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NetworkPlan:
        """The plan that `to_dict` wrote."""
        branches = {key: BranchPlan(**branch) for key, branch in data["branches"].items()}
        return cls(
            branches,
            data["fusion"],
            data["fusion_options"],
            tuple(data["classes"]),
            bool(data.get("label_sets", False)),
        )
