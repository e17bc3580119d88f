"""multistream explain"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multistream.cli.options import Device, Inputs, Json, Quiet, Run, pairs, print_json
from multistream.errors import UsageError

if TYPE_CHECKING:
    from multistream.explaining import Explanation

MANY = 32
"""Of more photos than this an .npz keeps the target class alone, unless asked for all."""


def explain(
    run: Run,
    paths: Annotated[list[str], typer.Argument(metavar="PATHS...", help="Files and folders; - reads a list on stdin.")],
    target: Annotated[
        str, typer.Option(metavar="CLASS", help="The class to explain: predicted, or its name.")
    ] = "predicted",
    baseline: Annotated[
        str, typer.Option(help="What stands for an absent stream in Shapley values: mean, zero or drop.")
    ] = "mean",
    npz: Annotated[Path | None, typer.Option(metavar="FILE", help="Write logits, maps and vectors as .npz.")] = None,
    classes: Annotated[
        str, typer.Option(help="Classes in the .npz: all, target, or auto (all up to 32 photos).")
    ] = "auto",
    overlays: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write a PNG for each photo.")] = None,
    input: Inputs = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Where the evidence is: how much each stream, stage, pixel and vector entry gave to a class's logit."""
    from multistream.explaining import Explained, NpzWriter, write_overlays
    from multistream.explaining import explain as explain_photos
    from multistream.model import load
    from multistream.prediction import expanded

    if baseline not in ("mean", "zero", "drop"):
        raise UsageError("--baseline", f"{baseline!r} is unknown.", right="mean, zero or drop.")
    if classes not in ("auto", "all", "target"):
        raise UsageError("--classes", f"{classes!r} is unknown.", right="auto, all or target.")
    listed = [line for path in paths for line in (sys.stdin.read().splitlines() if path == "-" else [path])]
    photos = [str(path) for path in expanded(listed)]
    model = load(run)
    every = classes == "all" or (classes == "auto" and len(photos) <= MANY)
    writer = NpzWriter(npz, ids=photos, classes=model.classes, every_class=every) if npz else nullcontext()
    explained: list[Explanation] = []
    with writer as store:
        for found in explain_photos(
            model,
            photos,
            target=target,
            baseline=baseline,  # type: ignore[arg-type]  # checked above
            inputs=pairs(input, "--input"),
            device=device,
        ):
            if not isinstance(found, Explained):
                explained.append(found)
                continue
            if store is not None:
                store.add(found)
            if overlays:
                write_overlays(found, overlays)
            explained += found.explanations
    if json:
        print_json([each.to_dict() for each in explained])
        return
    typer.echo("\n\n".join(map(described, explained)))
    if not quiet:
        typer.echo("maps are direct: each stage's through its own tap, so that all of them add up", err=True)


def described(found: Explanation) -> str:
    """One photo's evidence as lines to read."""
    if found.status != "ok":
        return f"{found.path}: {found.status}"
    lines = [f"{found.path}: {found.predicted}", f"for {found.target}, {100 * found.probability:.1f} %"]
    for key, stages in found.stages.items():
        shown = "  ".join(f"{stage} {value:+.3f}" for stage, value in stages.items())
        lines.append(f"  {key:10} {sum(stages.values()):+8.3f}   {shown}{_mark(found, key)}")
    for key, value in found.vectors.items():
        shown = "  ".join(f"{name} {given:+.3f}" for name, given in found.entries[key][:5])
        lines.append(f"  {key:10} {value:+8.3f}   {shown}{_mark(found, key)}")
    for name, bias in found.bias.items():
        lines.append(f"  {'bias':10} {bias:+8.3f}   {name}: logit {found.logits[name]:+.3f}")
    shapley = "  ".join(f"{key} {value:+.3f}" for key, value in found.shapley.items())
    lines.append(f"  Shapley    {shapley}   (absent: {found.baseline})")
    lines.append(f"  residual   {found.residual:.1e} of the logit is not in the sum")
    return "\n".join(lines)


def _mark(found: Explanation, key: str) -> str:
    return (
        "" if found.exact[key] else "   local: this part is not linear; no exact sum exists, this is gradient x input"
    )
