"""Weight files: reads all supported formats, and loads tensors into a stream.

Modules are imported at first use: `Source` does not need torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multistream.weights.files import WeightFile as WeightFile
    from multistream.weights.files import read_tensors as read_tensors
    from multistream.weights.fitting import Fitted as Fitted
    from multistream.weights.fitting import fit as fit
    from multistream.weights.hub import from_hub as from_hub
    from multistream.weights.inspection import Inspection as Inspection
    from multistream.weights.inspection import convert as convert
    from multistream.weights.inspection import inspect as inspect
    from multistream.weights.renaming import caffe_vgg16 as caffe_vgg16
    from multistream.weights.renaming import match_by_order as match_by_order
    from multistream.weights.renaming import to_names as to_names
    from multistream.weights.source import Source as Source

_WHERE = {
    "convert": "inspection",
    "Fitted": "fitting",
    "fit": "fitting",
    "from_hub": "hub",
    "Inspection": "inspection",
    "inspect": "inspection",
    "WeightFile": "files",
    "read_tensors": "files",
    "caffe_vgg16": "renaming",
    "match_by_order": "renaming",
    "to_names": "renaming",
    "Source": "source",
}

__all__ = [*_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'multistream.weights' has no attribute {name!r}.")
    value = getattr(import_module(f"multistream.weights.{_WHERE[name]}"), name)
    globals()[name] = value
    return value
