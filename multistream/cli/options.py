"""Options that several commands share, so that they are the same in all commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multistream.errors import UsageError
from multistream.figures import FORMATS
from multistream.files import temporary
from multistream.recipe import Recipe
from multistream.spec import parse_specs

if TYPE_CHECKING:
    from multistream.training.engines import Engine as RunEngine

Json = Annotated[bool, typer.Option("--json", help="Print JSON only, to stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Suppress progress and messages.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")]
DeviceSet = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps. Default: the recipe's (auto).")
]
PrecisionSet = Annotated[
    str, typer.Option("--precision", help="auto, fp32, bf16 or fp16. Default: the recipe's (auto).")
]
"""The option of commands with a recipe: "" keeps the recipe's setting."""
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="KEY=PATH",
        help="Extra input for stream KEY: a file of vectors (.npz, .csv, ...), or a folder of input maps such as "
        "depth images; repeatable.",
    ),
]
Streams = Annotated[
    str,
    typer.Option(
        metavar="SPEC,...",
        help="Streams, as [KEY=]NAME[:VARIANT], or KEY=RUN to reuse stream KEY of a finished run. Built in: object "
        "(trained on ImageNet), places (trained on the scenes of Places365), anp (scores for adjective-noun pairs); "
        "`multistream plugins` lists all.",
    ),
]
StreamsWithoutRun = Annotated[str, typer.Option(metavar="SPEC,...", help="Streams to use when no RUN is given.")]
Tap = Annotated[
    str,
    typer.Option(
        help="How to turn the feature map of a stage into a token: gap[:WIDTH], last, cls, embed, or one "
        "provided by a plugin. "
        "Default: the run's or the recipe's (gap:64).",
        show_default=False,
    ),
]
Temporal = Annotated[
    str,
    typer.Option(
        help="How to combine the tokens of a stream into one vector: concat, average, bigru, bigru+att, or "
        "one provided by a plugin. "
        "Default: the run's or the recipe's (concat).",
        show_default=False,
    ),
]
Fusion = Annotated[
    str,
    typer.Option(
        help="How to combine the streams: early, late, gated, or one provided by a plugin. "
        "Default: the run's or the recipe's (early).",
        show_default=False,
    ),
]
TrainingData = Annotated[
    str, typer.Option(metavar="PATH", help="Class folders, a CSV, or LAYOUT:PATH. Default: the demo set.")
]
DataAsForTrain = Annotated[
    str,
    typer.Option(
        metavar="PATH", help="Data set (same formats as for train --data). Default: the run's, or the demo set."
    ),
]
LabelledData = Annotated[
    str,
    typer.Option(
        "--data", metavar="PATH", help="Use this labelled data set instead (same formats as for train --data)."
    ),
]
LabelColumn = Annotated[
    str,
    typer.Option(
        metavar="COLUMN",
        help="Which label to use if the data set defines more than one: a CSV column, or a label of the layout.",
    ),
]
Label = Annotated[str, typer.Option("--label", help="Which label to use if the data set defines more than one.")]
Groups = Annotated[
    str,
    typer.Option(
        metavar="COLUMN|FILE",
        help="Groups of photos that must not be divided between splits: a CSV column, or a CSV file with the "
        "columns path and group.",
    ),
]
Missing = Annotated[
    str,
    typer.Option(
        metavar="error|drop|mean",
        help="What to do with photos that lack a vector or input map: report an error, ignore that stream, or use the "
        "training mean. Default: the run's data.missing_vectors, where skip means error.",
    ),
]
Engine = Annotated[
    str,
    typer.Option(metavar="local|ray", help="ray: run on Ray Data; the photos may then also be in Parquet files."),
]
TrainingEngine = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="local|slurm|ray",
        help="Train several runs in parallel using this engine. Default: one after the other.",
    ),
]
EngineOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-option",
        metavar="NAME=VALUE",
        help="Option of the engine: parallel (local), any submitit parameter such as timeout_min (slurm), num_cpus or "
        "num_gpus (ray); repeatable.",
    ),
]
Plan = Annotated[bool, typer.Option("--plan", "--dry-run", help="List the planned runs and their status, then exit.")]
Without = Annotated[list[str] | None, typer.Option(metavar="KEY", help="Ignore this stream; repeatable.")]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=FILE|RUN|hub|random",
        help="Weights for stream KEY: a file, another run, hub (download the pretrained weights) or random; "
        "repeatable.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Override one setting of the recipe; repeatable."),
]
Freeze = Annotated[
    str,
    typer.Option(
        metavar="WHAT,...",
        help="What to freeze: none, streams (the backbones), branches (streams with their taps and temporal modules), "
        "one stream (KEY) or its first stages (KEY:NUMBER). Default: streams that have pretrained weights, and "
        "branches reused from other runs.",
    ),
]
Epochs = Annotated[int | None, typer.Option(help="Maximum number of epochs. Default: the recipe's (30).")]
BatchSize = Annotated[
    str,
    typer.Option(
        metavar="N|auto",
        help="Images per batch; auto: the largest that fits in memory, with gradient accumulation. "
        "Default: the recipe's (64).",
    ),
]
Seed = Annotated[int | None, typer.Option(help="Random seed. Default: the recipe's (0).")]
RecipeName = Annotated[
    str,
    typer.Option(
        metavar="FILE|RUN|NAME", help="Settings: a file, a run, or a built-in recipe: default, paper, paper-code."
    ),
]
RecipeWithoutRun = Annotated[
    str, typer.Option(metavar="FILE|RUN|NAME", help="Recipe to use when no RUN is given. Default: default.")
]
RunOrNone = Annotated[
    Path | None, typer.Argument(metavar="RUN", help="Folder of a run; if omitted, --streams or --recipe is required.")
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or its model.safetensors.")]


def _figure_file(path: Path | None) -> Path | None:
    """Raises UsageError for a file with an unknown suffix, before any work is done."""
    if path is not None and path.suffix.lower() not in FORMATS:
        raise UsageError("--plot", f"{path} has an unknown format.", right=f"It must end in {', '.join(FORMATS)}.")
    return path


Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE.pdf|svg|png", help="Save a figure (PDF, SVG or PNG).", callback=_figure_file),
]


def chosen_engine(name: str, options: Sequence[str] | None) -> RunEngine | None:
    """Returns the engine of --engine and --engine-option; None without --engine."""
    if options and not name:
        raise UsageError("--engine-option", "it needs an engine.", do="Pass --engine local, slurm or ray.")
    if not name:
        return None
    from multistream.training.engines import Engine

    return Engine.parse(name, pairs(options, "--engine-option"))


def check_engine(name: str) -> None:
    """Raises UsageError for an engine that predict and extract do not support."""
    if name not in ("local", "ray"):
        raise UsageError("--engine", f"{name!r} is unknown.", right="It must be local or ray.")


def items(text: str) -> list[str]:
    """Splits a comma-separated option.

    >>> items("accuracy, macro_f1")
    ['accuracy', 'macro_f1']
    """
    return [item.strip() for item in text.split(",") if item.strip()]


def given_names(options: Mapping[str, object]) -> list[str]:
    """Returns the names of the given options: those with a true value."""
    return [name for name, value in options.items() if value]


def pairs(texts: Sequence[str] | None, option: str) -> dict[str, str]:
    """Parses `KEY=VALUE` options to a dict; `~` after the `=` is the home folder.

    >>> pairs(["object=a.safetensors"], "--weights")
    {'object': 'a.safetensors'}
    """
    values: dict[str, str] = {}
    for text in texts or ():
        key, _, value = text.partition("=")
        if not (key and value):
            raise UsageError(option, f"{text!r} is incomplete.", right="Write KEY=VALUE, and repeat the option.")
        if key in values:
            raise UsageError(option, f"{key!r} is given twice.")
        values[key] = os.path.expanduser(value)
    return values


def listed_paths(paths: Sequence[str]) -> Iterator[str]:
    """Yields the paths of a command; `-` reads paths from stdin, one per line, which may not be valid UTF-8."""
    for path in paths:
        yield from _lines_of_stdin() if path == "-" else (path,)


def _lines_of_stdin() -> Iterator[str]:
    for line in sys.stdin.buffer:
        if line.strip():
            yield os.fsdecode(line.removesuffix(b"\n").removesuffix(b"\r"))


def writable_folder(folder: Path) -> Path:
    """Creates the folder if it is missing, and checks that it is writable before any photo is explained."""
    folder = folder.expanduser()
    with temporary(folder) as name:
        name.touch()
    return folder


NOT_GIVEN: tuple[Any, ...] = ("", None, {}, [])


def check_run_or_streams(command: str, run: Path | None, streams: str, recipe: str) -> None:
    """Raises UsageError unless exactly one of RUN and (--streams or --recipe) is given."""
    if (run is None) == (not streams and not recipe):
        raise UsageError(command, "pass a RUN, or --streams or --recipe.", right="Pass exactly one of them.")


def with_options(recipe: Recipe, settings: Sequence[str] | None = None, **options: Mapping[str, Any]) -> Recipe:
    """Updates the recipe with a command's given options by section, then with those of --set."""
    sections = {
        section: {name: value for name, value in values.items() if value not in NOT_GIVEN}
        for section, values in options.items()
    }
    return recipe.updated(sections).with_settings(settings or [])


def network_options(
    streams: str,
    *,
    weights: Sequence[str] | None = None,
    inputs: Sequence[str] | None = None,
    freeze: str = "",
    **parts: str,
) -> dict[str, Any]:
    """Returns the section `network` of --streams, --weights, --input, --freeze, --tap, --temporal and --fusion."""
    return {
        "streams": {spec.key: spec.part for spec in parse_specs(streams)} if streams else {},
        "weights": pairs(weights, "--weights"),
        "inputs": pairs(inputs, "--input"),
        "freeze": freeze.split(",") if freeze else [],
        **parts,
    }
