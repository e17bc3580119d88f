"""Plans: the parts of a network, as data. A model file contains its plan, from which the network is rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from multistream.spec import INSTANCE

Options = Mapping[str, Any]


@dataclass(frozen=True)
class BranchPlan:
    """The plan of one branch: specs and options of its stream, tap and temporal."""

    stream: str
    """The stream's spec without its key; INSTANCE (or "", in older files) if it was passed as an instance."""
    stream_options: Options = field(default_factory=dict)
    tap: str = "gap:64"
    tap_options: Options = field(default_factory=dict)
    temporal: str = "concat"
    temporal_options: Options = field(default_factory=dict)
    depth: int = 0
    """Number of stages that are kept; 0 for all."""
    image_size: int = 0
    """The side of an Image input, in pixels; 0 for the stream's default."""
    known: Options = field(default_factory=dict)
    """Options that come from the data (a Vector's `width` and `vocabulary`), and `Stream.settled`."""

    @property
    def is_instance(self) -> bool:
        """Whether the stream was passed as an instance, which a file cannot hold."""
        return self.stream in ("", INSTANCE)


@dataclass(frozen=True)
class NetworkPlan:
    """The plan of a whole network: its branches by key, its fusion, and the names of its classes."""

    branches: Mapping[str, BranchPlan]
    fusion: str
    fusion_options: Options
    classes: tuple[str, ...]
    label_sets: bool = False
    """Whether an image may have several classes."""

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NetworkPlan:
        """The plan from the output of `to_dict`."""
        branches = {key: BranchPlan(**branch) for key, branch in data["branches"].items()}
        return cls(
            branches,
            data["fusion"],
            data["fusion_options"],
            tuple(data["classes"]),
            bool(data.get("label_sets", False)),
        )
