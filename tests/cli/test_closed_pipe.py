"""A reader that closes the pipe, such as `head`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import typer

import multistream.cli
from tests.cli.in_process import call


@pytest.mark.parametrize("words", ["--version", "--help", "plugins --json", "train --print-recipe"])
def test_closed_pipe_ends_the_program_quietly(words: str, tmp_path: Path) -> None:
    """typer and rich (for help) both print; for both the exit code is 141, without a message."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "multistream", *words.split()]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_error_message_without_a_reader_is_quiet(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "multistream", "train", "--batch-size", "x"]
    assert subprocess.run(command, stdout=writer, stderr=writer, cwd=tmp_path, check=False).returncode == 141
    os.close(writer)


def test_other_broken_pipes_stay_errors(tmp_path: Path) -> None:
    """A broken pipe to a child process is an error; typer alone would exit with code 1 and no message."""
    program = typer.Typer()

    @program.command()
    def broken() -> None:
        raise BrokenPipeError(32, "Broken pipe")

    with mock.patch.object(multistream.cli, "app", program), pytest.raises(BrokenPipeError):
        call(cwd=tmp_path)
