"""Compose, train and dissect image classifiers made of several streams.

Names are imported on first use: `import multistream` alone does not import torch, so that the command line starts fast
and a plugin's hook module loads fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from multistream._version import __version__ as __version__

if TYPE_CHECKING:
    from multistream.ablation import ablate as ablate
    from multistream.comparison.compare import compare as compare
    from multistream.data.maps import read_map as read_map
    from multistream.errors import MultistreamError as MultistreamError
    from multistream.explaining import explain as explain
    from multistream.features.fill_cache import extract as extract
    from multistream.hookspecs import hookimpl as hookimpl
    from multistream.inference.evaluate import evaluate as evaluate
    from multistream.inference.model import Model as Model
    from multistream.inference.model import load as load
    from multistream.inference.onnx_export import export as export
    from multistream.inputs import Image as Image
    from multistream.inputs import Map as Map
    from multistream.inputs import Vector as Vector
    from multistream.interfaces import Fusion as Fusion
    from multistream.interfaces import FusionOutput as FusionOutput
    from multistream.interfaces import Loss as Loss
    from multistream.interfaces import Stream as Stream
    from multistream.interfaces import Tap as Tap
    from multistream.interfaces import Temporal as Temporal
    from multistream.network.network import MultiStream as MultiStream
    from multistream.profiling.profile import profile as profile
    from multistream.recipe import Recipe as Recipe
    from multistream.registry import datasets as datasets
    from multistream.registry import fusions as fusions
    from multistream.registry import losses as losses
    from multistream.registry import streams as streams
    from multistream.registry import taps as taps
    from multistream.registry import temporals as temporals
    from multistream.reporting import report as report
    from multistream.runs.composition import compose as compose
    from multistream.training.folds import train as train
    from multistream.weights import Source as Source


_WHERE = {
    "ablate": "ablation",
    "compare": "comparison.compare",
    "compose": "runs.composition",
    "read_map": "data.maps",
    "evaluate": "inference.evaluate",
    "MultistreamError": "errors",
    "extract": "features.fill_cache",
    "explain": "explaining",
    "hookimpl": "hookspecs",
    "Image": "inputs",
    "Map": "inputs",
    "Vector": "inputs",
    "Fusion": "interfaces",
    "FusionOutput": "interfaces",
    "Loss": "interfaces",
    "Stream": "interfaces",
    "Tap": "interfaces",
    "Temporal": "interfaces",
    "Model": "inference.model",
    "load": "inference.model",
    "export": "inference.onnx_export",
    "MultiStream": "network.network",
    "profile": "profiling.profile",
    "Recipe": "recipe",
    "datasets": "registry",
    "fusions": "registry",
    "losses": "registry",
    "streams": "registry",
    "taps": "registry",
    "temporals": "registry",
    "report": "reporting",
    "train": "training.folds",
    "Source": "weights",
}

_ROOMS = ("batch",)
"""Subpackages that are public as a whole: `multistream.batch.Predictor`."""

__all__ = ["__version__", *_WHERE, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"multistream.{name}")
    if name not in _WHERE:
        raise AttributeError(f"module 'multistream' has no attribute {name!r}. It has {', '.join(__all__)}.")
    value = getattr(import_module(f"multistream.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
