"""The command line: parses options, calls one function, prints results to stdout and everything else to stderr."""

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
from multistream.cli.evaluate import evaluate
from multistream.cli.explain import ExplainCommand, explain
from multistream.cli.explain_gallery import gallery
from multistream.cli.explain_tests import explanation_tests
from multistream.cli.extract import extract
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
    help="Compose, train and dissect image classifiers made of several streams.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(train)
app.command()(evaluate)
app.command()(predict)
app.command()(compare)
app.command(cls=ExplainCommand)(explain)
app.command()(gallery)
app.command("test-explanation")(explanation_tests)
app.command()(profile)
app.command()(ablate)
app.command()(extract)
app.command()(concepts)
app.command()(report)
app.command()(reproduce)
app.add_typer(data, name="data")
app.add_typer(plugins, name="plugins")
app.add_typer(weights, name="weights")


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
    """Compose, train and dissect image classifiers made of several streams."""


def main() -> None:
    """Runs the command line; what the user can change ends in one line on stderr and an exit code, not a traceback."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # odd EXIF and bombs: each file's own status says so
    warnings.showwarning = _show_warning(warnings.showwarning)
    keep_memory()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch.distributed's remarks to its own developers
    try:
        app()
    except KeyboardInterrupt:
        _leave("stopped.", 130)
    except BrokenPipeError:  # the reader of a pipe has gone: nothing is left to say, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        _leave_interrupted(error)
        if found := known_error(error) or blamed(error):
            _leave(str(found), found.exit_code)
        raise


def _leave_interrupted(error: Exception) -> None:
    """Leaves after a stopped training; its class lives in a module that imports torch, if that was imported at all."""
    if (stop := sys.modules.get("multistream.training.stop")) and isinstance(error, stop.Interrupted):
        _leave(f"stopped and saved. To resume: {error.resume}", 128 + error.signal)


def _show_warning(default: Callable[..., None]) -> Callable[..., None]:
    """Warnings of ours in one line; those of libraries as Python shows them."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, MultistreamWarning):
            print(f"warning: {message}", file=sys.stderr)
        else:
            default(message, category, *where, **more)

    return show


def _leave(line: str, code: int) -> None:
    print(line, file=sys.stderr)
    sys.exit(code)
