"""Runs the command line in this process, so that torch is imported only once."""

from __future__ import annotations

import io
import os
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from multistream.cli import main


def call(*words: str | Path, cwd: Path, code: int = 0, stdin: str = "") -> tuple[str, str]:
    """Returns stdout and stderr; asserts the exit code `code`. The feature cache is in `cwd`, unless it is set."""
    out, err, left = io.StringIO(), io.StringIO(), 0
    given = io.TextIOWrapper(io.BytesIO(stdin.encode()))
    environment = {"MULTISTREAM_CACHE": os.environ.get("MULTISTREAM_CACHE") or str(cwd / "cache")}
    with (
        chdir(cwd),
        mock.patch.object(sys, "argv", ["multistream", *map(str, words)]),
        mock.patch.object(sys, "stdin", given),
        mock.patch.dict(os.environ, environment),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as leaving:
            left = leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
    assert left == code, err.getvalue()
    return out.getvalue(), err.getvalue()
