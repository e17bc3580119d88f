"""What several tests share: strangers' distributions that seem to be installed."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from multistream.registry import discovery

ROOT = Path(__file__).parent.parent
PLUGINS = Path(__file__).parent / "plugins"

Install = Callable[..., list[str]]


def lay_metadata(project: Path, site: Path) -> None:
    """Writes what an installer leaves of a project: its dist-info with the entry points."""
    described = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    name, version = described["name"], described["version"]
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"{part} = {module}" for part, module in described["entry-points"]["multistream"].items()]
    (folder / "entry_points.txt").write_text("\n".join(["[multistream]", *lines, ""]))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`installed("sketch", path)` installs trees of tests/plugins, or anywhere, beside multistream itself.

    It returns the entries of sys.path that a fresh interpreter needs for the same.
    """
    before = set(sys.modules)
    site = tmp_path / "site"
    lay_metadata(ROOT, site)
    ours = [str(path) for path in (site, ROOT, *(ROOT / "plugins" / name for name in ("object", "places", "anp")))]
    monkeypatch.delenv(discovery.DISABLED, raising=False)

    def install(*trees: str | Path) -> list[str]:
        projects = [PLUGINS / tree for tree in trees]
        for project in projects:
            lay_metadata(project, site)
        entries = [*ours, *map(str, projects)]
        for entry in reversed(entries):
            monkeypatch.syspath_prepend(entry)
        discovery.discover(refresh=True)
        return entries

    yield install
    monkeypatch.undo()
    for name in set(sys.modules) - before:
        if name.startswith("multistream_"):
            del sys.modules[name]
    discovery.forget()
