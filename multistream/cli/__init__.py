"""The command line. It parses, calls one function, prints: results to stdout, all else to stderr."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated

import typer

from multistream._version import __version__
from multistream.cli.ablate import ablate
from multistream.cli.compare import compare
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
from multistream.cli.train import train
from multistream.cli.weights import app as weights
from multistream.errors import MemoryExhausted, MultistreamError

app = typer.Typer(
    name="multistream",
    help="Compose, train and dissect image classifiers made of several streams of evidence.",
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
app.command()(report)
app.add_typer(data, name="data")
app.add_typer(plugins, name="plugins")
app.add_typer(weights, name="weights")

ELSEWHERE = "Free some, or run it where more is: --device cpu, say."


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"multistream {__version__}")
        raise typer.Exit


@app.callback()
def multistream(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Compose, train and dissect image classifiers made of several streams of evidence."""


def main() -> None:
    """Runs the command line; what the user can change ends in one line on stderr and an exit code, not a traceback."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # odd EXIF and bombs: each file's own status tells
    try:
        app()
    except MultistreamError as error:
        _leave(str(error), error.exit_code)
    except KeyboardInterrupt:
        _leave("stopped.", 130)
    except BrokenPipeError:  # the reader of a pipe has gone: nothing is left to say, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except MemoryError:
        _leave(str(MemoryExhausted("memory", "it is used up.", do=ELSEWHERE)), 71)
    except Exception as error:
        _leave_known(error)
        raise


def _leave_known(error: Exception) -> None:
    """Leaves for errors whose classes live in modules that import torch, if one of those was imported at all."""
    if (stop := sys.modules.get("multistream.training.stop")) and isinstance(error, stop.Interrupted):
        _leave(f"stopped, and saved. To go on: {error.resume}", 128 + error.signal)
    if (torch := sys.modules.get("torch")) and isinstance(error, torch.OutOfMemoryError):
        _leave(str(MemoryExhausted("memory", "the device's is used up.", do=ELSEWHERE)), 71)


def _leave(line: str, code: int) -> None:
    print(line, file=sys.stderr)
    sys.exit(code)
