"""multistream ablate"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from multistream.cli.figures import Plot, save_figure
from multistream.cli.options import (
    DeviceSet,
    EngineOptions,
    Inputs,
    Json,
    Plan,
    PrecisionSet,
    Quiet,
    RecipeWithoutRun,
    RunOrNone,
    Settings,
    TrainingEngine,
    Weights,
    chosen_engine,
    pairs,
    print_json,
    print_plan,
)
from multistream.cli.train import merged
from multistream.errors import UsageError
from multistream.recipe import Recipe
from multistream.spec import parse_specs


class Axis(StrEnum):
    """What is left out."""

    depth = "depth"
    taps = "taps"
    streams = "streams"


def ablate(
    run: RunOrNone = None,
    axis: Annotated[
        Axis, typer.Option(help="What to vary: depth of the streams, subsets of taps, or subsets of streams.")
    ] = Axis.depth,
    cut: Annotated[str, typer.Option(metavar="KEY", help="Ablate only this stream.", show_default="each")] = "",
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="How many; the first is the recipe's.")] = 1,
    splits: Annotated[int, typer.Option(min=1, max=1000, help="How many; the first is the recipe's.")] = 1,
    streams: Annotated[str, typer.Option(metavar="SPEC,...", help="Streams, if there is no RUN.")] = "",
    data: Annotated[str, typer.Option(metavar="PATH", help="The data set, as for train.")] = "",
    temporal: Annotated[
        str, typer.Option(help="Temporal: combines a stream's tokens into one vector.", show_default="concat")
    ] = "",
    fusion: Annotated[str, typer.Option(help="Fusion: combines the streams.", show_default="early")] = "",
    weights: Weights = None,
    input: Inputs = None,
    epochs: Annotated[int | None, typer.Option(help="Maximum number of epochs.", show_default="the recipe's")] = None,
    seed: Annotated[int | None, typer.Option(help="The first seed.", show_default="the recipe's")] = None,
    device: DeviceSet = "",
    precision: PrecisionSet = "",
    recipe: RecipeWithoutRun = "",
    set_: Settings = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Also train one row alone; exit 1 if its probabilities differ by more than 1e-5."
        ),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Output folder.", show_default="RUN/ablations")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the rows as CSV.")] = None,
    plot: Plot = None,
    engine: TrainingEngine = "",
    engine_option: EngineOptions = None,
    plan: Plan = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Retrain the composition without stages, taps or streams, and print accuracy and cost."""
    if (run is None) == (not streams and not recipe):
        raise UsageError("ablate", "give a RUN, or --streams or --recipe.", right="Give exactly one of them.")
    given: dict[str, dict[str, Any]] = {
        "data": {"source": data},
        "network": {
            "streams": {spec.key: spec.part for spec in parse_specs(streams)} if streams else {},
            "temporal": temporal,
            "fusion": fusion,
            "weights": pairs(weights, "--weights"),
            "inputs": pairs(input, "--input"),
        },
        "training": {"epochs": epochs, "seed": seed},
        "runtime": {"device": device, "precision": precision},
    }
    from multistream.ablation import ablate as run_ablation
    from multistream.ablation.results import write_csv
    from multistream.ablation.runner import planned, recipe_of
    from multistream.ablation.table import table
    from multistream.console import Console

    base = recipe_of(run.expanduser()) if run is not None else Recipe.load(recipe or "default")
    settled = merged(base, given).with_settings(set_ or [])
    console = Console(quiet=quiet)
    what: dict[str, Any] = {"axis": axis.value, "seeds": seeds, "splits": splits, "cut": cut, "run": run, "out": out}
    chosen = chosen_engine(engine, engine_option)
    if plan:
        print_plan(planned(settled, **what, console=console), json=json)
        return
    result = run_ablation(settled, **what, verify=verify, console=console, engine=chosen)
    if json:
        print_json(result.to_dict())
    else:
        typer.echo(table(result))
    if csv is not None:
        write_csv(result, csv)
    if plot is not None:
        from multistream.ablation.figure import draw

        save_figure(draw(result), plot)
        console.say(f"figure: {plot}")
