"""The page: one template with inline style and script, and a Content-Security-Policy that allows nothing else."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from multistream.bootstrap import Interval
from multistream.commands import command_line
from multistream.inference.metrics import Measures
from multistream.inference.missing import POLICIES, PolicyAccuracy
from multistream.label_set_metrics import LabelSetMetrics
from multistream.reporting import charts
from multistream.reporting.ablations import AblationFile
from multistream.reporting.checks import ReportCheck
from multistream.reporting.gallery_data import GalleryData
from multistream.reporting.planted_cues import CueResult
from multistream.reporting.results import ResultRow, ResultTable, calibration_bins
from multistream.reporting.run_details import EPOCH_COLUMNS, SPLITS, RunDetails
from multistream.vote_distances import VOTE_MEASURES

LARGEST_MATRIX = 40
"""The largest number of classes with a confusion matrix; with more, the most frequent errors are listed instead."""


def render_page(
    *,
    run: RunDetails,
    results: ResultTable,
    ablations: Sequence[AblationFile],
    costs: Mapping[tuple[str, str], Any],
    gallery: GalleryData | None,
    stream_values: Sequence[charts.ChartRow],
    cues: Sequence[CueResult],
    checks: Sequence[ReportCheck],
    missing: Mapping[str, int],
    policies: Mapping[str, PolicyAccuracy],
) -> str:
    """Renders the whole page as HTML."""
    style, script = _template_file("report.css"), _template_file("report.js")
    has_sets = isinstance(run.metrics, LabelSetMetrics)
    right = "exact match" if has_sets else "accuracy"
    bins = [] if has_sets else calibration_bins(run.result.predictions)
    return str(
        environment()
        .get_template("report.html")
        .render(
            run=run,
            recipe=run.result.recipe,
            metrics=run.metrics,
            has_sets=has_sets,
            odds=math.exp(1 / run.temperature),
            right=right,
            vote_measures=VOTE_MEASURES,
            results=results,
            bins=bins,
            errors=_frequent_errors(run.metrics),
            ablations=ablations,
            costs=costs,
            gallery=gallery,
            stream_values=stream_values,
            cues=cues,
            checks=checks,
            missing=missing,
            policies={POLICIES[name]: found for name, found in policies.items()},
            SPLITS=SPLITS,
            EPOCH_COLUMNS=EPOCH_COLUMNS,
            accuracy_chart=_accuracy_chart(results.rows, right),
            reliability_chart=charts.reliability_chart(bins) if bins else Markup(""),
            learning_charts=_learning_charts(run),
            stream_chart=_value_chart(stream_values, "Mean Shapley values", "logits", digits=2),
            ablation_charts=[_ablation_charts(each) for each in ablations],
            style=Markup(style),
            style_hash=_csp_hash(style),
            script=Markup(script),
            script_hash=_csp_hash(script),
        )
        .lstrip()
    )


@cache
def environment() -> Environment:
    """Returns the environment of the templates: every value is escaped, and an undefined name is an error."""
    environment = Environment(
        loader=PackageLoader("multistream.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.globals["command"] = command_line
    environment.filters |= {
        "percent": percent,
        "percent_interval": percent_interval,
        "interval": plain_interval,
        "signed": signed,
        "p_value": p_value,
        "minus": true_minus,
    }
    return environment


def _template_file(name: str) -> str:
    return (files("multistream.reporting") / "templates" / name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    """Returns the hash by which a Content-Security-Policy identifies an inline script or style."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _accuracy_chart(rows: Sequence[ResultRow], right: str) -> Markup:
    entries = [charts.ChartRow(row.name, row.accuracy, row.ci95, highlighted=row.p_value is None) for row in rows]
    return charts.dot_chart(
        entries, title=right.capitalize(), xlabel=f"{right} on the test split, %", write=percent, limits=(0, 1)
    )


def _value_chart(rows: Sequence[charts.ChartRow], title: str, xlabel: str, *, digits: int) -> Markup:
    """Draws signed values around zero; an empty string if there are none."""
    if not rows:
        return Markup("")
    return charts.dot_chart(rows, title=title, xlabel=xlabel, write=lambda v: signed(v, digits), reference=0)


def _learning_charts(run: RunDetails) -> list[Markup]:
    """Draws the recorded losses, and the validation accuracy if it was recorded."""
    curves = {
        column: charts.Curve(name.partition(" ")[0], points, highlighted=column != "train_loss")
        for column, name in EPOCH_COLUMNS.items()
        if (points := [(int(line["epoch"]), line[column]) for line in run.epochs if column in line])
    }
    made = []
    if losses := [curves[name] for name in ("train_loss", "val_loss") if name in curves]:
        made.append(charts.curve_chart(losses, ylabel="loss", best=run.best_epoch))
    if accuracy := curves.get("val_accuracy"):
        made.append(charts.curve_chart([accuracy], ylabel="validation accuracy, %", best=run.best_epoch, fraction=True))
    return made


def _ablation_charts(ablation: AblationFile) -> dict[str, Markup]:
    """Draws the Pareto chart and the taps' Shapley values; an empty string for those that the file does not have."""
    metric = ablation.metric.title
    points = [
        charts.CostPoint(row.name, row.macs, row.score, row.score_ci95, row.rank)
        for row in ablation.rows
        if row.macs is not None
    ]
    taps = [
        charts.ChartRow(
            f"{tap.stream} {tap.stage}", 100 * tap.value, _around(100 * tap.value, 100 * (tap.deviation or 0))
        )
        for tap in ablation.taps
    ]
    return {
        "pareto": charts.pareto_chart(points, metric=metric)
        if sum(p.rank is not None for p in points) > 1
        else Markup(""),
        "taps": _value_chart(taps, "Shapley values of the taps", f"percentage points of {metric}", digits=1),
    }


def _around(value: float, deviation: float) -> Interval | None:
    return (value - deviation, value + deviation) if deviation else None


def _frequent_errors(found: Measures, *, most: int = 30) -> list[tuple[int, str, str]]:
    """Lists the most frequent errors (count, true class, predicted class) of a confusion matrix too large to show."""
    if isinstance(found, LabelSetMetrics) or len(found.classes) <= LARGEST_MATRIX:
        return []
    cells = [
        (n, label, predicted)
        for label, counts in zip(found.classes, found.confusion, strict=True)
        for predicted, n in zip(found.classes, counts, strict=True)
        if n and predicted != label
    ]
    return sorted(cells, key=lambda cell: (-cell[0], cell[1:]))[:most]


def percent(fraction: float, digits: int = 1) -> str:
    """Formats a fraction in percent.

    >>> percent(0.643)
    '64.3 %'
    """
    return f"{100 * fraction:.{digits}f} %"


def percent_interval(ends: Interval, digits: int = 1) -> str:
    """Formats the interval of a fraction in percent.

    >>> percent_interval((0.6266, 0.6591))
    '62.7 to 65.9'
    """
    return plain_interval((100 * ends[0], 100 * ends[1]), digits)


def plain_interval(ends: Interval, digits: int = 3) -> str:
    """Formats an interval with the minus sign."""
    return true_minus(f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}")


def signed(value: float, digits: int = 3) -> str:
    """Formats a number with its sign.

    >>> signed(-0.25, 2), signed(0.001, 2)
    ('−0.25', '0.00')
    """
    text = f"{value:+.{digits}f}"
    return true_minus(text[1:] if float(text) == 0 else text)


def p_value(p: float) -> str:
    """Formats a p-value as in papers.

    >>> p_value(0.0386), p_value(1e-9)
    ('0.039', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def true_minus(text: str) -> str:
    """Replaces hyphens by minus signs."""
    return text.replace("-", "−")
