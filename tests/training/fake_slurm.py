"""Slurm's commands for tests: `sbatch`, `srun`, `squeue`, `scancel` and `scontrol` of one machine, with files as state.

Jobs start at once, or never while the file `hold` is there. Signals reach every process of a job but its batch script,
as Slurm's do.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")
STATE = Path(os.environ.get("FAKE_SLURM", "."))


def install(folder: Path) -> dict[str, str]:
    """Writes the commands to `folder`/bin, and returns the variables by which they are found."""
    (folder / "bin").mkdir(parents=True)
    for name in COMMANDS:
        file = folder / "bin" / name
        file.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
        file.chmod(0o755)
    return {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "FAKE_SLURM": str(folder)}


def sbatch(script: str) -> None:
    if (refusal := STATE / "refusal").exists() and len(list(STATE.glob("*.state"))) >= int(refusal.read_text()):
        sys.exit("sbatch: error: invalid partition specified: nosuch\nsbatch: error: Batch job submission failed")
    number = str(len(list(STATE.glob("*.state"))) + 1)
    (STATE / f"{number}.sh").write_text(Path(script).read_text())
    (STATE / f"{number}.environment").write_text("\n".join(f"{name}={value}" for name, value in os.environ.items()))
    set_state(number, "PENDING")
    start(number)
    print(f"Submitted batch job {number}")


def start(number: str) -> None:
    """Runs the batch script in the background, unless jobs are held."""
    if not (STATE / "hold").exists():
        command = [sys.executable, __file__, "batch", number]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.Popen(command, start_new_session=True, **quiet)  # type: ignore[call-overload]


def batch(number: str) -> None:
    environment = {**os.environ, "SLURM_JOB_ID": number, "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
    script = subprocess.Popen(["/bin/bash", str(STATE / f"{number}.sh")], env=environment)
    (STATE / f"{number}.pid").write_text(str(script.pid))
    set_state(number, "RUNNING")
    code = script.wait()
    if (STATE / f"{number}.requeue").exists():
        (STATE / f"{number}.requeue").unlink()
        start(number)
    elif state(number) == "RUNNING":
        set_state(number, "FAILED" if code else "COMPLETED")


def srun(*words: str) -> None:
    command = list(words)
    number, files = os.environ["SLURM_JOB_ID"], {}
    while command[0].startswith("-"):
        option = command.pop(0)
        if option in ("--output", "--error"):
            files[option] = command.pop(0).replace("%j", number).replace("%t", "0")
    for descriptor, option in ((1, "--output"), (2, "--error")):
        os.dup2(os.open(files[option], os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.execvp(command[0], command)


def squeue(*_words: str) -> None:
    if (STATE / "down").exists():
        sys.exit("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    for file in sorted(STATE.glob("*.state")):
        print(file.stem, file.read_text())


def scancel(*words: str) -> None:
    number = words[-1]
    wanted = signal.Signals[f"SIG{words[1]}"] if len(words) == 3 else signal.SIGTERM
    if wanted != signal.SIGUSR2:
        set_state(number, "CANCELLED")
    signal_steps(number, wanted)


def scontrol(word: str, number: str) -> None:
    assert word == "requeue"
    (STATE / f"{number}.requeue").touch()
    set_state(number, "PENDING")
    signal_steps(number, signal.SIGTERM)


def signal_steps(number: str, wanted: signal.Signals) -> None:
    """To every process of the job that is not the batch script."""
    file = STATE / f"{number}.pid"
    for process in descendants(int(file.read_text())) if file.exists() else ():
        if process != os.getpid():
            os.kill(process, wanted)


def descendants(process: int) -> list[int]:
    pattern = re.compile(r"\((?:.*)\) \S (\d+)", re.DOTALL)
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(file.parent.name)] = int(pattern.search(file.read_text()).group(1))  # type: ignore[union-attr]
        except OSError:  # it has ended
            continue
    found, new = [], [process]
    while new:
        new = [child for child, parent in parents.items() if parent in new]
        found += new
    return found


def state(number: str) -> str:
    return (STATE / f"{number}.state").read_text()


def set_state(number: str, word: str) -> None:
    temporary = STATE / f".{number}.{time.monotonic_ns()}"
    temporary.write_text(word)
    temporary.rename(STATE / f"{number}.state")


CHILD = """
import pathlib, signal, sys, time
def save(*_):
    pathlib.Path(sys.argv[1], "saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
if pathlib.Path(sys.argv[1], "saved").exists():
    sys.exit(0)
pathlib.Path(sys.argv[1], "started").touch()
time.sleep(60)
"""


def train_once_stopped(_recipe: str, folder: str, _cwd: str, *, started: Any, log: Any) -> tuple[int, str]:
    """Stands for `train_in_process`: trains until it is told to save, and ends at once when it is continued."""
    Path(folder).mkdir(exist_ok=True)
    process = subprocess.Popen([sys.executable, "-c", CHILD, folder], stderr=subprocess.PIPE, text=True)
    started(process)
    _, errors = process.communicate()
    log(errors)
    return (process.returncode, "stopped") if process.returncode else (0, "")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
