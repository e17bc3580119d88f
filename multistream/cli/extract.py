"""multistream extract"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multistream.cli import options, output
from multistream.errors import UsageError
from multistream.recipe import Recipe

if TYPE_CHECKING:
    from multistream.features.fill_cache import Extraction


Views = Annotated[
    str,
    typer.Option(
        metavar="VIEW,...",
        help="Augmented views to extract for each photo: identity, hflip, top_left, centre+hflip, ...",
    ),
]
Stages = Annotated[
    str, typer.Option(metavar="STAGE,...", help="Stages to write to --out: STAGE or KEY/STAGE. Default: all.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.npz",
        help="Write ids, features and vocabulary to a file that --input accepts; with --engine ray, a "
        "folder of Parquet files.",
    ),
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Recompute a sample and compare it with the cache, bit for bit.")
]
Sample = Annotated[
    int | None, typer.Option(min=0, help="Number of images that --verify recomputes; 0: all. Default: 64.")
]
SampleSeed = Annotated[int | None, typer.Option(help="Random seed for the weights and the sample. Default: 0.")]


def extract(
    run: options.RunOrNone = None,
    streams: options.StreamsWithoutRun = "",
    data: options.DataAsForTrain = "",
    label: options.Label = "",
    weights: options.Weights = None,
    input: options.Inputs = None,
    views: Views = "identity",
    stages: Stages = "",
    out: Out = None,
    verify: Verify = False,
    sample: Sample = None,
    seed: SampleSeed = None,
    engine: options.Engine = "local",
    device: options.DeviceSet = "",
    precision: options.PrecisionSet = "",
    recipe: options.RecipeWithoutRun = "",
    set_: options.Settings = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compute the features of frozen streams and store them in the cache, verify them, or write them to a file."""
    options.check_run_or_streams("extract", run, streams, recipe)
    if run is not None and (set_ or weights):
        raise UsageError("extract", "a RUN has its own settings and weights.", do="Omit --set and --weights.")
    if sample is not None and not verify:
        raise UsageError("--sample", "it concerns only --verify.", do="Add --verify, or omit --sample.")
    options.check_engine(engine)
    if engine == "ray":
        refused = {
            **{"--label": label, "--input": input, "--stages": stages, "--verify": verify, "--recipe": recipe},
            **{"--seed": seed, "--set": set_, "--precision": precision, "--device": device not in ("", "auto", "cpu")},
            "--views": views != "identity",
        }
        _extract_with_ray(run or streams, data, out, weights, options.given_names(refused), json=json, quiet=quiet)
        return
    from multistream.console import Console
    from multistream.data.views import parse_views
    from multistream.features.fill_cache import extract as fill
    from multistream.runtime.distributed import ranks_of

    result = fill(
        run or _recipe(recipe or "default", streams, weights, seed, set_),
        data=data,
        label=label,
        inputs=options.pairs(input, "--input"),
        views=parse_views(views),
        stages=options.items(stages),
        out=out,
        sample=(64 if sample is None else sample) if verify else None,
        seed=seed or 0,
        device=device,
        precision=precision,
        console=Console(quiet=quiet),
    )
    if ranks_of(os.environ).is_first:
        output.print_result(result, described, json=json)


def _recipe(name: str, streams: str, weights: list[str] | None, seed: int | None, settings: list[str] | None) -> Recipe:
    network = options.network_options(streams, weights=weights)
    return options.with_options(Recipe.load(name), settings, network=network, training={"seed": seed})


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
    """Writes the features of --data as Parquet files. Raises UsageError for options that Ray does not support."""
    from multistream.batch.ray_engine import extract_with_ray
    from multistream.console import Console

    if refused:
        right = "Ray workers process unaugmented photos on CPUs, in the training precision."
        raise UsageError("--engine", f"ray cannot be combined with {', '.join(refused)}.", right=right)
    if not data or out is None:
        right = "Photos: a folder, a Parquet file or a URL. Features: a folder of Parquet files."
        raise UsageError("--engine", "ray needs --data and --out.", right=right)
    changes = {"weights": options.pairs(weights, "--weights")} if weights else {}
    statuses = extract_with_ray(source, data, out, options=changes, say=Console(quiet=quiet).say)
    lines = [f"{count:10,} {status}" for status, count in statuses.most_common()]
    text = "\n".join([*lines, f"features {out}"])
    output.print_data({"out": str(out), "statuses": dict(statuses)}, text, json=json)


def described(found: Extraction) -> str:
    """Formats the result of an extraction."""
    lines = [f"{'stream':10} {'view':10} {'found':>10} {'computed':>10}  cache"]
    for row in found.streams:
        lines.append(f"{row.stream:10} {row.view:10} {row.found:10,} {row.computed:10,}  {row.folder}")
    lines.append(f"{found.data}, {found.images:,} images, {found.seconds:.1f} s")
    if found.images_per_second:
        lines[-1] += f", {found.images_per_second:,.0f} images/s"
    if found.bad:
        lines.append(f"{len(found.bad):,} photos cannot be decoded and are skipped")
    if found.out:
        lines.append(f"{found.out}: {found.images - len(found.bad):,} x {found.width:,} values")
    if found.verified:
        count, numbers = found.verified.images, found.verified.numbers
        lines.append(f"verified: {count:,} images computed again, {numbers:,} values, all bit-identical")
    return "\n".join(lines)
