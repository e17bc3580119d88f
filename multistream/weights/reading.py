"""Reading tensors from a file of any format that people keep weights in; never runs what is in it."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from multistream.errors import WeightsError
from multistream.files import sha256_file
from multistream.weights.caffe import caffe_vgg16, is_vgg16, read_binaryproto, read_caffemodel
from multistream.weights.wire import Malformed

WRAPPERS = ("state_dict", "model", "state_dict_ema", "model_state_dict", "net")
"""Names under which training scripts put the tensors."""


@dataclass(frozen=True)
class WeightFile:
    """Tensors by name, on the CPU and in the stored type; `notes` tell what was renamed or unwrapped."""

    path: Path
    format: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """sha256 of the file."""
        return sha256_file(self.path)


def read_tensors(path: str | Path) -> WeightFile:
    """Reads .safetensors, tensors-only .pth/.pt/.tar (zip and old form), .caffemodel, .binaryproto, Keras .h5.

    Caffe's VGG16 comes out under torchvision's names, for RGB input. A file that is missing, damaged, or holds
    anything but tensors is a WeightsError (exit 69).
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(str(path), "no such file.", do="Check the path.")
    name, reader = _reader(path)
    try:
        return reader(path)
    except (pickle.UnpicklingError, BadZipFile) as error:
        do = "Save its state_dict alone: torch.save(model.state_dict(), FILE)."
        raise WeightsError(str(path), f"it holds more than tensors, or is damaged: {_first(error)}.", do=do) from error
    # torch's reader and h5py raise whatever a damaged file makes them stumble over.
    except (SafetensorError, Malformed, OSError, ValueError, RuntimeError, EOFError, KeyError, TypeError) as error:
        raise WeightsError(str(path), f"this is no {name} file, or a damaged one: {_first(error)}.") from error
    except (AttributeError, IndexError, struct.error, UnicodeDecodeError, MemoryError, OverflowError) as error:
        raise WeightsError(str(path), f"this is no {name} file, or a damaged one: {_first(error)}.") from error


def _reader(path: Path) -> tuple[str, Callable[[Path], WeightFile]]:
    """What a file is, by its first bytes and then by its name."""
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"\x89HDF"):
        return "Keras", _keras
    if head.startswith(b"PK\x03\x04") or head.startswith(b"\x80"):
        return "PyTorch", _pytorch
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return "safetensors", _safetensors
    readers = {".caffemodel": ("Caffe", _caffe), ".binaryproto": ("Caffe mean", _caffe_mean)}
    if path.suffix in readers:
        return readers[path.suffix]
    if path.suffix in (".pth", ".pt", ".tar", ".bin"):
        return "PyTorch", _pytorch
    right = ".safetensors, .pth, .pt, .pth.tar, .caffemodel, .binaryproto and .h5 are read."
    raise WeightsError(str(path), "its format is unknown.", right=right)


def _safetensors(path: Path) -> WeightFile:
    with safe_open(path, framework="pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  it is no mapping
        return WeightFile(path, "safetensors", tensors, stored.metadata() or {})


def _pytorch(path: Path) -> WeightFile:
    """Tensors in torch's own zip or old form; torch's reader admits tensors and plain containers, nothing that runs."""
    found: Any = torch.load(path, map_location="cpu", weights_only=True)
    notes = []
    for wrapper in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
            notes.append(f"taken from {wrapper!r}")
    if not isinstance(found, dict):
        raise WeightsError(str(path), f"it holds a {type(found).__name__}.", right="A dict of tensors is read.")
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(str(path), "no tensor is in it.", right="A state dict of tensors is read.")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
        notes.append("prefix 'module.' taken off")
    return WeightFile(path, "PyTorch", tensors, notes=tuple(notes))


def _caffe(path: Path) -> WeightFile:
    tensors = read_caffemodel(path)
    if not is_vgg16(tensors):
        return WeightFile(path, "Caffe", tensors)
    note = "VGG16 under torchvision's names; the first convolution turned to RGB"
    return WeightFile(path, "Caffe", caffe_vgg16(tensors), notes=(note,))


def _caffe_mean(path: Path) -> WeightFile:
    return WeightFile(path, "Caffe mean", read_binaryproto(path))


def _keras(path: Path) -> WeightFile:
    """Keras' kernels: HWIO becomes torch's OIHW, dense (in, out) becomes (out, in)."""
    try:
        import h5py
    except ImportError as error:
        raise WeightsError(str(path), "reading HDF5 needs h5py.", do="pip install h5py.") from error
    tensors: dict[str, Tensor] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            value = torch.from_numpy(item[()])
            if value.ndim == 4:
                value = value.permute(3, 2, 0, 1).contiguous()
            elif value.ndim == 2:
                value = value.T.contiguous()
            tensors[name.replace("/", ".")] = value

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    note = "kernels turned from HWIO to OIHW; a dense layer after a flatten still counts its inputs in HWC order"
    return WeightFile(path, "Keras", tensors, notes=(note,))


def _first(error: BaseException) -> str:
    """The first line of what was said, without a full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
