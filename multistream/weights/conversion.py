"""Converts a weight file to safetensors, a widely supported format that cannot run code."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save

from multistream.errors import UsageError
from multistream.files import write_atomic
from multistream.weights.files import read_tensors
from multistream.weights.inspection import Inspection, inspect
from multistream.weights.renaming import Names, caffe_vgg16, is_caffe_vgg16, to_names


def convert(path: str | Path, out: str | Path, *, names: Names | None = None, rgb: bool = False) -> Inspection:
    """Writes a weight file's tensors to `out`, atomically, and returns an inspection of it.

    Tensors of Caffe's VGG16 get torchvision's names; `names` selects a library's names. Values do not change. The
    places stream feeds such weights B, G, R like Caffe; `rgb` reverses the first convolution's channels for programs
    that feed R, G, B.
    """
    out = Path(out).expanduser()
    if out.suffix != ".safetensors":
        what = f"{str(out)!r} does not end in .safetensors."
        raise UsageError("out", what, right="The output is always safetensors.")
    file = read_tensors(path)
    tensors, metadata = dict(file.tensors), {**file.metadata, "converted_from": file.sha256}
    caffe = is_caffe_vgg16(tensors)
    if rgb and not caffe:
        right = "Only Caffe VGG16 files are known to use BGR channels."
        raise UsageError("rgb", "this is not a Caffe VGG16.", right=right)
    if caffe:
        tensors = caffe_vgg16(tensors, rgb=rgb)
        metadata["channels"] = "RGB" if rgb else "BGR"
    if names:
        tensors = to_names(tensors, names)
    # Also separates views of one storage.
    apart = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    write_atomic(out, save(apart, metadata=metadata))
    return inspect(out)
