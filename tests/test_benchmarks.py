"""The benchmarks start as their README says: by `pytest`, which puts nothing of the repository on the path."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_spawned_processes_find_the_benchmarks() -> None:
    """`-P` keeps the current folder off the path, as the command `pytest` does."""
    words = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "benchmarks/test_harness.py"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_what_benchmarks_import_exists(path: Path) -> None:
    """They do not run with the tests: a name that has moved would be found by the next measurement only."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "multistream":
            module = import_module(node.module or "")
            for alias in node.names:
                if not hasattr(module, alias.name):
                    import_module(f"{module.__name__}.{alias.name}")
