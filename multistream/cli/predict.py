"""multistream predict"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multistream.cli import options, output
from multistream.errors import DataError, UsageError, printable

if TYPE_CHECKING:
    from multistream.inference.predict import Prediction


MATCHING = (
    "Vectors and maps are matched by exact id: the path as given, relative to the given folder or to the run's data "
    "set. Use --missing drop or --missing mean to predict without them."
)


def predict(
    run: options.Run,
    paths: Annotated[list[str], typer.Argument(metavar="PATHS", help="Files and folders; - reads a list from stdin.")],
    input: options.Inputs = None,
    missing: options.Missing = "",
    without: options.Without = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write predictions to a .jsonl file or a .parquet folder; rerun the same command to continue after "
            "an interruption.",
        ),
    ] = None,
    engine: options.Engine = "local",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Predict class probabilities, one line per photo; unusable files are listed with an error status.

    With --json, one JSON object per line (JSON Lines), printed as soon as the photo is predicted.

    --engine ray cannot be combined with --input, --out, --precision or a --device other than cpu.

    Exit code 0 if at least one photo could be used; 65 if none.
    """
    from multistream.console import Console

    common: dict[str, Any] = {"missing": missing, "without": without or (), "say": Console(quiet=quiet).say}
    options.check_engine(engine)
    if engine == "ray":
        _refuse_for_ray(input=input, out=out, device=device, precision=precision)
        from multistream.batch.ray_engine import predict_with_ray

        _print(predict_with_ray(run, options.listed_paths(paths), **common), json=json, quiet=quiet)
        return
    from multistream.inference.model import load
    from multistream.inference.prediction_writer import write_predictions_of

    common |= {"inputs": options.pairs(input, "--input"), "device": device, "precision": precision}
    model = load(run)
    if out is None:
        _print(model.predict(options.listed_paths(paths), **common), json=json, quiet=quiet)
    else:
        written = write_predictions_of(model, options.listed_paths(paths), out, options=common, say=common["say"])
        _sum_up(written, quiet=quiet)


def _refuse_for_ray(*, input: list[str] | None, out: Path | None, device: str, precision: str) -> None:
    """Raises UsageError for options that Ray's workers do not support."""
    if input or out:
        right = "Vectors are read from columns of the Parquet file."
        raise UsageError("--engine", "ray cannot be combined with --input or --out.", right=right)
    if device not in ("auto", "cpu") or precision != "auto":
        right = "Ray workers run on CPUs, in the training precision."
        raise UsageError(
            "--engine", f"ray cannot be combined with --device {device} and --precision {precision}.", right=right
        )


def _print(results: Iterator[Prediction], *, json: bool, quiet: bool) -> None:
    statuses: Counter[str] = Counter()
    for result in results:
        statuses[result.status] += 1
        if json:
            output.print_json(result.to_dict(), indent=None)
        else:
            typer.echo(f"{printable(result.path)}\t{_outcome(result)}")
    _sum_up(statuses, quiet=quiet)


def _outcome(result: Prediction) -> str:
    """Formats the predicted label (or labels) with probabilities; the status if the photo could not be used."""
    if result.label is None:
        return result.status
    probabilities = {name: f"{100 * p:.1f} %" for name, p in result.probabilities.items()}
    if result.labels is None:
        return f"{printable(result.label)}\t{probabilities[result.label]}"
    return ", ".join(f"{printable(name)} {probabilities[name]}" for name in result.labels) or "-"


def _sum_up(statuses: Counter[str], *, quiet: bool) -> None:
    """Prints how many photos could not be used, and why. Raises DataError (exit 65) if none could be used."""
    if not statuses:
        raise DataError("predict", "there are no photos.", do="Pass photos, folders of photos, or a list on stdin.")
    bad = statuses.total() - statuses["ok"]
    message = ", ".join(f"{status}: {count:,}" for status, count in statuses.most_common() if status != "ok")
    do = MATCHING if {"no vector", "no map"} & set(statuses) else ""
    if not statuses["ok"]:
        raise DataError("predict", f"none of the {bad:,} photos could be used ({message}).", do=do)
    if bad and not quiet:
        line = f"predict: {bad:,} of {statuses.total():,} photos could not be used ({message}). {do}"
        typer.echo(line.rstrip(), err=True)
