"""Whose fault an exception is, wherever a stranger's code was called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from multistream.errors import UsageError
from multistream.registry import build
from multistream.registry.failures import blamed


def raised(run) -> BaseException:  # type: ignore[no-untyped-def]
    with pytest.raises(Exception) as told:  # noqa: PT011  of any kind
        run()
    return told.value


def test_what_a_plugin_raises_late_is_its_own(installed) -> None:
    installed("faulty")
    fusion = build("fusion", "tensor_fusion", given={"widths": {}, "classes": 2, "heads": {}})
    error = raised(lambda: fusion({}))  # torch raises, called by the plugin
    plugin = blamed(error)
    assert plugin is not None
    assert "multistream-faulty 0.7" in str(plugin)
    assert "'tensor_fusion'" in str(plugin)
    assert "\n" not in str(plugin)


def test_what_we_raise_is_ours(installed) -> None:
    installed("faulty")
    fusion = build("fusion", "early", given={"widths": {"one": 2}, "classes": 2, "heads": {}})
    assert blamed(raised(lambda: fusion({}))) is None
    assert blamed(raised(lambda: torch.zeros(2) @ torch.zeros(3))) is None
    assert blamed(UsageError("streams", "none is given.")) is None


def test_the_command_line_ends_in_one_line(installed, tmp_path: Path) -> None:
    path = installed("faulty")
    code = (
        "import sys; sys.path[:0] = sys.argv.pop(1).split(':')\n"
        "sys.argv = ['multistream', 'data', 'scan', 'messy:' + sys.argv[1]]\n"
        "from multistream.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, ":".join(path), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 69, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "'messy' of multistream-faulty 0.7 is broken: KeyError" in done.stderr
