"""multistream ablate"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multistream.cli.figures import Plot, save_figure
from multistream.cli.options import (
    DataAsForTrain,
    DeviceSet,
    EngineOptions,
    Epochs,
    Fusion,
    Inputs,
    Json,
    Plan,
    PrecisionSet,
    Quiet,
    RecipeWithoutRun,
    RunOrNone,
    Settings,
    StreamsWithoutRun,
    Temporal,
    TrainingEngine,
    Weights,
    chosen_engine,
    print_json,
    print_plan,
)
from multistream.cli.recipe_options import check_run_or_streams, network_options, with_options
from multistream.recipe import Recipe

if TYPE_CHECKING:
    from multistream.ablation.results import Ablation
    from multistream.console import Say


class Axis(StrEnum):
    """The axis of an ablation."""

    depth = "depth"
    taps = "taps"
    streams = "streams"


AxisName = Annotated[
    Axis, typer.Option(help="What to vary: depth of the streams, subsets of taps, or subsets of streams.")
]
Cut = Annotated[str, typer.Option(metavar="KEY", help="Ablate only this stream.", show_default="each")]
Seeds = Annotated[int, typer.Option(min=1, max=1000, help="Number of seeds; the first is the recipe's.")]
Splits = Annotated[int, typer.Option(min=1, max=1000, help="Number of splits; the first is the recipe's.")]
FirstSeed = Annotated[int | None, typer.Option(help="The first seed.", show_default="the recipe's")]
Verify = Annotated[
    bool,
    typer.Option("--verify", help="Also train one row alone; exit 1 if its probabilities differ by more than 1e-5."),
]
Out = Annotated[Path | None, typer.Option(help="Output folder.", show_default="RUN/ablations")]
Csv = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the rows as CSV.")]


def ablate(
    run: RunOrNone = None,
    axis: AxisName = Axis.depth,
    cut: Cut = "",
    seeds: Seeds = 1,
    splits: Splits = 1,
    streams: StreamsWithoutRun = "",
    data: DataAsForTrain = "",
    temporal: Temporal = "",
    fusion: Fusion = "",
    weights: Weights = None,
    input: Inputs = None,
    epochs: Epochs = None,
    seed: FirstSeed = None,
    device: DeviceSet = "",
    precision: PrecisionSet = "",
    recipe: RecipeWithoutRun = "",
    set_: Settings = None,
    verify: Verify = False,
    out: Out = None,
    csv: Csv = None,
    plot: Plot = None,
    engine: TrainingEngine = "",
    engine_option: EngineOptions = None,
    plan: Plan = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Retrain the composition without stages, taps or streams, and print accuracy and cost."""
    check_run_or_streams("ablate", run, streams, recipe)
    options: dict[str, dict[str, Any]] = {
        "data": {"source": data},
        "network": network_options(streams, weights=weights, inputs=input, temporal=temporal, fusion=fusion),
        "training": {"epochs": epochs, "seed": seed},
        "runtime": {"device": device, "precision": precision},
    }
    from multistream.ablation import ablate as run_ablation
    from multistream.ablation.runner import planned, recipe_of
    from multistream.ablation.table import table
    from multistream.console import Console

    base = recipe_of(run.expanduser()) if run is not None else Recipe.load(recipe or "default")
    settled, console = with_options(base, options, set_), Console(quiet=quiet)
    what: dict[str, Any] = {"axis": axis.value, "seeds": seeds, "splits": splits, "cut": cut, "run": run, "out": out}
    chosen = chosen_engine(engine, engine_option)
    if plan:
        print_plan(planned(settled, **what, console=console), json=json)
        return
    result = run_ablation(settled, **what, verify=verify, console=console, engine=chosen)
    _save(result, csv=csv, plot=plot, say=console.say)
    if json:
        print_json(result.to_dict())
    else:
        typer.echo(table(result))


def _save(result: Ablation, *, csv: Path | None, plot: Path | None, say: Say) -> None:
    """Writes the files that --csv and --plot name."""
    from multistream.ablation.figure import draw
    from multistream.ablation.results import write_csv

    if csv is not None:
        write_csv(result, csv)
    if plot is not None:
        save_figure(draw(result), plot)
        say(f"figure: {plot}")
