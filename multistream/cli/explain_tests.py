"""multistream test-explanation"""

from __future__ import annotations

from typing import Annotated

import typer

from multistream.cli.explain import Class, Photos
from multistream.cli.explain_text import photo_tests_text, self_test_text
from multistream.cli.options import (
    Device,
    Inputs,
    Json,
    Label,
    LabelledData,
    Quiet,
    Run,
    given_names,
    listed_paths,
    pairs,
    print_json,
)
from multistream.errors import UsageError

RunSelfTest = Annotated[
    bool, typer.Option("--self-test", help="Train the composition on planted evidence and check that it is found.")
]
Faithfulness = Annotated[
    bool, typer.Option("--faithfulness", help="Deletion and insertion of the maps' pixels, against maps of noise.")
]
Masks = Annotated[
    str, typer.Option(metavar="FOLDER|CSV", help="Object masks or boxes: pointing game, and energy inside them.")
]


def explanation_tests(
    run: Run,
    paths: Photos = None,
    self_test: RunSelfTest = False,
    faithfulness: Faithfulness = False,
    masks: Masks = "",
    data: LabelledData = "",
    label: Label = "",
    target: Class = "predicted",
    input: Inputs = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Test explanations: --self-test (the default; a minute or more), --faithfulness and --masks on photos.

    Exit code 1 if a check of the self-test fails.
    """
    from multistream.console import Console
    from multistream.explaining import Explainer, ExplanationRequest, Target, photo_tests, selftest
    from multistream.inference.model import load

    on_photos = faithfulness or bool(masks)
    about_photos = {
        "PATHS": paths,
        "--data": data,
        "--label": label,
        "--input": input,
        "--target": target != "predicted",
    }
    if not on_photos and (unused := given_names(about_photos)):
        raise UsageError(unused[0], "the self-test reads no photos.", do="Add --faithfulness or --masks.")
    console, model = Console(quiet=quiet), load(run)
    tested, measured = None, None
    if on_photos:
        explainer = Explainer(
            model,
            list(listed_paths(paths)) if paths else None,
            request=ExplanationRequest(Target(target), method="fused", every_class=False),
            data=data,
            label=label,
            inputs=pairs(input, "--input"),
            device=device,
            console=console,
        )
        with console.progress(len(explainer.selection), "photos") as bar:
            measured = photo_tests.measure_on_photos(
                explainer, faithfulness=faithfulness, masks=masks, tick=bar.advance
            )
    if self_test or not on_photos:
        tested = selftest.self_test_model(model, device=device, say=console.say)
    if json:
        print_json({name: each and each.to_dict() for name, each in (("photos", measured), ("self_test", tested))})
    else:
        texts = [photo_tests_text(measured) if measured else "", self_test_text(tested) if tested else ""]
        typer.echo("\n\n".join(text for text in texts if text))
    if tested and not tested.passed:
        raise typer.Exit(1)
