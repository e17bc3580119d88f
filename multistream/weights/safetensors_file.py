"""safetensors: the format that multistream itself writes."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from multistream.weights.tensors import Contents, Malformed, expect

MOST_HEADER = 16 * 2**20
"""Bytes. A header of 100,000 tensors has some 10 MB; the library itself would parse 100."""


def read_safetensors(path: Path) -> Contents:
    """All tensors of a file. The library checks header, shapes and offsets before it makes any."""
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    expect(header <= min(MOST_HEADER, path.stat().st_size), f"its header claims {header:,} bytes")
    try:
        with safe_open(path, framework="pt") as stored:
            # Copies: what the library gives lies in the mapped file, and goes if that is cut under us.
            tensors = {name: stored.get_tensor(name).clone() for name in stored.keys()}  # noqa: SIM118  no mapping
            return Contents(tensors, metadata=stored.metadata() or {})
    except (SafetensorError, RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise Malformed(str(error).partition("\n")[0]) from error
