"""multistream ablate"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multistream.cli import options, output
from multistream.figures import save_figure
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
Cut = Annotated[str, typer.Option(metavar="KEY", help="Ablate only this stream. Default: each stream in turn.")]
Seeds = Annotated[int, typer.Option(min=1, max=1000, help="Number of random seeds, starting from the recipe's.")]
Splits = Annotated[int, typer.Option(min=1, max=1000, help="Number of random splits, starting from the recipe's.")]
FirstSeed = Annotated[int | None, typer.Option(help="First random seed. Default: the recipe's.")]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Also train one configuration on its own and compare; exit 1 if any probability differs by more than "
        "1e-5.",
    ),
]
Out = Annotated[Path | None, typer.Option(help="Output folder. Default: RUN/ablations.")]
Csv = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the table to a CSV file.")]


def ablate(
    run: options.RunOrNone = None,
    axis: AxisName = Axis.depth,
    cut: Cut = "",
    seeds: Seeds = 1,
    splits: Splits = 1,
    streams: options.StreamsWithoutRun = "",
    data: options.DataAsForTrain = "",
    temporal: options.Temporal = "",
    fusion: options.Fusion = "",
    weights: options.Weights = None,
    input: options.Inputs = None,
    epochs: options.Epochs = None,
    seed: FirstSeed = None,
    device: options.DeviceSet = "",
    precision: options.PrecisionSet = "",
    recipe: options.RecipeWithoutRun = "",
    set_: options.Settings = None,
    verify: Verify = False,
    out: Out = None,
    csv: Csv = None,
    plot: options.Plot = None,
    engine: options.TrainingEngine = "",
    engine_option: options.EngineOptions = None,
    plan: options.Plan = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Retrain the network with some stages, taps or streams removed, and print accuracy and cost."""
    options.check_run_or_streams("ablate", run, streams, recipe)
    from multistream.ablation import ablate as run_ablation
    from multistream.ablation.runner import planned, recipe_of
    from multistream.ablation.table import table
    from multistream.console import Console

    settled = options.with_options(
        recipe_of(run.expanduser()) if run is not None else Recipe.load(recipe or "default"),
        set_,
        data={"source": data},
        network=options.network_options(streams, weights=weights, inputs=input, temporal=temporal, fusion=fusion),
        training={"epochs": epochs, "seed": seed},
        runtime={"device": device, "precision": precision},
    )
    console = Console(quiet=quiet)
    what: dict[str, Any] = {"axis": axis.value, "seeds": seeds, "splits": splits, "cut": cut, "run": run, "out": out}
    chosen = options.chosen_engine(engine, engine_option)
    if plan:
        output.print_plan(planned(settled, **what, console=console), json=json)
        return
    result = run_ablation(settled, **what, verify=verify, console=console, engine=chosen)
    _save(result, csv=csv, plot=plot, say=console.say)
    output.print_result(result, table, json=json)


def _save(result: Ablation, *, csv: Path | None, plot: Path | None, say: Say) -> None:
    """Writes the files of --csv and --plot."""
    from multistream.ablation.figure import draw
    from multistream.ablation.results import write_csv

    if csv is not None:
        write_csv(result, csv)
    if plot is not None:
        save_figure(draw(result), plot)
        say(f"figure: {plot}")
