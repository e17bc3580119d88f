"""Messages and progress: on a terminal, in a log file, and for those who want to hear nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import threading
from itertools import pairwise

import pytest

from multistream.console import INTERVAL, Console

pty = pytest.importorskip("pty", reason="this system has no pseudo terminals")

WORK = textwrap.dedent("""
    import sys, time
    from multistream.console import Console

    console = Console(quiet=QUIET)
    console.say("before")
    with console.progress(4, "[train]") as bar:
        for number in range(4):
            bar.advance()
            console.say(f"epoch {number} [bold]:smile: " + "x" * 200)
            time.sleep(0.15)
        with console.progress(2, "inner") as inner:
            inner.advance(2)
        console.warn("look")
    console.say("after")
    print("result")
""")


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def on_terminal(code: str, **environment: str) -> tuple[str, str]:
    """(stdout, what the terminal got as stderr) of a script."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1", **environment}
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment)
    os.close(theirs)
    timer = threading.Timer(60, process.kill)
    timer.start()
    seen = b""
    while piece := read(ours):
        seen += piece
    os.close(ours)
    assert process.stdout is not None
    with process.stdout:
        out = process.stdout.read()
    assert process.wait() == 0
    timer.cancel()
    return out, seen.decode()


def read(terminal: int) -> bytes:
    """What comes next; nothing once the other end has closed, which Linux calls an error."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def test_a_bar_with_the_time_left_on_a_terminal() -> None:
    out, seen = on_terminal(WORK.replace("QUIET", "False"))
    assert out == "result\n"
    assert re.search(r"\[train\] .*4/4 .*elapsed, .*left", seen)
    assert seen[seen.rindex("4/4") :].endswith("\x1b[1A\x1b[2Kafter\r\n"), "the bar goes when it is done"
    assert "inner" not in seen


def test_lines_stand_whole_above_the_bar() -> None:
    _, seen = on_terminal(WORK.replace("QUIET", "False"))
    for number in range(4):
        assert f"epoch {number} [bold]:smile: " + "x" * 200 + "\r\n" in seen
    assert "warning: look\r\n" in seen
    assert seen.startswith("before\r\n")
    assert seen.endswith("after\r\n")


def test_a_terminal_that_cannot_move_its_cursor_gets_lines() -> None:
    at_once = "import multistream.console\nmultistream.console.INTERVAL = 0.0\n"
    _, seen = on_terminal(at_once + WORK.replace("QUIET", "False"), TERM="dumb")
    assert "\x1b" not in seen
    assert seen.startswith("before\r\n[train]: 1 of 4 (25 %), 0:00:00 elapsed, ")


def test_quiet_on_a_terminal() -> None:
    assert on_terminal(WORK.replace("QUIET", "True")) == ("result\n", "warning: look\r\n")


def test_no_bar_in_a_pipe_and_nothing_but_results_on_stdout() -> None:
    command = [sys.executable, "-c", WORK.replace("QUIET", "False")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    epochs = [f"epoch {number} [bold]:smile: " + "x" * 200 for number in range(4)]
    assert done.stderr.splitlines() == ["before", *epochs, "warning: look", "after"]
    assert done.stdout == "result\n"


def test_quiet_says_warnings_alone(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True)
    console.say("nothing")
    with console.progress(3, "nothing") as bar:
        bar.advance(3)
    console.warn("a damaged checkpoint")
    assert capsys.readouterr() == ("", "warning: a damaged checkpoint\n")


def test_a_line_every_half_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Console(quiet=False, clock=clock).progress(1000, "train") as bar:
        told = []
        for _ in range(1000):
            clock.now += 0.4
            bar.advance()
            if capsys.readouterr().err:
                told.append(clock.now)
    assert len(told) == 13
    assert all(INTERVAL <= after - before < INTERVAL + 1 for before, after in pairwise([0.0, *told]))


def test_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Console(quiet=False, clock=clock).progress(12_000, "train") as bar:
        clock.now = 100
        bar.advance(3_000)
    assert capsys.readouterr().err == "train: 3,000 of 12,000 (25 %), 0:01:40 elapsed, 0:05:00 left\n"


def test_work_done_before_says_nothing_of_the_speed(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Console(quiet=False, clock=clock).progress(1000, "train", done=800) as bar:
        clock.now = 60
        bar.advance(100)
    assert capsys.readouterr().err == "train: 900 of 1,000 (90 %), 0:01:00 elapsed, 0:01:00 left\n"


def test_nothing_to_do_and_more_than_thought(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Console(quiet=False, clock=clock).progress(0, "empty") as bar:
        clock.now = 31
        bar.advance(0)
        clock.now = 62
        bar.advance(2)
    assert capsys.readouterr().err.splitlines() == [
        "empty: 0 of 0 (0 %), 0:00:31 elapsed, 0:00:00 left",
        "empty: 2 of 0 (200 %), 0:01:02 elapsed, 0:00:00 left",
    ]


def test_after_an_error_lines_go_straight_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=False)

    def fail() -> None:
        with console.progress(3, "train"):
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    console.say("still here")
    assert capsys.readouterr().err == "still here\n"


def test_needs_neither_rich_nor_torch_where_no_bar_is_drawn() -> None:
    code = "import sys; from multistream.console import Console\nwith Console(quiet=False).progress(1, 'x'): pass\n"
    code += "sys.exit(any(name in sys.modules for name in ('rich', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, timeout=60).returncode == 0
