"""multistream explain"""

from __future__ import annotations

import json as jsonlib
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from multistream.cli.explain_text import explanation_text
from multistream.cli.options import Device, Inputs, Json, Label, LabelledData, Quiet, Run, listed_paths, pairs
from multistream.errors import UsageError

if TYPE_CHECKING:
    from multistream.explaining import Explainer, Explanation

Photos = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATHS", help="Files and folders; - reads a list on stdin. Default: the test split of the run."
    ),
]
Class = Annotated[str, typer.Option("--target", metavar="CLASS", help="predicted, true, or a class by name.")]

MOVED = {
    "--self-test": "multistream test-explanation RUN --self-test",
    "--faithfulness": "multistream test-explanation RUN --faithfulness",
    "--masks": "multistream test-explanation RUN --masks FOLDER|CSV",
    "--gallery": "multistream gallery RUN --out FOLDER",
    "--flow": "--method grad-cam or --method grad-cam-total",
    "--stages": "--method grad-cam-last",
}
"""Options of former versions, and what to type instead."""


class ExplainCommand(TyperCommand):
    """The command, which answers options of former versions."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuses them with what to type instead."""
        for arg in args[: args.index("--")] if "--" in args else args:
            option = arg.partition("=")[0]
            if option in MOVED:
                raise UsageError(option, "explain no longer has this option.", do=f"Type {MOVED[option]}.")
        return super().parse_args(ctx, args)


def explain(
    run: Run,
    paths: Photos = None,
    data: LabelledData = "",
    label: Label = "",
    target: Class = "predicted",
    against: Annotated[str, typer.Option(metavar="CLASS", help="Explain the difference to this class.")] = "",
    method: Annotated[
        str,
        typer.Option(
            help="decomposition (exact sum), grad-cam (each stage through its own tap), grad-cam-total (through deeper "
            "stages too), grad-cam-last (last stage), integrated-gradients; auto: the exact sum if there is one."
        ),
    ] = "auto",
    scale: Annotated[str, typer.Option(help="logit or probability.")] = "logit",
    baseline: Annotated[
        str, typer.Option(help="What replaces an absent stream in Shapley values: mean, zero or drop.")
    ] = "mean",
    npz: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write logits, maps, vectors and Shapley values as .npz.")
    ] = None,
    classes: Annotated[
        str,
        typer.Option(help="Classes in the .npz: all, target, or auto (all classes for exact sums of up to 32 photos)."),
    ] = "auto",
    overlays: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write a PNG for each photo.")] = None,
    colour_scale: Annotated[
        str, typer.Option(help="Colour scale of overlays: shared by all streams and stages, or one for each map.")
    ] = "shared",
    input: Inputs = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Attribution: what each stream, stage, pixel and vector entry contributes to a class's logit."""
    from multistream.console import Console
    from multistream.explaining import Explainer, ExplanationRequest, Target
    from multistream.inference.model import load

    every = _choice("--classes", classes, {"auto": None, "all": True, "target": False})
    scale_of_colours = _choice("--colour-scale", colour_scale, {"shared": "shared", "map": "map"})
    explainer = Explainer(
        load(run),
        list(listed_paths(paths)) if paths else None,
        request=ExplanationRequest(Target(target, against, scale), method, baseline, every),
        data=data,
        label=label,
        inputs=pairs(input, "--input"),
        device=device,
        console=Console(quiet=quiet),
    )
    _explain_all(explainer, npz=npz, overlays=_writable(overlays), colour_scale=scale_of_colours, json=json)


def _explain_all(
    explainer: Explainer, *, npz: Path | None, overlays: Path | None, colour_scale: Any, json: bool
) -> None:
    """Prints and writes one photo after the other."""
    from multistream.explaining import NpzWriter, write_overlay

    writer = NpzWriter(npz, ids=explainer.selection.names, classes=explainer.model.classes) if npz else nullcontext()
    printed = 0
    with writer as store:
        for printed, found in enumerate(explainer.explanations(), 1):
            if store is not None:
                store.add(found)
            if overlays and found.arrays:
                path = overlays / f"{printed - 1:05d}-{Path(found.path).stem}.png"
                write_overlay(found, path, colour_scale=colour_scale)
            _print(found, first=printed == 1, json=json)
    if json:
        typer.echo("\n]" if printed else "[]")


def _choice(option: str, value: str, choices: dict[str, Any]) -> Any:
    """The value that an option's word selects."""
    if value not in choices:
        *some, last = choices
        raise UsageError(option, f"{value!r} is unknown.", right=f"{', '.join(some)} or {last}.")
    return choices[value]


def _writable(folder: Path | None) -> Path | None:
    """The folder, made if missing; refused before any photo is explained where nothing can be written."""
    from multistream.files import temporary

    if folder is not None:
        folder = folder.expanduser()
        with temporary(folder) as name:
            name.touch()
    return folder


def _print(found: Explanation, *, first: bool, json: bool) -> None:
    """Prints one photo's explanation: as an item of a JSON list, or as lines to read."""
    if json:
        typer.echo(("[\n" if first else ",\n") + jsonlib.dumps(found.to_dict(), ensure_ascii=False), nl=False)
    else:
        typer.echo(("" if first else "\n") + explanation_text(found))
