"""Reads safetensors, the format that multistream itself writes."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from multistream.weights.tensors import Contents, Malformed, expect

MOST_HEADER = 16 * 2**20
"""Bytes. A header of 100,000 tensors has about 10 MB; the library itself accepts up to 100 MB."""


def read_safetensors(path: Path) -> Contents:
    """Reads all tensors of a file. The library checks header, shapes and offsets before it creates a tensor."""
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    expect(header <= min(MOST_HEADER, path.stat().st_size), f"its header claims {header:,} bytes")
    try:
        with safe_open(path, framework="pt") as stored:
            # Copies: the library's tensors are in the mapped file, which may be truncated meanwhile.
            tensors = {name: stored.get_tensor(name).clone() for name in stored.keys()}  # noqa: SIM118  no mapping
            return Contents(tensors, metadata=stored.metadata() or {})
    except (SafetensorError, RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise Malformed(str(error).partition("\n")[0]) from error
