"""report: measures and checks a run, and writes one self-contained HTML page about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream import runs
from multistream.bootstrap import paired_bootstrap
from multistream.commands import command_line
from multistream.console import Console
from multistream.errors import UsageError
from multistream.files import write_atomic
from multistream.inference.missing import PolicyAccuracy
from multistream.inference.model import Model, load
from multistream.interfaces import Stream
from multistream.nn.modules import evaluating
from multistream.profiling.profile import count_pieces
from multistream.reporting.ablations import read_ablations
from multistream.reporting.charts import ChartRow
from multistream.reporting.checks import ReportCheck, run_checks
from multistream.reporting.gallery_data import GalleryData, gallery_data, select_images
from multistream.reporting.outputs import NetworkOutputs, run_network
from multistream.reporting.page import render_page
from multistream.reporting.planted_cues import CueResult, measure_cues
from multistream.reporting.results import ResultRow, result_table
from multistream.reporting.run_details import RunDetails, read_run_details
from multistream.runs.model_file import require_trained
from multistream.training.folds import is_fold_run

FILE_NAME = "report.html"


@dataclass(frozen=True)
class Report:
    """A written page and its main numbers."""

    path: Path
    bytes: int
    photos: int
    results: Sequence[ResultRow]
    cues: Sequence[CueResult]
    """The attributions of the planted cues; empty unless the data is the demo set."""
    checks: Sequence[ReportCheck]

    def to_dict(self) -> dict[str, Any]:
        """Returns the object of `report --json`."""
        checks = [{**asdict(check), "passed": check.passed} for check in self.checks]
        return {**asdict(self), "path": str(self.path), "checks": checks}


def report(
    run: str | PathLike[str],
    *,
    photos: int = 24,
    against: Sequence[str | PathLike[str]] = (),
    out: str | Path | None = None,
    streams: Mapping[str, Stream] | None = None,
    device: str = "auto",
    precision: str = "auto",
    console: Console | None = None,
) -> Report:
    """Writes RUN/report.html, or `out`. The same run always gives the same page, byte for byte.

    `photos` images of the test split are explained; with 0 no image is read, so the data set is not needed. `against`
    are other runs with the same test split, for comparison. `streams` are the streams that were given as instances.
    Raises DataError for a run without a test split and for missing images, UsageError for runs that cannot be compared.
    """
    if photos < 0:
        raise UsageError("--photos", f"{photos} is negative.", right="0: do not read any images.")
    _refuse_folds(Path(run))
    model = load(run, streams=streams)
    require_trained(model, "report")
    details = read_run_details(model.path.parent, model.path)
    path = Path(out).expanduser() if out else details.folder / FILE_NAME
    if path.is_dir():
        raise UsageError("--out", f"{path} is a folder.", right="Pass the path of the file to write.")
    ablations = read_ablations(details.folder)
    with evaluating(model.network):
        costs = count_pieces(model.network.cpu())
    seen = _ReportMeasurements()
    if photos:
        seen = _measure(
            model, details, photos=photos, device=device, precision=precision, console=console or Console(quiet=True)
        )
    results = result_table(details, streams=seen.streams, masked=seen.masked, against=against)
    checks = run_checks(details, seen.outputs, seen.gallery)
    page = render_page(
        run=details,
        results=results,
        ablations=ablations,
        costs=costs,
        gallery=seen.gallery,
        stream_values=seen.stream_values,
        cues=seen.cues,
        checks=checks,
        missing=seen.missing,
        policies=seen.policies,
    )
    content = page.encode("utf-8", "backslashreplace")  # file names may contain bytes that are not valid UTF-8
    write_atomic(path, content)
    shown = len(seen.gallery.content["photos"]) if seen.gallery else 0
    return Report(path, len(content), shown, results.rows, seen.cues, checks)


def _refuse_folds(run: Path) -> None:
    """Raises UsageError for a run on folds, which has no single model."""
    if is_fold_run(run):
        first = min((run / runs.FOLDS).iterdir(), default=run / runs.FOLDS)
        what = "this run consists of folds and has no single model."
        raise UsageError(run, what, do=f"Report one of its folds: {command_line('report', first)}")


@dataclass(frozen=True)
class _ReportMeasurements:
    """The measurements on the test split; empty if no image is read."""

    outputs: NetworkOutputs | None = None
    gallery: GalleryData | None = None
    cues: Sequence[CueResult] = ()
    streams: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """The probabilities {key: (N, K)} of the streams' own classifiers."""
    masked: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """The probabilities {key: (N, K)} with all other streams at their training mean."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """The number of images without a stream's input, by the stream's key."""
    policies: Mapping[str, PolicyAccuracy] = field(default_factory=dict)
    """The accuracy with each policy for missing streams; empty if no stream is missing."""
    stream_values: Sequence[ChartRow] = ()
    """The mean Shapley value of each stream for the logit of the true class (or classes); empty for one stream."""


def _measure(
    model: Model, details: RunDetails, *, photos: int, device: str, precision: str, console: Console
) -> _ReportMeasurements:
    """Runs the network on the test split and explains `photos` of its images."""
    predictions = details.result.predictions
    outputs = run_network(model, predictions, details.rows, device=device, precision=precision, console=console)
    gallery = gallery_data(outputs, select_images(predictions, photos=photos))
    cues = measure_cues(outputs) if not model.recipe.data.source else []
    return _ReportMeasurements(
        outputs,
        gallery,
        cues,
        streams=outputs.streams,
        masked=outputs.masked,
        missing=outputs.missing,
        policies=outputs.policies,
        stream_values=_stream_values(outputs),
    )


def _stream_values(outputs: NetworkOutputs) -> list[ChartRow]:
    if len(keys := list(outputs.model.network.branches)) < 2:
        return []
    labels = outputs.labels[:, :, None]
    values = (outputs.attribution().streams.cpu().numpy() * labels).sum(1) / labels.sum(1)
    return [ChartRow(key, float(v.mean()), paired_bootstrap(v)) for key, v in zip(keys, values.T, strict=True)]
