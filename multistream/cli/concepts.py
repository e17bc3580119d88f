"""multistream concepts"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from multistream.cli import options, output
from multistream.commands import command_line

Names = Annotated[
    Path,
    typer.Argument(
        metavar="NAMES", help="File with one name per line, a JSON list, or SentiBank's list of adjective-noun pairs."
    ),
]
ModelName = Annotated[
    str,
    typer.Option(metavar="MODEL", help="An open_clip model: ViT-B-16, hf-hub:OWNER/NAME, or local-dir:FOLDER."),
]
Out = Annotated[
    Path,
    typer.Option(metavar="FILE", help="Output file for the concept bank: names and their embeddings (.safetensors)."),
]
Weights = Annotated[
    str,
    typer.Option(
        metavar="TAG|FILE",
        help="An open_clip pretrained tag (downloaded) or a weight file; not needed for hf-hub models.",
    ),
]
ImageModel = Annotated[
    str,
    typer.Option(metavar="MODEL.TAG", help="Name of the image tower in timm. Default: the image tower of --model."),
]
Template = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT",
        help="Prompt template with {} in place of the name; repeatable (the embeddings are averaged). "
        "Default: a photo of {}.",
    ),
]


def concepts(
    names: Names,
    model: ModelName,
    out: Out,
    weights: Weights = "",
    image_model: ImageModel = "",
    template: Template = None,
    device: options.Device = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Embed a list of concepts with the text tower of a vision-language model.

    Use the result with `--streams KEY=text:FILE`."""
    from multistream.concepts.bank import read_names, write_bank
    from multistream.concepts.text_tower import TEMPLATE, embed_concepts
    from multistream.console import Console
    from multistream.recipe import RuntimeSettings
    from multistream.runtime.device import resolve

    console = Console(quiet=quiet)
    texts = read_names(names)
    place = resolve(RuntimeSettings(device=device, precision="fp32")).device
    with console.progress(len(texts), "concepts") as bar:
        bank = embed_concepts(
            texts,
            model=model,
            weights=weights,
            image_model=image_model,
            templates=template or (TEMPLATE,),
            device=place,
            advance=bar.advance,
        )
    write_bank(bank, out)
    concepts, width = bank.embeddings.shape
    size = {"concepts": concepts, "width": width}
    about = {"out": str(out), "image_model": bank.image_model, "logit_scale": bank.logit_scale, **size}
    output.print_data(about, f"{out}: {concepts:,} concepts x {width}, image tower {bank.image_model}", json=json)
    part = str(out) if "/" in str(out) or str(out).endswith(".safetensors") else f"./{out}"
    console.say(f"next: {command_line('train', '--streams', f'concepts=text:{part}', '--weights', 'concepts=hub')}")
