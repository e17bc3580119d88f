"""multistream profile"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multistream.cli import options, output
from multistream.errors import UsageError
from multistream.figures import save_figure

if TYPE_CHECKING:
    from multistream.network.network import MultiStream
    from multistream.profiling.results import Profile, StageCost


def profile(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN", help="Folder of a run, or its model.safetensors; if omitted, --streams is required."
        ),
    ] = None,
    streams: Annotated[
        str, typer.Option(metavar="SPEC,...", help="Profile an untrained network with these streams.")
    ] = "",
    tap: options.Tap = "gap:64",
    temporal: options.Temporal = "concat",
    fusion: options.Fusion = "early",
    classes: Annotated[
        int, typer.Option(min=2, max=1_000_000, help="Number of classes to use when no RUN is given.")
    ] = 8,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Override one setting, for example options.streams.anp.width=2089."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=1_000_000, help="Batch size for timing.")] = 1,
    repeats: Annotated[int, typer.Option(min=2, max=100_000, help="Number of timed calls.")] = 10,
    trace: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a timeline for Perfetto.")] = None,
    plot: options.Plot = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show the cost of each stage: output shape, parameters, multiply-adds, time, memory. No weights are needed."""
    from multistream.console import Console
    from multistream.profiling.profile import profile as measure
    from multistream.recipe import RuntimeSettings
    from multistream.runtime.device import resolve

    if (run is None) == (not streams):
        raise UsageError("profile", "pass either RUN or --streams.")
    if run is not None:
        from multistream.runs.model_file import load_model

        network = load_model(run).network
    else:
        network = _composed(streams, tap, temporal, fusion, classes, set_ or [])
    runtime = resolve(RuntimeSettings(device=device, precision=precision))  # type: ignore[arg-type]  # checked inside
    Console(quiet=quiet).say(f"profile: {runtime}, batch {batch}")
    result = measure(network, runtime=runtime, batch=batch, repeats=repeats, trace=trace)
    if plot is not None:
        from multistream.profiling.figure import draw

        save_figure(draw(result), plot)
    output.print_result(result, table, json=json)


def table(found: Profile) -> str:
    """Formats a profile as a table."""
    head = (
        f"{'stream':10} {'stage':10} {'shape':>18} {'params':>12} {'MACs':>16} "
        f"{'ms p50':>9} {'p95':>9} {'peak MiB':>9} {'roofline':>9}"
    )
    lines = [head, *(_line(row) for row in (*found.rows, found.total, found.cached))]
    peak = found.roofline
    lines += ["", "total: sum of all rows; cached: what remains to compute with cached features."]
    lines += ["", "batch  ms p50     p95   images/s   peak MiB"]
    for row in found.sweep:
        times = f"{row['batch']:5}  {row['ms_p50']:7.2f} {row['ms_p95']:7.2f}"
        lines.append(f"{times} {row['images_per_second']:9.1f} {row['peak_bytes'] / 2**20:10.1f}")
    lines.append(
        f"\nmachine: {peak.macs_per_second / 1e9:.0f} G multiply-adds/s in a matrix product, "
        f"{peak.bytes_per_second / 1e9:.0f} GB/s in a copy; {found.runtime}. "
        "MACs: multiply-adds, 2 FLOPs each;\nroofline: the time that a row would take at these rates, divided by the "
        "measured time."
    )
    return "\n".join(lines)


def _line(row: StageCost) -> str:
    shape = " x ".join(str(n) for n in row.shape[1:])
    return (
        f"{row.stream:10} {row.stage:10} {shape:>18} {row.params:12,} {row.macs:16,} "
        f"{row.ms_p50:9.3f} {row.ms_p95:9.3f} {row.peak_bytes / 2**20:9.1f} {100 * row.roofline:7.1f} %"
    )


def _composed(streams: str, tap: str, temporal: str, fusion: str, classes: int, settings: list[str]) -> MultiStream:
    from multistream.recipe import Recipe
    from multistream.runs.composition import compose_recipe

    network = options.network_options(streams, tap=tap, temporal=temporal, fusion=fusion)
    recipe = options.with_options(Recipe(), settings, network=network)
    return compose_recipe(recipe, classes=[f"class {number}" for number in range(1, classes + 1)])
