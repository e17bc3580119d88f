"""Options that several commands share, so that each reads the same everywhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multistream.errors import UsageError
from multistream.files import temporary
from multistream.recipe import Recipe
from multistream.spec import parse_specs

if TYPE_CHECKING:
    from multistream.training.engines import Engine as RunEngine

Json = Annotated[bool, typer.Option("--json", help="Print only JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Suppress progress and messages.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")]
DeviceSet = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.", show_default="auto")]
PrecisionSet = Annotated[str, typer.Option("--precision", help="auto, fp32, bf16 or fp16.", show_default="auto")]
"""Where "" leaves the recipe's setting as it is."""
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input", metavar="NAME=PATH", help="A stream's vectors (.npz, .csv, ...) or folder of maps; repeatable."
    ),
]
Streams = Annotated[
    str, typer.Option(metavar="SPEC,...", help="Streams, as [KEY=]NAME[:VARIANT], or KEY=RUN for a run's branch.")
]
StreamsWithoutRun = Annotated[str, typer.Option(metavar="SPEC,...", help="Streams, if there is no RUN.")]
Tap = Annotated[str, typer.Option(help="Tap: turns the map of a stage into a token.", show_default="gap:64")]
Temporal = Annotated[
    str, typer.Option(help="Temporal: combines a stream's tokens into one vector.", show_default="concat")
]
Fusion = Annotated[str, typer.Option(help="Fusion: combines the streams.", show_default="early")]
TrainingData = Annotated[
    str, typer.Option(metavar="PATH", help="Class folders, a CSV, or LAYOUT:PATH. Default: the demo set.")
]
DataAsForTrain = Annotated[
    str, typer.Option(metavar="PATH", help="The data set, as for train.", show_default="the run's, or the demo set")
]
LabelledData = Annotated[str, typer.Option("--data", metavar="PATH", help="Another labelled data set, as for train.")]
LabelColumn = Annotated[
    str,
    typer.Option(metavar="COLUMN", help="Label to use if there are several: a CSV column, or a label of the layout."),
]
Label = Annotated[str, typer.Option("--label", help="Label to use if the data set has several.")]
Groups = Annotated[
    str,
    typer.Option(
        metavar="COLUMN|FILE", help="Groups that must not be split: a CSV column, or a CSV file with path,group."
    ),
]
Missing = Annotated[
    str,
    typer.Option(
        metavar="error|drop|mean",
        help="Photos without a vector or map: report an error, drop the stream, or use the training mean.",
        show_default="as in training",
    ),
]
Engine = Annotated[
    str, typer.Option(metavar="local|ray", help="ray: run on Ray Data; photos may then be parquet files or URLs.")
]
TrainingEngine = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="local|slurm|ray",
        help="Train the runs in parallel, with this engine.",
        show_default="one after the other",
    ),
]
EngineOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-option",
        metavar="NAME=VALUE",
        help="local: parallel; slurm: those of submitit (timeout_min, ...); ray: num_cpus, num_gpus. Repeatable.",
    ),
]
Plan = Annotated[
    bool, typer.Option("--plan", "--dry-run", help="Print the list of trainings and their states, and exit.")
]
Without = Annotated[list[str] | None, typer.Option(metavar="KEY", help="Leave this stream out; repeatable.")]
Weights = Annotated[
    list[str] | None, typer.Option(metavar="KEY=FILE|RUN|hub|random", help="A stream's pretrained weights; repeatable.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One setting of the recipe; repeatable.")
]
Freeze = Annotated[
    str, typer.Option(metavar="WHAT,...", help="none, streams, branches, KEY or KEY:STAGES.", show_default="auto")
]
Epochs = Annotated[int | None, typer.Option(help="Maximum number of epochs.", show_default="30, or the recipe's")]
BatchSize = Annotated[
    str,
    typer.Option(
        metavar="N|auto",
        help="Images per batch; auto: the largest that fits into memory, with gradient accumulation.",
        show_default="64",
    ),
]
Seed = Annotated[int | None, typer.Option(help="Random seed.", show_default="0")]
RecipeName = Annotated[
    str,
    typer.Option(
        metavar="FILE|RUN|NAME", help="Settings: a file, a run, or a shipped recipe: default, paper, paper-code."
    ),
]
RecipeWithoutRun = Annotated[
    str, typer.Option(metavar="FILE|RUN|NAME", help="Settings, if there is no RUN.", show_default="default")
]
RunOrNone = Annotated[
    Path | None, typer.Argument(metavar="RUN", help="A run's folder; without one give --streams or --recipe.")
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or its model.safetensors.")]

FIGURES = (".pdf", ".svg", ".png")


def _figure_file(path: Path | None) -> Path | None:
    """Refuses a file of an unknown kind before any work is done for it."""
    if path is not None and path.suffix.lower() not in FIGURES:
        raise UsageError("--plot", f"{path} has an unknown format.", right=f"It must end in {', '.join(FIGURES)}.")
    return path


Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE.pdf|svg|png", help="Save a figure (PDF, SVG or PNG).", callback=_figure_file),
]


def chosen_engine(name: str, options: Sequence[str] | None) -> RunEngine | None:
    """The engine of --engine and --engine-option; None without --engine."""
    if options and not name:
        raise UsageError("--engine-option", "it needs an engine.", do="Give --engine local, slurm or ray.")
    if not name:
        return None
    from multistream.training.engines import Engine

    return Engine.parse(name, pairs(options, "--engine-option"))


def items(text: str) -> list[str]:
    """The items of a comma-separated option.

    >>> items("accuracy, macro_f1")
    ['accuracy', 'macro_f1']
    """
    return [item.strip() for item in text.split(",") if item.strip()]


def given_names(options: Mapping[str, object]) -> list[str]:
    """The names of the options that were given: those whose value is true."""
    return [name for name, value in options.items() if value]


def pairs(texts: Sequence[str] | None, option: str) -> dict[str, str]:
    """`KEY=VALUE` options as a dict; `~` after the `=` is the home folder.

    >>> pairs(["object=a.safetensors"], "--weights")
    {'object': 'a.safetensors'}
    """
    found: dict[str, str] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise UsageError(option, f"{text!r} is incomplete.", right="Write KEY=VALUE, and repeat the option.")
        if key in found:
            raise UsageError(option, f"{key!r} is given twice.")
        found[key] = str(Path(value).expanduser()) if value.startswith("~") else value
    return found


def listed_paths(paths: Sequence[str]) -> Iterator[str]:
    """The paths of a command as they come; `-` means those on stdin, one per line, in any bytes that name files."""
    for path in paths:
        yield from _lines_of_stdin() if path == "-" else (path,)


def _lines_of_stdin() -> Iterator[str]:
    for line in sys.stdin.buffer:
        if line.strip():
            yield os.fsdecode(line.removesuffix(b"\n").removesuffix(b"\r"))


def writable_folder(folder: Path) -> Path:
    """The folder, made if missing; refused before any photo is explained where nothing can be written."""
    folder = folder.expanduser()
    with temporary(folder) as name:
        name.touch()
    return folder


NOT_GIVEN: tuple[Any, ...] = ("", None, {}, [])


def check_run_or_streams(command: str, run: Path | None, streams: str, recipe: str) -> None:
    """Refuses neither and both of RUN and --streams or --recipe."""
    if (run is None) == (not streams and not recipe):
        raise UsageError(command, "give a RUN, or --streams or --recipe.", right="Give exactly one of them.")


def with_options(recipe: Recipe, settings: Sequence[str] | None = None, **options: Mapping[str, Any]) -> Recipe:
    """The recipe with a command's options by section, then with --set; options that were not given change nothing."""
    given = {
        section: {name: value for name, value in values.items() if value not in NOT_GIVEN}
        for section, values in options.items()
    }
    return recipe.updated(given).with_settings(settings or [])


def network_options(
    streams: str,
    *,
    weights: Sequence[str] | None = None,
    inputs: Sequence[str] | None = None,
    freeze: str = "",
    **parts: str,
) -> dict[str, Any]:
    """The section `network` from --streams, --weights, --input, --freeze, and the names of tap, temporal and fusion."""
    return {
        "streams": {spec.key: spec.part for spec in parse_specs(streams)} if streams else {},
        "weights": pairs(weights, "--weights"),
        "inputs": pairs(inputs, "--input"),
        "freeze": freeze.split(",") if freeze else [],
        **parts,
    }
