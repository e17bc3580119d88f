"""The command line: parses options, calls one function, and prints results to stdout and messages to stderr."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from multistream._version import __version__
from multistream.cli.ablate import ablate
from multistream.cli.compare import compare
from multistream.cli.concepts import concepts
from multistream.cli.data import app as data
from multistream.cli.doctor import doctor
from multistream.cli.evaluate import evaluate
from multistream.cli.explain import ExplainCommand, explain
from multistream.cli.explain_gallery import gallery
from multistream.cli.explain_tests import explanation_tests
from multistream.cli.export import export
from multistream.cli.extract import extract
from multistream.cli.output import ends_quietly
from multistream.cli.plugins import app as plugins
from multistream.cli.predict import predict
from multistream.cli.profile import profile
from multistream.cli.report import report
from multistream.cli.reproduce import reproduce
from multistream.cli.train import train
from multistream.cli.weights import app as weights
from multistream.errors import MultistreamWarning
from multistream.registry.failures import blamed
from multistream.runtime.malloc import keep_memory
from multistream.system_errors import known_error

app = typer.Typer(
    name="multistream",
    help="Compose, train and dissect image classifiers made of several streams.\n\n"
    "A stream is a pretrained network or a vector of scores. Taps read its feature maps after each stage, a "
    "temporal module combines "
    "the taps' tokens, and a fusion combines the streams. `multistream train` writes a run: a folder with the trained "
    "network, its recipe (all settings) and its results.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
TRAIN, DISSECT, PREPARE = "Train, predict and compare", "Dissect", "Data, features, weights and plugins"
RUN = "runs/object-anp-early-1"


def _example(arguments: str) -> str:
    return f"Example: multistream {arguments}"


app.command(
    rich_help_panel=TRAIN,
    epilog=_example("train --data photos --streams object,anp --weights object=hub --input anp=anp.npz"),
)(train)
app.command(rich_help_panel=TRAIN, epilog=_example("evaluate runs/object-1 --data other-photos"))(evaluate)
app.command(rich_help_panel=TRAIN, epilog=_example(f"predict {RUN} holiday --missing mean"))(predict)
app.command(rich_help_panel=TRAIN, epilog=_example(f"compare runs/object-1 {RUN}"))(compare)
app.command(rich_help_panel=TRAIN, epilog=_example(f"report {RUN} --against runs/object-1"))(report)
app.command(
    rich_help_panel=TRAIN,
    epilog=_example("reproduce table1 --data fi:FOLDER --weights object=hub --weights places=FILE --input anp=FILE"),
)(reproduce)
app.command(rich_help_panel=TRAIN, epilog=_example(f"export {RUN} --out network.onnx"))(export)
app.command(
    cls=ExplainCommand, rich_help_panel=DISSECT, epilog=_example(f"explain {RUN} --target true --overlays overlays")
)(explain)
app.command(rich_help_panel=DISSECT, epilog=_example(f"gallery {RUN} --format pdf"))(gallery)
app.command("test-explanation", rich_help_panel=DISSECT, epilog=_example(f"test-explanation {RUN} --faithfulness"))(
    explanation_tests
)
app.command(rich_help_panel=DISSECT, epilog=_example(f"ablate {RUN} --axis depth --seeds 5"))(ablate)
app.command(rich_help_panel=DISSECT, epilog=_example("profile --streams object,places"))(profile)
app.add_typer(data, name="data", rich_help_panel=PREPARE)
app.command(rich_help_panel=PREPARE, epilog=_example(f"extract {RUN} --out features.npz"))(extract)
app.command(
    rich_help_panel=PREPARE,
    epilog=_example("concepts pairs.txt --model hf-hub:timm/ViT-B-16-SigLIP --out pairs.safetensors"),
)(concepts)
app.add_typer(weights, name="weights", rich_help_panel=PREPARE)
app.add_typer(plugins, name="plugins", rich_help_panel=PREPARE)
app.command(rich_help_panel=PREPARE, epilog=_example("doctor --json"))(doctor)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"multistream {__version__}")
        raise typer.Exit


@app.callback()
def multistream(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


def main() -> None:
    """Runs the command line. An error that the user can correct ends in one line on stderr and an exit code."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # bad EXIF, decompression bombs: reported by the file's status
    warnings.showwarning = _show_warning(warnings.showwarning)
    keep_memory()
    # OpenMP's threads sleep while they wait for each other. By default they spin, which on a busy machine takes the
    # core from the thread that they wait for. libgomp reads this variable when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # hides torch.distributed's warnings for developers
    with ends_quietly():
        _run()


def _run() -> None:
    try:
        app()
    except KeyboardInterrupt:
        _leave("stopped.", 130)
    except BrokenPipeError:
        raise  # ends_quietly finds out which pipe it is
    except Exception as error:
        _leave_interrupted(error)
        if found := known_error(error) or blamed(error):
            _leave(str(found), found.exit_code)
        raise


def _leave_interrupted(error: Exception) -> None:
    """Exits after an interrupted training; does not import its module, which imports torch, unless it is loaded."""
    if (stop := sys.modules.get("multistream.training.stop")) and isinstance(error, stop.Interrupted):
        _leave(f"stopped and saved. To resume: {error.resume}", 128 + error.signal)


def _show_warning(default: Callable[..., None]) -> Callable[..., None]:
    """Returns a function that prints warnings of this package in one line, and all others with `default`."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, MultistreamWarning):
            print(f"warning: {message}", file=sys.stderr)
        else:
            default(message, category, *where, **more)

    return show


def _leave(line: str, code: int) -> None:
    print(line, file=sys.stderr)
    sys.exit(code)
