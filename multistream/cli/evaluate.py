"""multistream evaluate"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multistream.cli import options, output
from multistream.errors import UsageError
from multistream.figures import save_figure

if TYPE_CHECKING:
    from multistream.bootstrap import Interval
    from multistream.inference.evaluate import Evaluation
    from multistream.inference.metrics import Measures, Metrics
    from multistream.label_set_metrics import LabelSetMetrics
    from multistream.reproduction.webemo import WebEmoResult


LabelledPhotos = Annotated[
    str, typer.Option("--data", metavar="PATH", help="Labelled data set to evaluate on. Default: the run's test split.")
]
Part = Annotated[
    str,
    typer.Option(
        metavar="train|val|test|all", help="Split to evaluate. Default: the run's test split, or all of --data."
    ),
]
ClassMap = Annotated[
    str,
    typer.Option(
        metavar="FILE|NAME",
        help="File, or name of a built-in mapping (fi-webemo7, fi-polarity, ...), that maps the run's "
        "classes to those of the data set.",
    ),
]
Protocols = Annotated[
    bool,
    typer.Option(
        "--protocols",
        help="Evaluate with the four WebEMO protocols instead: strict, reachable classes, polarity and linear probe "
        "(--data webemo:PATH).",
    ),
]
PredictionsFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the predictions to a CSV file.")]


def evaluate(
    run: options.Run,
    data: LabelledPhotos = "",
    part: Part = "",
    label: options.Label = "",
    class_map: ClassMap = "",
    protocols: Protocols = False,
    input: options.Inputs = None,
    missing: options.Missing = "",
    without: options.Without = None,
    predictions: PredictionsFile = None,
    plot: options.Plot = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Evaluate a run: accuracy with a 95 % confidence interval, per-class metrics, calibration."""
    from multistream.console import Console
    from multistream.inference.evaluate import evaluate as measure

    inputs, console = options.pairs(input, "--input"), Console(quiet=quiet)
    if protocols:
        from multistream.reproduction.webemo import webemo_protocols

        by_protocol = webemo_protocols(run, data, inputs=inputs, device=device, console=console)
        output.print_result(by_protocol, protocols_text, json=json)
        return
    result = measure(
        run,
        data=data,
        part=part,
        label=label,
        class_map=class_map,
        inputs=inputs,
        missing=missing,
        without=without or (),
        predictions=predictions,
        device=device,
        precision=precision,
        console=console,
    )
    if plot is not None:
        _save_confusion(result.metrics, plot)
    output.print_result(result, evaluation_text, json=json)


def _save_confusion(metrics: Measures, plot: Path) -> None:
    from multistream.inference.confusion_figure import draw_confusion
    from multistream.inference.metrics import Metrics

    if not isinstance(metrics, Metrics):
        what = "a confusion matrix needs one label per image, and these may have several."
        raise UsageError("--plot", what, do="Omit it.")
    save_figure(draw_confusion(metrics.confusion, metrics.classes), plot)


def protocols_text(result: WebEmoResult) -> str:
    """Formats the results of WebEMO's protocols, one line each."""
    lines = [f"{'protocol':28} {'accuracy':>10} {'95 %':>16} {'most frequent':>14} {'n':>8}"]
    for row in result.rows:
        numbers = f"{100 * row.accuracy:8.2f} % {_interval(row.accuracy_ci95):>16} {100 * row.majority:12.2f} %"
        lines.append(f"{row.protocol:28} {numbers} {row.n:8,}")
    if result.published is not None:
        lines.append(f"published (FI to WebEMO, 7 classes): {100 * result.published:.2f} %")
    return "\n".join(lines)


def evaluation_text(result: Evaluation) -> str:
    """Formats the metrics, those without unreachable classes, and the accuracies by policy for missing streams."""
    texts = [table(result.metrics)]
    if result.reachable:
        unreachable = ", ".join(result.unreachable)
        texts += [f"without {unreachable}, which the run cannot predict:", table(result.reachable)]
    if result.policies:
        texts.append(policies(result))
    return "\n\n".join(texts)


def policies(result: Evaluation) -> str:
    """Formats the accuracy by policy for photos without a stream's input."""
    from multistream.inference.missing import POLICIES

    lacking = ", ".join(f"{count:,} lack {key}" for key, count in result.missing.items())
    lines = [f"missing streams: {lacking} of {result.metrics.n:,} photos"]
    for name, found in result.policies.items():
        lines.append(f"{_percent(POLICIES[name], found.accuracy, found.accuracy_ci95)}  n {found.n:,}")
    return "\n".join(lines)


def distances(metrics: Metrics) -> list[str]:
    """Formats the distances between predictions and votes, one line per measure; empty if there are no votes."""
    if metrics.votes is None:
        return []
    from multistream.vote_distances import VOTE_MEASURES

    lines = ["", "distance between predictions and votes (cosine and intersection: similarity)"]
    for name, title in VOTE_MEASURES.items():
        low, high = metrics.votes[f"{name}_ci95"]
        lines.append(f"{title:18} {metrics.votes[name]:7.4f}    [{low:.4f}, {high:.4f}]")
    return lines


def table(metrics: Measures) -> str:
    """Formats metrics as text."""
    from multistream.inference.metrics import Metrics

    return _of_labels(metrics) if isinstance(metrics, Metrics) else _of_label_sets(metrics)


def _of_label_sets(metrics: LabelSetMetrics) -> str:
    lines = [
        f"{_percent('mAP', metrics.map, metrics.map_ci95)}  n {metrics.n:,}",
        _percent("micro-F1", metrics.micro_f1, metrics.micro_f1_ci95),
        _percent("macro-F1", metrics.macro_f1, metrics.macro_f1_ci95),
        _percent("exact match", metrics.accuracy, metrics.accuracy_ci95),
        f"{'negative log-likelihood':27} {metrics.nll:6.3f}",
        f"{'labels per image':27} {metrics.labels_per_photo:6.2f}",
        "",
        f"{'class':20} {'n':>6} {'AP':>8} {'precision':>10} {'recall':>8} {'f1':>8}",
    ]
    for name, row in metrics.per_class.items():
        lines.append(f"{name:20} {row['n']:6,} {row['average_precision']:8.3f} {_class_scores(row)}")
    return "\n".join(lines)


def _of_labels(metrics: Metrics) -> str:
    lines = [
        f"{_percent('accuracy', metrics.accuracy, metrics.accuracy_ci95)}  n {metrics.n:,}",
        _percent("most frequent class", metrics.majority),
        _percent("balanced accuracy", metrics.balanced_accuracy),
        _percent("macro-F1", metrics.macro_f1),
        f"{'negative log-likelihood':27} {metrics.nll:6.3f}",
        f"{'Brier score':27} {metrics.brier:6.3f}",
        f"{'expected calibration error':27} {metrics.ece:6.3f}",
    ]
    if metrics.ece_before is not None:
        lines[-1] += f"     before temperature scaling {metrics.ece_before:.3f}"
    if metrics.polarity_accuracy is not None:
        lines.append(_percent("polarity accuracy", metrics.polarity_accuracy))
    lines += [*distances(metrics), "", f"{'class':20} {'n':>6} {'precision':>10} {'recall':>8} {'f1':>8}"]
    for name, row in metrics.per_class.items():
        lines.append(f"{name:20} {row['n']:6,} {_class_scores(row)}")
    return "\n".join(lines)


def _percent(title: str, fraction: float, interval: Interval | None = None) -> str:
    line = f"{title:27} {100 * fraction:6.2f} %"
    return f"{line}  {_interval(interval)}" if interval else line


def _interval(interval: Interval) -> str:
    return f"[{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]"


def _class_scores(row: Mapping[str, float]) -> str:
    return f"{row['precision']:10.3f} {row['recall']:8.3f} {row['f1']:8.3f}"
