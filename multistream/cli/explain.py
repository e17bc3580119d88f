"""multistream explain"""

from __future__ import annotations

import json as jsonlib
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from multistream.cli import options
from multistream.cli.explain_text import explanation_text
from multistream.errors import UsageError, check_choice

if TYPE_CHECKING:
    from multistream.explaining import Explainer, Explanation, ExplanationRequest
    from multistream.inference.model import Model

Photos = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATHS", help="Files and folders; - reads a list from stdin. Default: the run's test split."
    ),
]
Class = Annotated[
    str, typer.Option("--target", metavar="CLASS", help="Class to explain: predicted, true, or the name of a class.")
]

MOVED = {
    "--self-test": "multistream test-explanation RUN --self-test",
    "--faithfulness": "multistream test-explanation RUN --faithfulness",
    "--masks": "multistream test-explanation RUN --masks FOLDER|CSV",
    "--gallery": "multistream gallery RUN --out FOLDER",
    "--flow": "--method grad-cam or --method grad-cam-total",
    "--stages": "--method grad-cam-last",
}
"""Options of earlier versions, and their replacements."""


class ExplainCommand(TyperCommand):
    """The command `explain`, with messages for options of earlier versions."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises UsageError with the replacement for an option of earlier versions."""
        for arg in args[: args.index("--")] if "--" in args else args:
            option = arg.partition("=")[0]
            if option in MOVED:
                raise UsageError(option, "explain no longer has this option.", do=f"Type {MOVED[option]}.")
        return super().parse_args(ctx, args)


Against = Annotated[
    str,
    typer.Option(
        metavar="CLASS", help="Explain the difference between the logit of the target and the logit of this class."
    ),
]
Method = Annotated[
    str,
    typer.Option(
        help="decomposition (exact sum), grad-cam (gradient through each stage's own tap only), grad-cam-total "
        "(also through deeper stages), grad-cam-last (last stage only), integrated-gradients; auto: "
        "decomposition where it is exact, otherwise grad-cam."
    ),
]
Scale = Annotated[str, typer.Option(help="Quantity to explain: logit or probability.")]
Baseline = Annotated[
    str,
    typer.Option(
        help="How an absent stream is represented in Shapley values: mean (the training mean), zero, or drop "
        "(left out)."
    ),
]
Npz = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write logits, attribution maps, vectors and Shapley values to an .npz file."),
]
Classes = Annotated[
    str,
    typer.Option(
        help="Classes in the .npz file: all, target, or auto (all classes if the decomposition is exact and "
        "there are at most 32 photos)."
    ),
]
Overlays = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Save an overlay of the attribution maps (PNG) for each photo."),
]
ColourScale = Annotated[
    str,
    typer.Option(help="Colour scale of overlays: shared by all streams and stages, or one for each map."),
]


def explain(
    run: options.Run,
    paths: Photos = None,
    data: options.LabelledData = "",
    label: options.Label = "",
    target: Class = "predicted",
    against: Against = "",
    method: Method = "auto",
    scale: Scale = "logit",
    baseline: Baseline = "mean",
    npz: Npz = None,
    classes: Classes = "auto",
    overlays: Overlays = None,
    colour_scale: ColourScale = "shared",
    input: options.Inputs = None,
    device: options.Device = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show how much each stream, stage, position and vector entry contributes to the logit of a class.

    With --json, one JSON list with an object per photo.
    """
    from multistream.console import Console
    from multistream.explaining import ExplanationRequest, Target
    from multistream.inference.model import load

    every = _choice("--classes", classes, {"auto": None, "all": True, "target": False})
    scale_of_colours = _choice("--colour-scale", colour_scale, {"shared": "shared", "map": "map"})
    if classes != "auto" and npz is None:
        raise UsageError("--classes", "it concerns only the .npz file.", do="Add --npz FILE.")
    if colour_scale != "shared" and overlays is None:
        raise UsageError("--colour-scale", "it concerns only overlays.", do="Add --overlays FOLDER.")
    request = ExplanationRequest(Target(target, against, scale), method, baseline, every)
    model, console = load(run), Console(quiet=quiet)
    if (own := model.recipe.runtime.precision) != "fp32":
        console.say(f"precision: fp32; predict computes in {own}, and its probabilities may differ a little")
    explainer = _explainer(model, paths, request, data=data, label=label, input=input, device=device, console=console)
    folder = options.writable_folder(overlays) if overlays else None
    _explain_all(explainer, npz=npz, overlays=folder, colour_scale=scale_of_colours, json=json)


def fused_explainer(model: Model, paths: list[str] | None, target: str, **settings: Any) -> Explainer:
    """Returns an explainer for maps: by the exact sum if there is one, else by integrated gradients."""
    from multistream.explaining import ExplanationRequest, Target

    request = ExplanationRequest(Target(target), method="fused", every_class=False)
    return _explainer(model, paths, request, **settings)


def _explainer(
    model: Model, paths: list[str] | None, request: ExplanationRequest, *, input: list[str] | None, **settings: Any
) -> Explainer:
    from multistream.explaining import Explainer

    photos = list(options.listed_paths(paths)) if paths else None
    return Explainer(model, photos, request=request, inputs=options.pairs(input, "--input"), **settings)


def _explain_all(
    explainer: Explainer, *, npz: Path | None, overlays: Path | None, colour_scale: Any, json: bool
) -> None:
    """Prints and writes the explanations photo by photo."""
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
    """Returns the value for an option's word. Raises UsageError for an unknown word."""
    check_choice(option, value, choices)
    return choices[value]


def _print(found: Explanation, *, first: bool, json: bool) -> None:
    """Prints one photo's explanation, as an item of a JSON list or as text."""
    if json:
        typer.echo(("[\n" if first else ",\n") + jsonlib.dumps(found.to_dict(), ensure_ascii=False), nl=False)
    else:
        typer.echo(("" if first else "\n") + explanation_text(found))
