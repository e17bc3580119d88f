"""What a run was trained on, by what, and how it went: all that its folder tells without a network."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from multistream import runs
from multistream._version import __version__
from multistream.comparison.run_results import Result, read_result
from multistream.files import sha256_file
from multistream.inference.metrics import Metrics, metrics
from multistream.runs.model_file import read_about
from multistream.runs.split_file import SplitRow, read_split, shared_between_parts

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Facts:
    """A run as its folder tells it; `metrics` are of its own test part."""

    folder: Path
    result: Result
    metrics: Metrics
    classes: tuple[str, ...]
    rows: tuple[SplitRow, ...]
    """split.csv"""
    split_sha256: str
    """Of split.csv: it holds every photo's own hash, so it stands for the data and for who saw what."""
    model_sha256: str
    """Of the model file: whether two people speak of the same weights."""
    epochs: Sequence[Mapping[str, float]]
    """metrics.jsonl"""
    summary: Mapping[str, Any]
    versions: Mapping[str, str]
    """Of what the run needs, and of what made the page."""

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """{class: {part: photos}}"""
        found = Counter((row.label, row.part) for row in self.rows)
        return {name: {part: found[name, part] for part in PARTS} for name in self.classes}

    @property
    def shared(self) -> tuple[str, ...]:
        """A note if the same file lies in two parts."""
        return shared_between_parts(self.rows)

    @property
    def title(self) -> str:
        """The streams and how they are fused."""
        keys = list(self.result.recipe.network.streams) or ["instances"]
        return f"{' + '.join(keys)}, {self.result.recipe.network.fusion} fusion" if len(keys) > 1 else keys[0]


def read_facts(folder: Path, model_file: Path) -> Facts:
    """Reads a finished run's folder; a run without a test part is a DataError, for there is nothing to report."""
    result = read_result(folder)
    about = read_about(model_file)
    found = result.predictions
    place = {name: k for k, name in enumerate(found.classes)}
    labels = np.array([place[name] for name in found.labels or ()], dtype=np.int64)
    log = folder / runs.METRICS
    return Facts(
        folder=folder,
        result=result,
        metrics=metrics(found.probabilities, labels, found.classes),
        classes=found.classes,
        rows=read_split(folder / runs.SPLIT),
        split_sha256=sha256_file(folder / runs.SPLIT),
        model_sha256=sha256_file(model_file),
        epochs=runs.read_lines(log) if log.is_file() else [],
        summary=runs.read_summary(folder),
        versions={**about["distributions"], **_here()},
    )


def _here() -> dict[str, str]:
    names = ("torch", "torchvision", "timm", "numpy", "Pillow")
    return {"multistream": __version__, **{name: version(name) for name in names}, "Python": platform.python_version()}
