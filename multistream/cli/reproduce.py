"""multistream reproduce"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multistream.cli import options, output
from multistream.errors import UsageError
from multistream.figures import save_figure
from multistream.files import write_atomic

if TYPE_CHECKING:
    from multistream.reproduction.results import Reproduction


Targets = Annotated[list[str], typer.Argument(metavar="TARGET", help="table1, fig3, fig4, fig5, or all.")]
PaperStreams = Annotated[
    str,
    typer.Option(
        metavar="ROLE=SPEC,...", help="Streams to use in the roles of the paper's object, places and anp streams."
    ),
]
Folds = Annotated[int, typer.Option(min=0, max=1000, help="Number of cross-validation folds; 0: use --splits.")]
Repeats = Annotated[int, typer.Option(min=1, max=1000, help="Number of times to repeat the cross-validation.")]
Splits = Annotated[int, typer.Option(min=1, max=1000, help="Number of random splits (data.split) with --folds 0.")]
Seeds = Annotated[int, typer.Option(min=1, max=1000, help="Number of training seeds.")]
TrainingRecipe = Annotated[str, typer.Option(metavar="FILE|NAME", help="Settings for all training runs.")]
Out = Annotated[Path, typer.Option(help="Folder for tables, figures and runs; existing results are reused.")]


def reproduce(
    targets: Targets,
    data: options.TrainingData = "",
    label: options.Label = "",
    streams: PaperStreams = "object=object,places=places,anp=anp",
    weights: options.Weights = None,
    input: options.Inputs = None,
    folds: Folds = 5,
    repeats: Repeats = 1,
    splits: Splits = 1,
    seeds: Seeds = 1,
    recipe: TrainingRecipe = "default",
    set_: options.Settings = None,
    device: options.DeviceSet = "",
    out: Out = Path("reproduction"),
    engine: options.TrainingEngine = "",
    engine_option: options.EngineOptions = None,
    plan: options.Plan = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Reproduce Table 1 and Figures 3 to 5 of Lim et al. (ICIP 2020) on your photos or the demo set.

    Completed runs are reused. If photos have several labels (--label), the mean average precision replaces the
    accuracy, and rows with late fusion are omitted."""
    from multistream.console import Console
    from multistream.recipe import Recipe
    from multistream.reproduction.paper import the_paper
    from multistream.reproduction.plan import TARGETS, Request, all_planned, stream_places
    from multistream.reproduction.reproduce import reproduce as run

    if folds == 1:
        raise UsageError("--folds", "1 is not possible.", right="It must be 2 or more, or 0 for random splits.")
    if folds and splits > 1:
        raise UsageError("--splits", f"{splits} random splits cannot be combined with folds.", do="Add --folds 0.")
    if repeats > 1 and not folds:
        raise UsageError("--repeats", "without folds there is nothing to repeat.", do="Pass --folds N, or --splits N.")
    own = {"source": data, "label": label, "folds": folds, "fold": 0, "repeats": repeats}
    request = Request(
        recipe=options.with_options(Recipe.load(recipe), set_, runtime={"device": device}).updated({"data": own}),
        streams=stream_places(streams, the_paper()),
        weights=options.pairs(weights, "--weights"),
        inputs=options.pairs(input, "--input"),
        out=out.expanduser(),
        splits=splits,
        seeds=seeds,
        engine=options.chosen_engine(engine, engine_option),
    )
    chosen = TARGETS if "all" in targets else targets
    if plan:
        output.print_plan(all_planned(request, request.paper, chosen), json=json)
        return
    console = Console(quiet=quiet)
    result = run(chosen, request, console=console)
    for file in written(result, request.out):
        console.say(f"reproduce: {file}")
    _print(result, json=json)


def _print(found: Reproduction, *, json: bool) -> None:
    from multistream.reproduction.results import as_markdown

    if json:
        output.print_json(found.to_dict())
    elif found.rows:
        typer.echo(as_markdown(found), nl=False)


def written(found: Reproduction, out: Path) -> list[Path]:
    """Writes the tables and figures of the requested targets, and returns their files."""
    from multistream.inference.confusion_figure import draw_confusion
    from multistream.reproduction.figures import draw_truncation
    from multistream.reproduction.reproduce import GALLERY
    from multistream.reproduction.results import as_latex, as_markdown
    from multistream.runs import write_json

    files = [out / "reproduction.json"]
    write_json(files[0], found.to_dict())
    if found.rows:
        files += [out / "table1.md", out / "table1.tex"]
        write_atomic(files[-2], as_markdown(found))
        write_atomic(files[-1], as_latex(found))
    if confusion := found.confusion:
        files.append(out / "fig3.pdf")
        save_figure(
            draw_confusion(
                confusion.counts,
                confusion.classes,
                totals=confusion.totals,
                published_recalls=confusion.published_recalls,
                predicted=confusion.predicted,
            ),
            files[-1],
        )
    if found.curves:
        files.append(out / "fig4.pdf")
        save_figure(draw_truncation(found.curves), files[-1])
    if found.gallery:
        files += [out / GALLERY / name for name in found.gallery.files]
    return files
