"""Summarises the content of a weight file, and converts it to safetensors, a format that cannot run code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save

from multistream.errors import UsageError
from multistream.files import write_atomic
from multistream.weights.files import WeightFile, read_tensors
from multistream.weights.fitting import LIGHTNING, type_name
from multistream.weights.renaming import Names, caffe_vgg16, is_caffe_vgg16, to_names
from multistream.weights.tensors import all_start, is_finite

ARCHITECTURES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("features.1.conv.0.0.weight", "features.18.0.weight"), "torchvision", "MobileNetV2"),
    (("features.1.block.0.0.weight", "classifier.3.weight"), "torchvision", "MobileNetV3"),
    (("features.1.0.block.0.0.weight", "classifier.1.weight"), "torchvision", "EfficientNet"),
    (("features.1.0.layer_scale",), "torchvision", "ConvNeXt"),
    (("features.1.0.attn.relative_position_bias_table",), "torchvision", "Swin transformer"),
    (("conv_proj.weight", "encoder.pos_embedding"), "torchvision", "a vision transformer"),
    (("conv_stem.weight", "blocks.0.0.conv_dw.weight"), "timm", "MobileNet or EfficientNet"),
    (("stages.0.blocks.0.conv_dw.weight", "stem.0.weight"), "timm", "ConvNeXt"),
    (("layers.0.blocks.0.attn.relative_position_bias_table",), "timm", "Swin transformer"),
    (("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"), "timm", "a vision transformer"),
    (("pre_logits.fc1.weight", "features.28.weight"), "timm", "VGG16"),
    (("features.28.weight", "classifier.6.weight", "features.26.weight"), "torchvision", "VGG16"),
    (("features.3.squeeze.weight",), "torchvision", "SqueezeNet"),
    (("features.denseblock1.denselayer1.conv1.weight",), "torchvision or timm", "DenseNet"),
    (("layer4.0.conv3.weight", "conv1.weight"), "torchvision or timm", "ResNet with bottlenecks (50 layers or more)"),
    (("layer4.0.conv2.weight", "conv1.weight"), "torchvision or timm", "ResNet (18 or 34 layers)"),
    (("conv5_3.weight", "conv1_1.weight"), "Caffe", "VGG16"),
    (("fc8-t.weight", "conv5.weight"), "Caffe", "DeepSentiBank"),
    (("conv_dw_1.weight",), "Keras", "MobileNet"),
    (("mean",), "Caffe", "a mean image"),
)
"""Keys that identify the library and architecture of a file; the first entry whose keys are all present applies."""

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Suffixes of the names of batch norm's state, which is not a parameter."""


@dataclass(frozen=True)
class Inspection:
    """A weight file's summary: `style` is the library of its names, `architecture` a guess; both empty if unknown."""

    path: str
    format: str
    style: str
    architecture: str
    tensors: int
    parameters: int
    dtypes: Mapping[str, int]
    bytes: int
    sha256: str
    notes: tuple[str, ...]
    metadata: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]

    def to_dict(self) -> dict[str, Any]:
        """Returns the output of `weights inspect --json`."""
        return asdict(self)


def inspect(path: str | Path) -> Inspection:
    """Reads a weight file and summarises its content. Raises WeightsError if it cannot be read."""
    file = read_tensors(path)
    is_run = "multistream" in file.metadata
    style, architecture = ("multistream", "a run's model") if is_run else guess_architecture(file.tensors)
    return Inspection(
        path=str(file.path),
        format=file.format,
        style=style,
        architecture=architecture,
        tensors=len(file.tensors),
        parameters=sum(t.numel() for name, t in file.tensors.items() if not name.endswith(STATISTICS)),
        dtypes=dict(Counter(map(type_name, file.tensors.values()))),
        bytes=file.path.stat().st_size,
        sha256=file.sha256,
        notes=_notes(file),
        metadata=file.metadata,
        shapes={name: tuple(t.shape) for name, t in file.tensors.items()},
    )


def guess_architecture(names: Iterable[str]) -> tuple[str, str]:
    """Guesses the library and architecture of these names; both are empty if unknown."""
    named = {name.removeprefix(LIGHTNING) for name in names}
    found = ((style, network) for keys, style, network in ARCHITECTURES if named.issuperset(keys))
    return next(found, ("", ""))


def _notes(file: WeightFile) -> tuple[str, ...]:
    """Lists the reader's notes, and reasons why the file may not be usable."""
    odd = [name for name, tensor in file.tensors.items() if not is_finite(tensor)]
    notes = list(file.notes)
    if odd:
        notes.append(f"{len(odd):,} tensors hold a NaN or an infinity, for example {odd[0]}")
    if all_start(file.tensors, LIGHTNING):
        notes.append("prefix 'model.' before every name; it is removed where a stream has no such names")
    return tuple(notes)


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
