"""multistream train"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multistream.cli.options import (
    DeviceSet,
    EngineOptions,
    Inputs,
    Json,
    Plan,
    PrecisionSet,
    Quiet,
    Settings,
    TrainingEngine,
    Weights,
    chosen_engine,
    pairs,
    print_json,
    print_plan,
)
from multistream.errors import UsageError
from multistream.recipe import Recipe
from multistream.spec import parse_specs

if TYPE_CHECKING:
    from multistream.training.folds import FoldsRun
    from multistream.training.train import Run


def train(
    streams: Annotated[
        str, typer.Option(metavar="SPEC,...", help="Streams, as [KEY=]NAME[:VARIANT], or KEY=RUN for a run's branch.")
    ] = "",
    data: Annotated[
        str, typer.Option(metavar="PATH", help="Class folders, a CSV, or LAYOUT:PATH. Default: the demo set.")
    ] = "",
    label: Annotated[
        str,
        typer.Option(
            metavar="COLUMN", help="Label to use if there are several: a CSV column, or a label of the layout."
        ),
    ] = "",
    tap: Annotated[str, typer.Option(help="Tap: turns the map of a stage into a token.", show_default="gap:64")] = "",
    temporal: Annotated[
        str, typer.Option(help="Temporal: combines a stream's tokens into one vector.", show_default="concat")
    ] = "",
    fusion: Annotated[str, typer.Option(help="Fusion: combines the streams.", show_default="early")] = "",
    weights: Weights = None,
    input: Inputs = None,
    freeze: Annotated[
        str, typer.Option(metavar="WHAT,...", help="none, streams, branches, KEY or KEY:STAGES.", show_default="auto")
    ] = "",
    epochs: Annotated[int | None, typer.Option(help="Maximum number of epochs.", show_default="30")] = None,
    batch_size: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            help="Images per batch; auto: the largest that fits into memory, with gradient accumulation.",
            show_default="64",
        ),
    ] = "",
    folds: Annotated[
        int | None,
        typer.Option(help="Cross-validation with this many folds: every photo is tested once.", show_default="0"),
    ] = None,
    repeats: Annotated[int | None, typer.Option(help="Number of repetitions of the folds.", show_default="1")] = None,
    groups: Annotated[
        str,
        typer.Option(
            metavar="COLUMN|FILE", help="Groups that must not be split: a CSV column, or a CSV file with path,group."
        ),
    ] = "",
    seed: Annotated[int | None, typer.Option(help="Random seed.", show_default="0")] = None,
    device: DeviceSet = "",
    precision: PrecisionSet = "",
    recipe: Annotated[
        str,
        typer.Option(
            metavar="FILE|RUN|NAME", help="Settings: a file, a run, or a shipped recipe: default, paper, paper-code."
        ),
    ] = "default",
    set_: Settings = None,
    print_recipe: Annotated[bool, typer.Option("--print-recipe", help="Print the settings and exit.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run, new or empty.", show_default="runs/KEYS-FUSION-N")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Resume an interrupted run, or extend a finished one.")
    ] = None,
    engine: TrainingEngine = "",
    engine_option: EngineOptions = None,
    plan: Plan = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a composition; without --data, on the demo set."""
    if resume is not None and out is not None:
        raise UsageError("--resume", "a resumed run stays in its folder.", do="Omit --out.")
    if resume is not None:
        from multistream.training.resume import check_is_run

        check_is_run(resume.expanduser())
    base = resume if resume is not None and recipe == "default" else recipe
    given: dict[str, dict[str, Any]] = {
        "data": {"source": data, "label": label, "folds": folds, "repeats": repeats, "groups": groups},
        "network": {
            "streams": {spec.key: spec.part for spec in parse_specs(streams)} if streams else {},
            "tap": tap,
            "temporal": temporal,
            "fusion": fusion,
            "weights": pairs(weights, "--weights"),
            "inputs": pairs(input, "--input"),
            "freeze": freeze.split(",") if freeze else [],
        },
        "training": {"epochs": epochs, "batch_size": images_a_step(batch_size), "seed": seed},
        "runtime": {"device": device, "precision": precision, "fit_batch": True if batch_size == "auto" else None},
    }
    settled = merged(Recipe.load(base), given).with_settings(set_ or [])
    if print_recipe:
        typer.echo(settled.dumps(), nl=False)
        return
    chosen = chosen_engine(engine, engine_option)
    if plan:
        _print_plan(settled, resume or out, json=json)
        return
    from multistream.console import Console
    from multistream.runtime.distributed import ranks_of
    from multistream.training.folds import FoldsRun
    from multistream.training.folds import train as run_training
    from multistream.training.stop import stoppable

    console = Console(quiet=quiet)
    with stoppable() as stop:
        result = run_training(settled, out=out, resume=resume, console=console, stop=stop, engine=chosen)
    if not ranks_of(os.environ).is_first:
        return  # rank 0 prints for all
    if json:
        print_json(result.to_dict())
    else:
        typer.echo(folds_described(result) if isinstance(result, FoldsRun) else described(result))
    if not quiet and not isinstance(result, FoldsRun):
        typer.echo(next_commands(result), err=True)


def _print_plan(recipe: Recipe, folder: Path | None, *, json: bool) -> None:
    """The trainings of a run on folds; of one training there is no list."""
    from multistream.training.folds import fold_runs

    if not recipe.data.folds or recipe.data.fold:
        raise UsageError("--plan", "this is one training.", do="--folds N makes a list; --print-recipe prints one.")
    if folder is None:
        raise UsageError("--plan", "the runs have no folder yet.", do="Give --out FOLDER, or --resume RUN.")
    print_plan(fold_runs(recipe, folder.expanduser()), json=json)


def images_a_step(text: str) -> int | None:
    """The number that --batch-size gives; None for `auto`, which keeps the recipe's, and where it is left away.

    >>> images_a_step("32")
    32
    """
    if text in ("", "auto"):
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise UsageError("--batch-size", f"{text!r} is not a number.", right="It must be a number of images, or auto.")
    return int(text)


def merged(recipe: Recipe, given: dict[str, dict[str, Any]]) -> Recipe:
    """The recipe with the options that were given: an option that was left away is None or empty."""
    said = {
        section: {name: value for name, value in values.items() if value not in ("", None, {}, [])}
        for section, values in given.items()
    }
    return recipe.updated({section: values for section, values in said.items() if values})


def described(run: Run) -> str:
    """A finished run in a few lines."""
    lines = []
    for name, measured in run.parts.items():
        low, high = measured.accuracy_ci95
        lines.append(
            f"{name:5}  accuracy {100 * measured.accuracy:.1f} %  [{100 * low:.1f}, {100 * high:.1f}]"
            f"  macro-F1 {100 * measured.macro_f1:.1f}  n {measured.n:,}"
        )
    where = f"{run.data['name']}, {run.epochs} epochs, best {run.best_epoch + 1}, {run.seconds:.0f} s"
    return "\n".join([*lines, where, f"run {run.folder}"])


def folds_described(run: FoldsRun) -> str:
    """A finished run on folds in a few lines."""
    low, high = run.test.accuracy_ci95
    each = ", ".join(f"{100 * fold['accuracy']:.1f}" for fold in run.folds)
    lines = [
        f"out of fold  accuracy {100 * run.test.accuracy:.1f} %  [{100 * low:.1f}, {100 * high:.1f}]"
        f"  macro-F1 {100 * run.test.macro_f1:.1f}  n {run.test.n:,}",
        f"folds        {each}",
    ]
    if len(run.accuracies) > 1:
        lines.append(f"repeats      {', '.join(f'{100 * accuracy:.1f}' for accuracy in run.accuracies)}")
    return "\n".join([*lines, f"run {run.folder}"])


def next_commands(run: Run) -> str:
    """What one types next."""
    demo = " (the demo set; --data PATH trains on your own photos)" if not run.recipe.data.source else ""
    commands = [f"multistream evaluate {run.folder}", f"multistream predict {run.folder} PHOTO..."]
    return "\n".join([f"next{demo}:", *(f"  {command}" for command in commands)])
