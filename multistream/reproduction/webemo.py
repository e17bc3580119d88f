"""Tests of FI runs on WebEMO by four protocols. The paper does not say how it maps FI's 8 classes to WebEMO's 7.

- strict: all photos of the 7 classes; photos of classes that the run does not know (love, confusion) count as wrong;
- reachable: without the photos of those classes;
- polarity: positive or negative;
- linear probe: a linear classifier on the run's frozen streams, fitted to WebEMO on 5 folds and tested out of fold.

Probabilities are summed by a class map (`multistream.inference.class_maps`). Awe can be mapped to surprise or joy: both
are measured. Each accuracy is reported with that of always predicting the most frequent class.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from multistream.bootstrap import Interval
from multistream.console import Console
from multistream.data.layouts.data_source import open_table
from multistream.errors import UsageError
from multistream.inference.class_maps import SHIPPED
from multistream.inference.evaluate import evaluate
from multistream.inference.metrics import Metrics
from multistream.recipe import Recipe
from multistream.records import JsonRecord, plain
from multistream.runs import folder_of
from multistream.runs.model_file import model_file, read_metadata
from multistream.training.folds import train_folds

MAPS = {"awe as surprise": "fi-webemo7", "awe as joy": "fi-webemo7-awe-joy"}
FOLDS = 5
"""The number of folds of the linear probe, which does not need a training split in WebEMO's release."""
PUBLISHED: Mapping[tuple[str, ...], float] = {("object",): 0.4645, ("places",): 0.4225}
"""The published accuracies by the streams of a run trained on FI; the paper does not name the protocol."""


@dataclass(frozen=True)
class ProtocolResult(JsonRecord):
    """One protocol's accuracy on n photos, and the accuracy of always predicting the most frequent class."""

    protocol: str
    accuracy: float
    accuracy_ci95: Interval
    majority: float
    n: int


@dataclass(frozen=True)
class WebEmoResult(JsonRecord):
    """A run's results by all protocols; `published` is the paper's accuracy for a run of these streams."""

    run: str
    rows: tuple[ProtocolResult, ...]
    published: float | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the object of `evaluate --protocols --json`."""
        return {"run": self.run, "protocols": plain(self.rows), "published": self.published}


def webemo_protocols(
    run: str | Path,
    data: str,
    *,
    inputs: Mapping[str, str] | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> WebEmoResult:
    """Measures a run with some or all of FI's classes on WebEMO (`webemo:PATH`) by all protocols.

    Photos that the run was trained on are left out. Raises UsageError for another layout and for a run without any of
    FI's classes, and the errors of `evaluate` and `train`.
    """
    console = console or Console(quiet=True)
    if data.partition(":")[0] != "webemo":
        raise UsageError("--protocols", f"they are WebEMO's, and the data are {data!r}.", right="--data webemo:PATH.")
    folder = folder_of(Path(run).expanduser())
    common: dict[str, Any] = {"data": data, "inputs": inputs, "device": device, "console": console}
    rows: list[ProtocolResult] = []
    with TemporaryDirectory(prefix="multistream-webemo-") as temporary:
        for name, shipped in MAPS.items():
            evaluation = evaluate(run, class_map=_own_part(run, data, shipped, Path(temporary)), **common)
            rows.append(_row(f"strict, {name}", evaluation.metrics))
            if evaluation.reachable:
                rows.append(_row(f"reachable, {name}", evaluation.reachable))
        polarity = _own_part(run, data, "fi-polarity", Path(temporary), label="2")
        rows.append(_row("polarity", evaluate(run, label="2", class_map=polarity, **common).metrics))
        recipe = _probe_recipe(folder, data, inputs, device)
        probe = train_folds(recipe, out=Path(temporary, "probe"), console=console)
        rows.append(_row("linear probe", probe.test))
    return WebEmoResult(str(run), tuple(rows), PUBLISHED.get(tuple(recipe.network.streams)))


def _row(protocol: str, found: Any) -> ProtocolResult:
    assert isinstance(found, Metrics)
    return ProtocolResult(protocol, found.accuracy, found.accuracy_ci95, found.majority, found.n)


def _own_part(run: str | Path, data: str, shipped: str, folder: Path, *, label: str = "") -> str:
    """Writes the part of a shipped class map with classes of both the run and the photos; returns the file's path."""
    classes, data_classes = (
        read_metadata(model_file(Path(run).expanduser())).plan.classes,
        open_table(data, label=label).classes,
    )
    mapping = {name: SHIPPED[shipped][name] for name in classes if SHIPPED[shipped].get(name) in data_classes}
    if not mapping:
        right = f"It must know some of {', '.join(SHIPPED[shipped])}."
        raise UsageError("--protocols", f"the run knows {', '.join(classes)}.", right=right)
    file = folder / f"{shipped}.json"
    file.write_text(json.dumps(mapping), encoding="utf-8")
    return str(file)


def _probe_recipe(run: Path, data: str, inputs: Mapping[str, str] | None, device: str) -> Recipe:
    """Returns the recipe of a linear classifier on the pooled features of the run's streams, on folds of the photos."""
    recipe = Recipe.load(run)
    return recipe.updated(
        {
            "data": {"source": data, "label": "", "folds": FOLDS, "repeats": 1, "fold": 0, "groups": ""},
            "network": {
                "weights": dict.fromkeys(recipe.network.streams, str(run)),
                "inputs": dict(inputs or {}),
                "freeze": ["streams"],
                "temporal": "concat",
                "fusion": "early",
            },
            "training": {"solver": "lbfgs", "calibration": "none", "loss": "cross_entropy", "flips": []},
            "runtime": {"device": device},
        }
    )
