"""The cache key changes with any file of a plugin, and not with comments in multistream's own modules."""

from __future__ import annotations

import importlib.metadata
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


def test_a_library_is_found_without_reading_every_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan of all installed files takes most of a second, and a training asks for each package of its streams."""
    import timm

    whole = importlib.metadata.packages_distributions()
    assert package_version("PIL") == f"{whole['PIL'][0]} {importlib.metadata.version('pillow')}"
    monkeypatch.setattr("multistream.features.key.packages_distributions", lambda: pytest.fail("all were read"))
    assert package_version("timm") == f"{whole['timm'][0]} {timm.__version__}"
    import multistream_object  # ours, as any plugin: by its files

    assert len(package_version(multistream_object.__name__)) == 64
