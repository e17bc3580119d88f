"""The cache key changes with any file of a plugin, and not with comments in multistream's own modules."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from multistream.features.key import package_version


def test_any_file_of_a_plugins_package_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A helper module that defines no class changes the key; bytecode and weights do not."""
    package = tmp_path / "stranger_stream"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("SCALE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    __import__("stranger_stream")
    before = package_version("stranger_stream")
    (package / "weights.safetensors").write_bytes(b"x")
    assert package_version("stranger_stream") == before
    (package / "helper.py").write_text("SCALE = 2\n")
    assert package_version("stranger_stream") != before
    del sys.modules["stranger_stream"]


def test_a_module_of_one_file_and_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger_module.py").write_text("A = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    __import__("stranger_module")
    before = package_version("stranger_module")
    (tmp_path / "stranger_module.py").write_text("A = 2\n")
    assert package_version("stranger_module") != before
    del sys.modules["stranger_module"]
    assert package_version("timm").startswith("timm ")
