"""Runs the command line in this process: torch is imported once, not once a call."""

from __future__ import annotations

import io
import os
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from multistream.cli import main


def call(*words: str | Path, cwd: Path, code: int = 0) -> tuple[str, str]:
    """Returns stdout and stderr; the exit code must be `code`."""
    out, err, left = io.StringIO(), io.StringIO(), 0
    argv = ["multistream", *map(str, words)]
    patched = mock.patch.object(sys, "argv", argv), mock.patch.dict(os.environ)
    with chdir(cwd), patched[0], patched[1], redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as leaving:
            left = leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
    assert left == code, err.getvalue()
    return out.getvalue(), err.getvalue()
