"""multistream test-explanation"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from multistream.cli import options, output
from multistream.cli.explain import Class, Photos, fused_explainer
from multistream.cli.explain_text import photo_tests_text, self_test_text
from multistream.errors import UsageError

if TYPE_CHECKING:
    from multistream.console import Console
    from multistream.explaining import Explainer
    from multistream.explaining.photo_tests import PhotoTests

RunSelfTest = Annotated[
    bool,
    typer.Option(
        "--self-test",
        help="Train a small version of the network on images with planted cues, and check that the explanations "
        "find them.",
    ),
]
Faithfulness = Annotated[
    bool,
    typer.Option(
        "--faithfulness",
        help="Run deletion and insertion tests with the attribution maps, and compare them with random maps.",
    ),
]
Masks = Annotated[
    str,
    typer.Option(
        metavar="FOLDER|CSV",
        help="Object masks or boxes, for the pointing game and the fraction of positive attribution inside them.",
    ),
]


def explanation_tests(
    run: options.Run,
    paths: Photos = None,
    self_test: RunSelfTest = False,
    faithfulness: Faithfulness = False,
    masks: Masks = "",
    data: options.LabelledData = "",
    label: options.Label = "",
    target: Class = "predicted",
    input: options.Inputs = None,
    device: options.Device = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Test the explanations: a self-test on planted cues (the default; a few minutes), or tests on your photos.

    To test on photos, use --faithfulness or --masks.

    Exit code 1 if a check of the self-test fails.
    """
    from multistream.console import Console
    from multistream.explaining.selftest import self_test_model
    from multistream.inference.model import load

    on_photos = faithfulness or bool(masks)
    another = target if target != "predicted" else ""
    about_photos = {"PATHS": paths, "--data": data, "--label": label, "--input": input, "--target": another}
    if not on_photos and (unused := options.given_names(about_photos)):
        raise UsageError(unused[0], "the self-test reads no photos.", do="Add --faithfulness or --masks.")
    console, model = Console(quiet=quiet), load(run)
    results: dict[str, Any] = {"photos": None, "self_test": None}
    texts = []
    if on_photos:
        explainer = fused_explainer(
            model, paths, target, data=data, label=label, input=input, device=device, console=console
        )
        measured = _measured(explainer, faithfulness=faithfulness, masks=masks, console=console)
        results["photos"] = measured.to_dict()
        texts.append(photo_tests_text(measured))
    passed = True
    if self_test or not on_photos:
        tested = self_test_model(model, device=device, say=console.say)
        results["self_test"], passed = tested.to_dict(), tested.passed
        texts.append(self_test_text(tested))
    output.print_data(results, "\n\n".join(texts), json=json)
    if not passed:
        raise typer.Exit(1)


def _measured(explainer: Explainer, *, faithfulness: bool, masks: str, console: Console) -> PhotoTests:
    from multistream.explaining.photo_tests import measure_on_photos

    with console.progress(len(explainer.selection), "photos") as bar:
        return measure_on_photos(explainer, faithfulness=faithfulness, masks=masks, tick=bar.advance)
