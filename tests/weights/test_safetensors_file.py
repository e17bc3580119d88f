"""safetensors: numbers come out bit for bit; headers that lie are found."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from multistream.errors import WeightsError
from multistream.weights import read_tensors

Write = Callable[[str, bytes], Path]

KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool)


def test_types_names_and_metadata_stay(write: Write) -> None:
    tensors = {str(kind): torch.arange(6).view(2, 3).to(kind) for kind in KINDS}
    file = read_tensors(write("a.safetensors", save(tensors, metadata={"made": "by hand"})))
    assert (file.format, file.metadata["made"]) == ("safetensors", "by hand")
    assert file.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert file.tensors[name].dtype == tensor.dtype
        assert torch.equal(file.tensors[name], tensor)


@pytest.mark.parametrize("length", [1, 128, 256 + 128, 512])
def test_a_file_is_known_by_its_content_whatever_its_header_starts_with(length: int, write: Write) -> None:
    """A header of 128 bytes starts the file with 0x80, as pickles start."""
    data = save({"a": torch.ones(3)}, metadata={"padding": "x" * length})
    header = int.from_bytes(data[:8], "little")
    wanted = header + (-header) % 256 + 128
    padded = struct.pack("<Q", wanted) + data[8 : 8 + header].ljust(wanted) + data[8 + header :]
    assert padded[0] == 0x80
    for name in ("a.safetensors", "a", "a.weights"):
        assert read_tensors(write(name, padded)).tensors["a"].tolist() == [1, 1, 1]


def test_tensors_outlive_their_file(write: Write) -> None:
    path = write("a.safetensors", save({"a": torch.arange(100_000.0)}))
    tensor = read_tensors(path).tensors["a"]
    path.write_bytes(b"")  # a mapped file would end the process here
    assert torch.equal(tensor, torch.arange(100_000.0))


def made(header: dict[str, Any], data: bytes = bytes(16)) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "data",
    [
        made({"a": entry(0, 8, [2]), "b": entry(4, 16, [3])}),  # overlapping
        made({"a": entry(0, 4, [1]), "b": entry(8, 16, [2])}),  # with a hole
        made({"a": entry(0, 16, [4])}, bytes(15)),
        made({"a": entry(0, 16, [4])}, bytes(17)),
        made({"a": entry(0, 16, [5])}),
        made({"a": entry(0, 16, [2**40, 2**40])}),
        made({"a": entry(0, 2**62, [2**60])}),
        made({"a": entry(0, 16, [4], "F99")}),
        made({"a": entry(16, 0, [4])}),
        made({"a": {"dtype": "F32"}}),
        made({"__metadata__": {"a": "b"}}, b""),
        made({}, b""),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**25) + b"{" + bytes(2**20),
        struct.pack("<Q", 20) + b"{" * 20,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 1000) + b"{}",
        b"",
        b"{}",
    ],
)
def test_headers_that_lie_are_refused(data: bytes, write: Write) -> None:
    with pytest.raises(WeightsError, match=r"this is not a safetensors file, or it is damaged: .+\. Download it again"):
        read_tensors(write("bad.safetensors", data))


def test_a_header_that_is_too_large_is_not_parsed(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    data = save({"a": torch.ones(1)})
    monkeypatch.setattr("multistream.weights.files.MOST_HEADER", 10)
    with pytest.raises(WeightsError, match=r"its header claims \d+ bytes"):
        read_tensors(write("a.safetensors", data))
