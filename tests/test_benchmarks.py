"""The benchmarks start as their README says: by `pytest`, which puts nothing of the repository on the path."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_spawned_processes_find_the_benchmarks() -> None:
    """`-P` keeps the current folder off the path, as the command `pytest` does."""
    words = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "benchmarks/test_harness.py"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
