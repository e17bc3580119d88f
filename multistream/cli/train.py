"""multistream train"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multistream.cli import options, output
from multistream.commands import command_line
from multistream.errors import UsageError
from multistream.recipe import Recipe

if TYPE_CHECKING:
    from multistream.inference.metrics import Measures
    from multistream.training.folds import FoldsRun
    from multistream.training.train import Run


Folds = Annotated[
    int | None,
    typer.Option(
        help="Number of cross-validation folds; each photo is tested exactly once. Default: 0, a single split."
    ),
]
Repeats = Annotated[int | None, typer.Option(help="Number of times to repeat the cross-validation. Default: 1.")]
PrintRecipe = Annotated[bool, typer.Option("--print-recipe", help="Print the settings and exit.")]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder to write the run to; must not exist or must be empty. Default: runs/KEYS-FUSION-N."),
]
Resume = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="Resume an interrupted run, or train a finished one for more --epochs."),
]


def train(
    streams: options.Streams = "",
    data: options.TrainingData = "",
    label: options.LabelColumn = "",
    tap: options.Tap = "",
    temporal: options.Temporal = "",
    fusion: options.Fusion = "",
    weights: options.Weights = None,
    input: options.Inputs = None,
    freeze: options.Freeze = "",
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = "",
    folds: Folds = None,
    repeats: Repeats = None,
    groups: options.Groups = "",
    seed: options.Seed = None,
    device: options.DeviceSet = "",
    precision: options.PrecisionSet = "",
    recipe: options.RecipeName = "default",
    set_: options.Settings = None,
    print_recipe: PrintRecipe = False,
    out: Out = None,
    resume: Resume = None,
    engine: options.TrainingEngine = "",
    engine_option: options.EngineOptions = None,
    plan: options.Plan = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a network on your data, or on the built-in demo set if --data is not given."""
    settled = options.with_options(
        _base_recipe(recipe, resume=resume, out=out),
        set_,
        data={"source": data, "label": label, "folds": folds, "repeats": repeats, "groups": groups},
        network=options.network_options(
            streams, weights=weights, inputs=input, freeze=freeze, tap=tap, temporal=temporal, fusion=fusion
        ),
        training={"epochs": epochs, "batch_size": images_a_step(batch_size), "seed": seed},
        runtime={"device": device, "precision": precision, "fit_batch": True if batch_size == "auto" else None},
    )
    if print_recipe:
        typer.echo(settled.dumps(), nl=False)
        return
    chosen = options.chosen_engine(engine, engine_option)
    if plan:
        _print_plan(settled, resume or out, json=json)
        return
    from multistream.console import Console
    from multistream.training.folds import train as run_training
    from multistream.training.stop import stoppable

    console = Console(quiet=quiet)
    with stoppable() as stop:
        result = run_training(settled, out=out, resume=resume, console=console, stop=stop, engine=chosen)
    _print_result(result, json=json, quiet=quiet)


def _base_recipe(name: str, *, resume: Path | None, out: Path | None) -> Recipe:
    """Returns the recipe to which options apply: that of --recipe or, by default, of the run to resume."""
    if resume is None:
        return Recipe.load(name)
    if out is not None:
        raise UsageError("--resume", "a resumed run stays in its folder.", do="Omit --out.")
    from multistream.training.resume import check_is_run

    check_is_run(resume.expanduser())
    return Recipe.load(resume if name == "default" else name)


def _print_result(result: Run | FoldsRun, *, json: bool, quiet: bool) -> None:
    """Prints the result; only the first of several processes prints."""
    from multistream.runtime.distributed import ranks_of
    from multistream.training.folds import FoldsRun

    if not ranks_of(os.environ).is_first:
        return
    if isinstance(result, FoldsRun):
        output.print_result(result, folds_described, json=json)
        return
    output.print_result(result, described, json=json)
    if not quiet:
        typer.echo(next_commands(result), err=True)


def _print_plan(recipe: Recipe, folder: Path | None, *, json: bool) -> None:
    """Prints the training runs of a run on folds. Raises UsageError for a single training run."""
    from multistream.training.folds import fold_runs

    if not recipe.data.folds or recipe.data.fold:
        raise UsageError(
            "--plan", "this is a single training run.", do="Pass --folds N, or print its settings with --print-recipe."
        )
    if folder is None:
        raise UsageError("--plan", "the runs have no folder yet.", do="Pass --out FOLDER, or --resume RUN.")
    output.print_plan(fold_runs(recipe, folder.expanduser()), json=json)


def images_a_step(text: str) -> int | None:
    """Parses --batch-size; None if it is `auto` or not given, which keeps the recipe's number.

    >>> images_a_step("32")
    32
    """
    if text in ("", "auto"):
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise UsageError("--batch-size", f"{text!r} is not a number.", right="It must be a number of images, or auto.")
    return int(text)


def described(run: Run) -> str:
    """Formats a finished run."""
    lines = [f"{name:5}  {_measured(measured)}" for name, measured in run.parts.items()]
    where = f"{run.data['name']}: {run.epochs} epochs (best: epoch {run.best_epoch + 1}), {run.seconds:.0f} s"
    return "\n".join([*lines, where, f"run {run.folder}"])


def _measured(found: Measures) -> str:
    """Formats the main metrics: accuracy or, if images may have several labels, the mean average precision."""
    from multistream.label_set_metrics import LabelSetMetrics

    title, value, (low, high) = "accuracy", found.accuracy, found.accuracy_ci95
    if isinstance(found, LabelSetMetrics):
        title, value, (low, high) = "mAP", found.map, found.map_ci95
    interval = f"[{100 * low:.1f}, {100 * high:.1f}]"
    return f"{title} {100 * value:.1f} %  {interval}  macro-F1 {100 * found.macro_f1:.1f}  n {found.n:,}"


def folds_described(run: FoldsRun) -> str:
    """Formats a finished run on folds."""
    each = ", ".join(f"{100 * fold.get('map', fold['accuracy']):.1f}" for fold in run.folds)
    lines = [f"out of fold  {_measured(run.test)}", f"folds        {each}"]
    if len(run.scores) > 1:
        lines.append(f"repeats      {', '.join(f'{100 * score:.1f}' for score in run.scores)}")
    return "\n".join([*lines, f"run {run.folder}"])


def next_commands(run: Run) -> str:
    """Formats the next commands for this run; with side inputs, predict needs --missing mean or cannot be used."""
    is_demo = not run.recipe.data.source
    title = "Next steps" + (" (this run used the demo set; pass --data PATH to train on your own photos)" * is_demo)
    lines = [f"{title}:", *(f"  {command_line(name, run.folder)}" for name in ("evaluate", "explain"))]
    if len(run.side_inputs) < len(run.recipe.network.streams):
        lines.append(
            f"  {command_line('predict', run.folder)} PHOTO..." + (" --missing mean" if run.side_inputs else "")
        )
    return "\n".join(lines)
