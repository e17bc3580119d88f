"""multistream evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multistream.cli.figures import Plot, save_figure
from multistream.cli.options import (
    Device,
    Inputs,
    Json,
    Label,
    Missing,
    Precision,
    Quiet,
    Run,
    Without,
    pairs,
    print_json,
)

if TYPE_CHECKING:
    from multistream.inference.evaluate import Evaluation
    from multistream.inference.metrics import Measures, Metrics
    from multistream.label_set_metrics import LabelSetMetrics


LabelledPhotos = Annotated[
    str, typer.Option("--data", metavar="PATH", help="Other photos with labels; default: the test split of the run.")
]
Part = Annotated[
    str,
    typer.Option(
        metavar="train|val|test|all", help="Split to evaluate. Default: the run's test split, or all of --data."
    ),
]
ClassMap = Annotated[
    str, typer.Option(metavar="FILE|NAME", help="File that maps the run's classes to the data's classes.")
]
Protocols = Annotated[
    bool,
    typer.Option(
        "--protocols",
        help="WebEMO's protocols: strict, reachable classes, polarity, linear probe (--data webemo:PATH).",
    ),
]
PredictionsFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the predictions as CSV.")]


def evaluate(
    run: Run,
    data: LabelledPhotos = "",
    part: Part = "",
    label: Label = "",
    class_map: ClassMap = "",
    protocols: Protocols = False,
    input: Inputs = None,
    missing: Missing = "",
    without: Without = None,
    predictions: PredictionsFile = None,
    plot: Plot = None,
    device: Device = "auto",
    precision: Precision = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a run: accuracy with its interval, metrics by class, calibration."""
    from multistream.console import Console
    from multistream.inference.evaluate import evaluate as measure

    if protocols:
        _print_protocols(run, data, input=input, device=device, json=json, quiet=quiet)
        return
    result = measure(
        run,
        data=data,
        part=part,
        label=label,
        class_map=class_map,
        inputs=pairs(input, "--input"),
        missing=missing,
        without=without or (),
        predictions=predictions,
        device=device,
        precision=precision,
        console=Console(quiet=quiet),
    )
    if plot is not None:
        from multistream.errors import UsageError
        from multistream.inference.confusion_figure import draw_confusion
        from multistream.inference.metrics import Metrics

        if not isinstance(result.metrics, Metrics):
            what = "a confusion matrix needs one label per image, and these may have several."
            raise UsageError("--plot", what, do="Omit it.")
        save_figure(draw_confusion(result.metrics.confusion, result.metrics.classes), plot)
    if json:
        print_json(result.to_dict())
    else:
        typer.echo(table(result.metrics))
        if result.reachable:
            typer.echo(f"\nwithout {', '.join(result.unreachable)}, which the run cannot predict:\n")
            typer.echo(table(result.reachable))
        if result.policies:
            typer.echo(f"\n{policies(result)}")


def _print_protocols(run: Path, data: str, *, input: list[str] | None, device: str, json: bool, quiet: bool) -> None:
    """Measures a run by the four protocols of WebEMO, and prints a line for each."""
    from multistream.console import Console
    from multistream.reproduction.webemo import webemo_protocols

    found = webemo_protocols(run, data, inputs=pairs(input, "--input"), device=device, console=Console(quiet=quiet))
    if json:
        print_json(found.to_dict())
        return
    typer.echo(f"{'protocol':28} {'accuracy':>10} {'95 %':>16} {'majority':>10} {'n':>8}")
    for row in found.rows:
        low, high = (100 * end for end in row.accuracy_ci95)
        interval = f"[{low:.2f}, {high:.2f}]"
        typer.echo(
            f"{row.protocol:28} {100 * row.accuracy:8.2f} % {interval:>16} {100 * row.majority:8.2f} % {row.n:8,}"
        )
    if found.published is not None:
        typer.echo(f"published (FI to WebEMO, 7 classes): {100 * found.published:.2f} %")


def policies(result: Evaluation) -> str:
    """Accuracy with and without the photos that lack a stream, as lines to read."""
    from multistream.inference.policies import POLICIES

    lacking = ", ".join(f"{count:,} lack {key}" for key, count in result.missing.items())
    lines = [f"missing streams: {lacking} of {result.metrics.n:,} photos"]
    for name, found in result.policies.items():
        low, high = (100 * limit for limit in found.accuracy_ci95)
        lines.append(f"{POLICIES[name]:18} {100 * found.accuracy:6.2f} %  [{low:.2f}, {high:.2f}]  n {found.n:,}")
    return "\n".join(lines)


def distances(metrics: Metrics) -> list[str]:
    """How near the predictions are to the votes, a line a measure; nothing where there are no votes."""
    if metrics.votes is None:
        return []
    from multistream.vote_distances import VOTE_MEASURES

    lines = ["", "distance of predictions and votes (cosine and intersection: similarity)"]
    for name, title in VOTE_MEASURES.items():
        low, high = metrics.votes[f"{name}_ci95"]
        lines.append(f"{title:18} {metrics.votes[name]:7.4f}    [{low:.4f}, {high:.4f}]")
    return lines


def before(metrics: Metrics) -> str:
    """The calibration error before the temperature, printed after the error."""
    return "" if metrics.ece_before is None else f"     before the temperature {metrics.ece_before:.3f}"


def table(metrics: Measures) -> str:
    """Metrics as lines to read."""
    from multistream.inference.metrics import Metrics

    return _of_labels(metrics) if isinstance(metrics, Metrics) else _of_label_sets(metrics)


def _of_label_sets(metrics: LabelSetMetrics) -> str:
    def line(title: str, value: float, interval: tuple[float, float], end: str = "") -> str:
        return f"{title:18} {100 * value:6.2f} %  [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]{end}"

    lines = [
        line("mAP", metrics.map, metrics.map_ci95, f"  n {metrics.n:,}"),
        line("micro-F1", metrics.micro_f1, metrics.micro_f1_ci95),
        line("macro-F1", metrics.macro_f1, metrics.macro_f1_ci95),
        line("exact match", metrics.accuracy, metrics.accuracy_ci95),
        f"negative log-lik.  {metrics.nll:6.3f}",
        f"labels per image   {metrics.labels_per_photo:6.2f}",
        "",
        f"{'class':20} {'n':>6} {'AP':>8} {'precision':>10} {'recall':>8} {'f1':>8}",
    ]
    for name, row in metrics.per_class.items():
        lines.append(
            f"{name:20} {row['n']:6,} {row['average_precision']:8.3f} {row['precision']:10.3f} {row['recall']:8.3f}"
            f" {row['f1']:8.3f}"
        )
    return "\n".join(lines)


def _of_labels(metrics: Metrics) -> str:
    low, high = metrics.accuracy_ci95
    lines = [
        f"accuracy           {100 * metrics.accuracy:6.2f} %  [{100 * low:.2f}, {100 * high:.2f}]  n {metrics.n:,}",
        f"majority           {100 * metrics.majority:6.2f} %",
        f"balanced accuracy  {100 * metrics.balanced_accuracy:6.2f} %",
        f"macro-F1           {100 * metrics.macro_f1:6.2f} %",
        f"negative log-lik.  {metrics.nll:6.3f}",
        f"Brier score        {metrics.brier:6.3f}",
        f"calibration error  {metrics.ece:6.3f}" + before(metrics),
        *(
            []
            if metrics.polarity_accuracy is None
            else [f"polarity           {100 * metrics.polarity_accuracy:6.2f} %"]
        ),
        *distances(metrics),
        "",
        f"{'class':20} {'n':>6} {'precision':>10} {'recall':>8} {'f1':>8}",
    ]
    for name, row in metrics.per_class.items():
        lines.append(f"{name:20} {row['n']:6,} {row['precision']:10.3f} {row['recall']:8.3f} {row['f1']:8.3f}")
    return "\n".join(lines)
