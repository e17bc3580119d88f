"""The wait policy of OpenMP's threads, which the command line sets before torch is imported."""

import os
import subprocess
import sys

import pytest

CODE = """
import os, sys
from multistream.cli import main
sys.argv = ["multistream", "--version"]
try:
    main()
finally:
    print("torch" in sys.modules, os.environ["OMP_WAIT_POLICY"])
"""


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_sleep_unless_the_user_sets_a_policy(before: str | None, after: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if before:
        environment["OMP_WAIT_POLICY"] = before
    run = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == f"False {after}"
