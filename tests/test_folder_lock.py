"""One process has a folder, and the lock ends with the process that holds it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from multistream.errors import DiskFull, RunBusy
from multistream.folder_lock import FolderLock
from multistream.local_processes import is_alive


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


LOCK_AND_TELL = """
    import sys
    from multistream.errors import RunBusy
    from multistream.folder_lock import FolderLock
    try:
        with FolderLock(sys.argv[1]):
            print("mine")
    except RunBusy as error:
        sys.exit(f"{error.exit_code} {error}")
"""


def test_a_second_process_reads_who_uses_the_folder(tmp_path: Path) -> None:
    with FolderLock(tmp_path):
        refused = run(LOCK_AND_TELL, tmp_path)
        assert refused.stderr.startswith(f"73 {tmp_path}: it is in use by process {os.getpid()} on ")
    assert run(LOCK_AND_TELL, tmp_path).stdout == "mine\n"


def test_a_second_lock_in_this_process(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "same").symlink_to("run")
    lock = FolderLock(tmp_path / "run")
    with lock:
        for again in (FolderLock(tmp_path / "same"), lock):
            with pytest.raises(RunBusy, match=f"process {os.getpid()}, this process"), again:
                pass
        assert "73" in run(LOCK_AND_TELL, tmp_path / "run").stderr, "being refused must not give the lock back"
    with lock, pytest.raises(RunBusy), FolderLock(tmp_path / "run"):
        pass


def test_death_gives_the_lock_back_though_a_forked_child_lives(tmp_path: Path) -> None:
    code = """
        import os, sys, time
        from multistream.folder_lock import FolderLock
        with FolderLock(sys.argv[1]):
            child = os.fork()
            if child == 0:
                print(os.getpid(), flush=True)  # by now the child has let go of the lock
            time.sleep(60)
    """
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(RunBusy, match=f"process {holder.pid} on"), FolderLock(tmp_path):
            pass
        holder.kill()
        holder.wait()
        assert is_alive(child)
        with FolderLock(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        holder.kill()
        holder.stdout.close()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskFull, match="cannot be written"), FolderLock(tmp_path / "file" / "run"):
        pass
