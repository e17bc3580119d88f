"""multistream extract"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multistream.cli.options import (
    DeviceSet,
    Engine,
    Inputs,
    Json,
    PrecisionSet,
    Quiet,
    RecipeWithoutRun,
    RunOrNone,
    Settings,
    Weights,
    pairs,
    print_json,
)
from multistream.cli.train import merged
from multistream.errors import UsageError
from multistream.recipe import Recipe
from multistream.spec import parse_specs

if TYPE_CHECKING:
    from multistream.features.fill_cache import Extraction


def extract(
    run: RunOrNone = None,
    streams: Annotated[str, typer.Option(metavar="SPEC,...", help="Streams, if there is no RUN.")] = "",
    data: Annotated[
        str, typer.Option(metavar="PATH", help="The data set, as for train.", show_default="the run's, or the demo set")
    ] = "",
    label: Annotated[str, typer.Option(help="Label to use if the data set has several.")] = "",
    weights: Weights = None,
    input: Inputs = None,
    views: Annotated[
        str,
        typer.Option(metavar="VIEW,...", help="Views of each photo: identity, hflip, top_left, centre+hflip, ..."),
    ] = "identity",
    stages: Annotated[
        str, typer.Option(metavar="STAGE,...", help="Stages that --out writes: STAGE or KEY/STAGE.", show_default="all")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz", help="Write ids, features and vocabulary for --input; with ray, a folder of parquet."
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Recompute a sample and compare it with the cache, bit for bit.")
    ] = False,
    sample: Annotated[int, typer.Option(min=0, help="Number of images that --verify recomputes; 0: all.")] = 64,
    seed: Annotated[int | None, typer.Option(help="Random seed of weights and sample.", show_default="0")] = None,
    engine: Engine = "local",
    device: DeviceSet = "",
    precision: PrecisionSet = "",
    recipe: RecipeWithoutRun = "",
    set_: Settings = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compute the features of frozen streams into the cache, verify them, or write them to a file."""
    if (run is None) == (not streams and not recipe):
        raise UsageError("extract", "give a RUN, or --streams or --recipe.", right="Give exactly one of them.")
    if run is not None and (set_ or weights):
        raise UsageError("extract", "a RUN has its own settings and weights.", do="Omit --set and --weights.")
    if engine == "ray":
        refused = {
            **{"--label": label, "--input": input, "--stages": stages, "--verify": verify, "--recipe": recipe},
            **{"--seed": seed, "--set": set_, "--precision": precision, "--device": device not in ("", "auto", "cpu")},
            "--views": views != "identity",
        }
        ignored = [name for name, given in refused.items() if given]
        _extract_with_ray(run or streams, data, out, weights, ignored, json=json, quiet=quiet)
        return
    if engine != "local":
        raise UsageError("--engine", f"{engine!r} is unknown.", right="It must be local or ray.")
    source = run if run is not None else _recipe(streams, recipe, weights, seed, set_)
    from multistream.console import Console
    from multistream.data.views import parse_views
    from multistream.features.fill_cache import extract as fill
    from multistream.runtime.distributed import ranks_of

    found = fill(
        source,
        data=data,
        label=label,
        inputs=pairs(input, "--input"),
        views=parse_views(views),
        stages=[name.strip() for name in stages.split(",") if name.strip()],
        out=out,
        sample=sample if verify else None,
        seed=seed or 0,
        device=device,
        precision=precision,
        console=Console(quiet=quiet),
    )
    if not ranks_of(os.environ).is_first:
        return  # rank 0 prints for all
    if json:
        print_json(found.to_dict())
    else:
        typer.echo(described(found))


def _extract_with_ray(
    source: Path | str,
    data: str,
    out: Path | None,
    weights: list[str] | None,
    refused: list[str],
    *,
    json: bool,
    quiet: bool,
) -> None:
    """The features of --data as parquet; options that it would ignore are refused."""
    from multistream.batch.ray_engine import extract_with_ray
    from multistream.console import Console

    if refused:
        right = "It computes the plain photos on CPUs, in the precision of the training."
        raise UsageError("--engine", f"ray takes no {', '.join(refused)}.", right=right)
    if not data or out is None:
        right = "Photos: a folder, parquet or a URL. Features: a folder of parquet files."
        raise UsageError("--engine", "ray needs --data and --out.", right=right)
    options = {"weights": pairs(weights, "--weights")} if weights else {}
    statuses = extract_with_ray(source, data, out, options=options, say=Console(quiet=quiet).say)
    if json:
        print_json({"out": str(out), "statuses": dict(statuses)})
        return
    typer.echo("\n".join(f"{count:10,} {status}" for status, count in statuses.most_common()))
    typer.echo(f"features {out}")


def described(found: Extraction) -> str:
    """What was done, in a few lines."""
    lines = [f"{'stream':10} {'view':10} {'found':>10} {'computed':>10}  cache"]
    lines += [
        f"{row.stream:10} {row.view:10} {row.found:10,} {row.computed:10,}  {row.folder}" for row in found.streams
    ]
    speed = f", {found.images_per_second:,.0f} images/s" if found.images_per_second else ""
    lines.append(f"{found.data}, {found.images:,} images, {found.seconds:.1f} s{speed}")
    if found.bad:
        lines.append(f"{len(found.bad):,} photos cannot be decoded and are skipped")
    if found.out:
        lines.append(f"{found.out}: {found.images - len(found.bad):,} x {found.width:,} numbers")
    if found.verified:
        count, numbers = found.verified.images, found.verified.numbers
        lines.append(f"verified: {count:,} images computed again, {numbers:,} numbers, all equal bit for bit")
    return "\n".join(lines)


def _recipe(
    streams: str, recipe: str, weights: list[str] | None, seed: int | None, settings: list[str] | None
) -> Recipe:
    given: dict[str, dict[str, Any]] = {
        "network": {
            "streams": {spec.key: spec.part for spec in parse_specs(streams)} if streams else {},
            "weights": pairs(weights, "--weights"),
        },
        "training": {"seed": seed},
    }
    return merged(Recipe.load(recipe or "default"), given).with_settings(settings or [])
