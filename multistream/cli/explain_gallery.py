"""multistream gallery"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from multistream.cli import options, output
from multistream.cli.explain import Class, Photos, fused_explainer
from multistream.cli.explain_text import gallery_text
from multistream.errors import check_choice

KINDS = ("png", "pdf", "svg")


def gallery(
    run: options.Run,
    paths: Photos = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Output folder. Default: RUN/gallery.")] = None,
    format: Annotated[str, typer.Option(help="png, pdf or svg.")] = "png",
    data: options.LabelledData = "",
    label: options.Label = "",
    target: Class = "predicted",
    input: options.Inputs = None,
    device: options.Device = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Save galleries: photos that all, some or none of the streams classify correctly.

    Also save the photos with the highest probability of each class, the mean attribution map of each class, and the
    vector entries with the largest contributions. If photos have several labels, a stream is correct if its class is
    one of them.
    """
    from multistream.console import Console
    from multistream.explaining.gallery import make_gallery
    from multistream.inference.model import load

    check_choice("--format", format, KINDS)
    console, model = Console(quiet=quiet), load(run)
    explainer = fused_explainer(
        model, paths, target, data=data, label=label, input=input, labelled=True, device=device, console=console
    )
    folder = options.writable_folder(out or model.path.parent / "gallery")
    with console.progress(len(explainer.selection), "photos") as bar:
        result = make_gallery(explainer, folder, kind=format, tick=bar.advance)
    for path in result.files:
        console.say(str(path))
    output.print_result(result, gallery_text, json=json)
