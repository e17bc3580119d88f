"""multistream explain"""

from __future__ import annotations

import json as jsonlib
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multistream.cli.examined import Asked, print_examination, print_self_test
from multistream.cli.explained import described
from multistream.cli.options import Device, Inputs, Json, Quiet, Run, listed_paths, pairs
from multistream.errors import UsageError

if TYPE_CHECKING:
    from multistream.explaining import Explanation


def explain(
    run: Run,
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATHS...]", help="Files and folders; - reads a list on stdin. Without: the run's own test part."
        ),
    ] = None,
    data: Annotated[str, typer.Option(metavar="PATH", help="Explain another set, with labels: as for train.")] = "",
    label: Annotated[str, typer.Option(help="Which label, where a layout offers several.")] = "",
    target: Annotated[
        str, typer.Option(metavar="CLASS", help="The class to explain: predicted, true, or its name.")
    ] = "predicted",
    against: Annotated[str, typer.Option(metavar="CLASS", help="Explain the difference to this class.")] = "",
    method: Annotated[
        str,
        typer.Option(help="decomposition, grad-cam, integrated-gradients, or auto: the exact sum where there is one."),
    ] = "auto",
    flow: Annotated[
        str, typer.Option(help="direct: through each stage's own tap, which adds up; total: through deeper stages too.")
    ] = "auto",
    stages: Annotated[str, typer.Option(help="all, or last: Grad-CAM of each stream's last stage alone.")] = "all",
    scale: Annotated[str, typer.Option(help="logit or probability.")] = "logit",
    baseline: Annotated[
        str, typer.Option(help="What stands for an absent stream in Shapley values: mean, zero or drop.")
    ] = "mean",
    npz: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write logits, maps, vectors and values as .npz.")
    ] = None,
    classes: Annotated[
        str, typer.Option(help="Classes in the .npz: all, target, or auto (all for sums of up to 32 photos).")
    ] = "auto",
    overlays: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write a PNG for each photo.")] = None,
    colour_scale: Annotated[
        str, typer.Option(help="Of overlays: shared by all streams and stages, or one for each map.")
    ] = "shared",
    gallery: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Write galleries: all, some, no streams right; mean maps; what vectors saw."
        ),
    ] = None,
    faithfulness: Annotated[
        bool, typer.Option("--faithfulness", help="Deletion and insertion of the maps, against maps of noise.")
    ] = False,
    masks: Annotated[
        str,
        typer.Option(
            metavar="FOLDER|CSV", help="Where evidence is known to lie: the pointing game, and the energy there."
        ),
    ] = "",
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Plant evidence, teach it to the composition, check what explains it.")
    ] = False,
    input: Inputs = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Where the evidence is: how much each stream, stage, pixel and vector entry gave to a class's logit."""
    from multistream.console import Console
    from multistream.explaining import Explainer, NpzWriter, Target, write_overlay
    from multistream.inference.model import load

    every = {"auto": None, "all": True, "target": False}
    if classes not in every:
        raise UsageError("--classes", f"{classes!r} is unknown.", right="auto, all or target.")
    if colour_scale not in ("shared", "map"):
        raise UsageError("--colour-scale", f"{colour_scale!r} is unknown.", right="shared or map.")
    listed = listed_paths(paths or ())
    model = load(run)
    asked = Asked(faithfulness, masks, gallery, self_test)
    if asked:
        per_photo = {
            "--method": method != "auto",
            "--flow": flow != "auto",
            "--stages": stages != "all",
            "--baseline": baseline != "mean",
            "--classes": classes != "auto",
            "--colour-scale": colour_scale != "shared",
            "--npz": npz is not None,
            "--overlays": overlays is not None,
        }
        about_photos = {
            "PATHS": bool(paths),
            "--data": bool(data),
            "--label": bool(label),
            "--target": target != "predicted",
            "--against": bool(against),
            "--scale": scale != "logit",
            "--input": bool(input),
            "--faithfulness": faithfulness,
            "--masks": bool(masks),
            "--gallery": gallery is not None,
        }
        asked.refuse(per_photo | (about_photos if self_test else {}))
        console = Console(quiet=quiet)
        if self_test:
            print_self_test(model, device=device, json=json, console=console)
            return
        print_examination(
            model,
            listed if paths else None,
            asked=asked,
            target=Target(target, against, scale),
            data=data,
            label=label,
            inputs=pairs(input, "--input"),
            device=device,
            json=json,
            console=console,
        )
        return
    explainer = Explainer(
        model,
        listed if paths else None,
        target=Target(target, against, scale),
        data=data,
        label=label,
        method=method,
        flow=flow,
        stages=stages,
        baseline=baseline,
        every_class=every[classes],
        inputs=pairs(input, "--input"),
        device=device,
        console=Console(quiet=quiet),
    )
    writer = NpzWriter(npz, ids=explainer.subjects.names, classes=model.classes) if npz else nullcontext()
    told = 0
    with writer as store:
        for told, found in enumerate(explainer.explanations(), 1):
            if store is not None:
                store.add(found)
            if overlays and found.arrays:
                name = f"{told - 1:05d}-{Path(found.path).stem}.png"
                write_overlay(found, overlays / name, colour_scale=colour_scale)  # type: ignore[arg-type]  # checked
            _tell(found, first=told == 1, json=json)
    if json:
        typer.echo("\n]" if told else "[]")


def _tell(found: Explanation, *, first: bool, json: bool) -> None:
    """Prints one photo's evidence: as an item of a JSON list, or as lines to read."""
    if json:
        typer.echo(("[\n" if first else ",\n") + jsonlib.dumps(found.to_dict(), ensure_ascii=False), nl=False)
    else:
        typer.echo(("" if first else "\n") + described(found))
