"""Files for the tests of the data: photos by code, none committed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Writes bytes under a name below tmp_path and gives the path."""

    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def photos(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small photo under each name below tmp_path, every one different, and gives tmp_path."""
    count = iter(range(10_000))

    def write(*names: str) -> Path:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            number = next(count)
            Image.new("RGB", (16, 12), (number % 256, number // 256, 7)).save(path, "PNG")
        return tmp_path

    return write
