"""multistream gallery"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from multistream.cli.explain import Class, Photos
from multistream.cli.explain_text import gallery_text
from multistream.cli.options import (
    Device,
    Inputs,
    Json,
    Label,
    LabelledData,
    Quiet,
    Run,
    listed_paths,
    pairs,
    print_json,
)
from multistream.errors import UsageError

KINDS = ("png", "pdf", "svg")


def gallery(
    run: Run,
    paths: Photos = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Output folder.", show_default="gallery in the run's folder")
    ] = None,
    format: Annotated[str, typer.Option(help="png, pdf or svg.")] = "png",
    data: LabelledData = "",
    label: Label = "",
    target: Class = "predicted",
    input: Inputs = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Galleries: photos that all, some or no streams classify correctly, mean maps by class, entries of vectors."""
    from multistream.console import Console
    from multistream.explaining import Explainer, ExplanationRequest, Target
    from multistream.explaining.gallery import make_gallery
    from multistream.files import temporary
    from multistream.inference.model import load

    if format not in KINDS:
        raise UsageError("--format", f"{format!r} is unknown.", right="png, pdf or svg.")
    console, model = Console(quiet=quiet), load(run)
    explainer = Explainer(
        model,
        list(listed_paths(paths)) if paths else None,
        request=ExplanationRequest(Target(target), method="fused", every_class=False),
        data=data,
        label=label,
        inputs=pairs(input, "--input"),
        labelled=True,
        device=device,
        console=console,
    )
    folder = (out or model.path.parent / "gallery").expanduser()
    with temporary(folder) as name:  # a place that cannot be written is refused before the photos are explained
        name.touch()
    with console.progress(len(explainer.selection), "photos") as bar:
        found = make_gallery(explainer, folder, kind=format, tick=bar.advance)
    for path in found.files:
        console.say(str(path))
    if json:
        print_json(found.to_dict())
    else:
        typer.echo(gallery_text(found))
