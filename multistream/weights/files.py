"""Reads tensors from weight files of any supported format; never runs code from a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from multistream.errors import WeightsError
from multistream.files import sha256_file
from multistream.weights.caffe import read_binaryproto, read_caffemodel
from multistream.weights.keras import read_keras
from multistream.weights.pytorch import read_pytorch
from multistream.weights.tensors import Contents, Malformed, all_start, expect

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


MOST_BYTES = 16 * 2**30
"""A larger file is refused without reading it. The largest timm models have about 10 GB."""

MOST_SHARING = 4
"""Tensors that share memory (tied weights) may have this many times the file's size in total; more is an attack."""

WRAPPER_PREFIXES = ("module.", "_orig_mod.")
"""Prefixes added by DataParallel and torch.compile, which never belong to a network's own names."""

SMALL = 64 * 2**20
"""Bytes that a compressed file's tensors may always have, because small tensors may be highly compressed."""

FormatReader = Callable[[Path], Contents]

PYTORCH: tuple[str, FormatReader] = ("PyTorch", read_pytorch)
BY_HEAD: Mapping[bytes, tuple[str, FormatReader]] = {
    b"\x89HDF\r\n\x1a\n": ("Keras", read_keras),
    b"PK\x03\x04": PYTORCH,
    b"\x80": PYTORCH,
}
BY_SUFFIX: Mapping[str, tuple[str, FormatReader]] = {
    ".safetensors": ("safetensors", read_safetensors),
    ".caffemodel": ("Caffe", read_caffemodel),
    ".binaryproto": ("Caffe mean", read_binaryproto),
    **dict.fromkeys((".pth", ".pt", ".tar", ".bin"), PYTORCH),
    **dict.fromkeys((".h5", ".hdf5"), ("Keras", read_keras)),
}


@dataclass(frozen=True)
class WeightFile:
    """Tensors by name, on the CPU in their stored types; `notes` report what was renamed, permuted or unwrapped.

    `unused` names other sets of weights in the file, such as a moving average.
    """

    path: Path
    format: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sha256: str = ""
    unused: tuple[str, ...] = ()


def read_tensors(path: str | Path) -> WeightFile:
    """Reads .safetensors, tensors-only .pth/.pt/.tar (zip and old form), .caffemodel, .binaryproto, Keras .h5.

    Names and values are unchanged, except that wrappers of training scripts are removed (paper section 5). Raises
    WeightsError (exit 69) if the file is missing, damaged, or contains anything but tensors, before any large
    allocation.
    """
    path = Path(path).expanduser()
    try:
        size = _size(path)
        name, reader = _reader(path)
        contents = reader(path)
        _check(contents, size)
        tensors, prefixes = without_prefixes(contents.tensors)
        notes = (*contents.notes, *prefixes)
        return WeightFile(path, name, tensors, contents.metadata, notes, sha256_file(path), contents.unused)
    except Malformed as error:
        raise WeightsError(path, error.what.format(format=name, clause=str(error)), do=error.do) from error
    except OSError as error:
        raise WeightsError(path, f"it cannot be read: {error.strerror or error}.", do="Check the path.") from error


def without_prefixes(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Removes the prefixes of DataParallel and torch.compile from all names; returns a note for each prefix."""
    notes = []
    named = dict(tensors)
    while prefix := next(filter(partial(all_start, named), WRAPPER_PREFIXES), ""):
        named = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
        notes.append(f"prefix {prefix!r} removed")
    return named, tuple(notes)


def _size(path: Path) -> int:
    if not path.is_file():
        raise WeightsError(path, "it is not a file." if path.exists() else "no such file.", do="Check the path.")
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise WeightsError(path, f"it has {size:,} bytes.", right=f"The limit is {MOST_BYTES:,}.")
    return size


def _reader(path: Path) -> tuple[str, FormatReader]:
    """Returns the format and reader of a file, from its first bytes or else from its suffix."""
    with path.open("rb") as file:
        head = file.read(16)
    # A safetensors file starts with the length of its header, whose low byte may be 0x80.
    is_safetensors = head[8:9] == b"{"
    magic = next(filter(head.startswith, BY_HEAD), None)
    if magic and not is_safetensors and path.suffix not in (".caffemodel", ".binaryproto"):
        return BY_HEAD[magic]
    if path.suffix in BY_SUFFIX:
        return BY_SUFFIX[path.suffix]
    if is_safetensors:
        return BY_SUFFIX[".safetensors"]
    right = ".safetensors, .pth, .pt, .pth.tar, .caffemodel, .binaryproto and .h5 are read."
    raise WeightsError(path, "its format is unknown.", right=right)


def _check(contents: Contents, size: int) -> None:
    expect(bool(contents.tensors), "it contains no tensor")
    total = sum(tensor.nbytes for tensor in contents.tensors.values())
    most = max(MOST_SHARING * size, SMALL * contents.compressed)
    expect(total <= most, f"its tensors have {total:,} bytes, but the file only {size:,}")
