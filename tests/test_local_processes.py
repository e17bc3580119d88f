"""Processes of this machine: alive or dead, and whose numbers can be judged."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from multistream.local_processes import is_alive, process_space


def test_alive_and_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert is_alive(os.getpid())
    assert is_alive(1)  # not ours to signal, unless we are root
    assert not is_alive(process.pid)
    assert not is_alive(10**30)


def test_the_processes_of_a_machine_share_one_space() -> None:
    code = "from multistream.local_processes import process_space; print(process_space())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == process_space()
    assert len(process_space()) == 8


@pytest.mark.skipif(sys.platform != "linux", reason="needs the PID namespaces of Linux")
def test_a_container_has_a_space_of_its_own() -> None:
    code = "from multistream.local_processes import process_space; print(process_space())"
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    try:
        container = subprocess.run(command, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("needs a right: this user may not make a PID namespace")
    assert container.stdout.strip() != process_space()
