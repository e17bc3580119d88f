"""Data sets: photos, labels, vectors and maps, from a folder to batches. Imports no torch, for fast start-up."""

from __future__ import annotations

import importlib
from typing import Any

from multistream.hookspecs import Factory, hookimpl

_HOME = {
    "Table": "table",
    "VectorTable": "table",
    "BadImage": "decoding",
    "Decoder": "decoding",
    "open_table": "layouts.data_source",
    "Parts": "splits",
    "split": "splits",
}
"""Public names and the modules that hold them, imported on first use."""

__all__ = [*_HOME]


@hookimpl
def datasets() -> dict[str, Factory]:
    """The layouts of data sets (paper section 4)."""
    return {
        "demo": "multistream.data.demo:demo",
        "emotion6": "multistream.data.layouts.emotion6:emotion6",
        "fi": "multistream.data.layouts.fi:fi",
        "emoset": "multistream.data.layouts.emoset:emoset",
        "emotionroi": "multistream.data.layouts.emotionroi:emotionroi",
        "artphoto": "multistream.data.layouts.artphoto:artphoto",
        "abstract": "multistream.data.layouts.abstract:abstract",
        "webemo": "multistream.data.layouts.webemo:webemo",
        "ldl": "multistream.data.layouts.ldl:ldl",
        "imagefolder": "multistream.data.layouts.imagefolder:imagefolder",
        "parquet": "multistream.data.layouts.parquet:parquet",
        "webdataset": "multistream.data.layouts.webdataset:webdataset",
        "huggingface": "multistream.data.layouts.parquet:huggingface",
    }


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"multistream.data.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
