"""A copy of a weight file as safetensors, which every program reads and none can be harmed by."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save

from multistream.errors import UsageError
from multistream.files import write_atomic
from multistream.weights.files import read_tensors
from multistream.weights.inspection import Inspection, inspect
from multistream.weights.renaming import Names, caffe_vgg16, is_caffe_vgg16, to_names


def convert(path: str | Path, out: str | Path, *, names: Names | None = None, rgb: bool = False) -> Inspection:
    """Writes a weight file's tensors to `out`, atomically, and says what is in it.

    Caffe's VGG16 gets torchvision's names, `names` asks for a library's; numbers stay as they are. The places stream
    gives such weights B, G, R as Caffe does; `rgb` turns the first convolution round for programs that give R, G, B.
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
    apart = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}  # views of one storage, too
    write_atomic(out, save(apart, metadata=metadata))
    return inspect(out)
