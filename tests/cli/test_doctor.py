from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from multistream.environment import Environment
from tests.cli.in_process import call

KEYS = [
    *("versions", "extras", "devices", "parts", "broken", "disabled", "cache", "cache_bytes", "temporary", "variables"),
    *("warnings", "faults", "exit_code"),
]


def test_json_has_the_documented_keys(tmp_path: Path) -> None:
    out, err = call("doctor", "--json", "--quiet", cwd=tmp_path)
    found = json.loads(out)
    assert list(found) == KEYS == list(Environment.__dataclass_fields__)
    assert list(found["cache"]) == ["path", "writable", "free"]
    assert list(found["versions"][0]) == ["name", "version", "requirement", "satisfied"]
    assert "no faults" not in err


def test_text_has_every_section(tmp_path: Path) -> None:
    out, err = call("doctor", cwd=tmp_path)
    titles = [line for line in out.splitlines() if line and not line.startswith(" ")]
    assert titles == ["Versions", "Extras", "Devices", "Plugins", "Folders", "Environment variables"]
    assert "doctor: no faults" in err


def test_unprintable_characters_of_variables_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "a\x1b[31m\udcff")
    assert "MASTER_ADDR=a\\x1b[31m\\udcff\n" in call("doctor", cwd=tmp_path)[0]


@pytest.mark.parametrize("options", [(), ("--json", "--quiet")])
def test_a_broken_plugin_is_one_line_and_exit_69(options: tuple[str, ...], installed, tmp_path: Path) -> None:
    installed("broken")
    out, err = call("doctor", *options, cwd=tmp_path, code=69)
    assert [line for line in err.splitlines() if line.startswith("plugins: 'broken' of multistream-broken 0.3")]
    assert "ModuleNotFoundError" in out


def test_an_unwritable_cache_is_one_line_and_exit_74(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MULTISTREAM_CACHE", str(tmp_path / "file" / "cache"))
    out, err = call("doctor", "-q", cwd=tmp_path, code=74)
    assert "NOT WRITABLE" in out
    assert err.splitlines()[-1].startswith(f"{tmp_path / 'file'}: it cannot be written")


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['multistream', 'doctor', '--help']\n"
        "from multistream.cli import main\n"
        "try: main()\n"
        "finally: print([n for n in ('torch', 'packaging') if n in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
