"""What is in a weight file, and a copy of it as safetensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from multistream.files import write_atomic
from multistream.weights.reading import WeightFile, read_tensors

STYLES = {
    "plan": "multistream run",
    "features.0.0.weight": "torchvision MobileNetV2",
    "conv_stem.weight": "timm MobileNet or EfficientNet",
    "features.28.weight": "VGG16 (torchvision or timm)",
    "layer4.0.conv1.weight": "ResNet (torchvision or timm)",
    "patch_embed.proj.weight": "timm transformer",
    "conv1_1.weight": "Caffe VGG",
    "fc8-t.weight": "Caffe DeepSentiBank",
    "mean": "Caffe mean image",
}
"""A key that gives away whose names a file uses."""


@dataclass(frozen=True)
class Inspection:
    """A weight file at a glance."""

    path: str
    format: str
    style: str
    tensors: int
    parameters: int
    dtypes: Mapping[str, int]
    bytes: int
    sha256: str
    notes: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]

    def to_dict(self) -> dict[str, Any]:
        """What `weights inspect --json` prints."""
        return asdict(self)


def inspect(path: str | Path) -> Inspection:
    """Reads a weight file and says what it holds; WeightsError if it cannot be read."""
    file = read_tensors(path)
    return Inspection(
        path=str(file.path),
        format=file.format,
        style=_style(file),
        tensors=len(file.tensors),
        parameters=sum(t.numel() for name, t in file.tensors.items() if not _is_statistic(name)),
        dtypes=dict(Counter(str(t.dtype).removeprefix("torch.") for t in file.tensors.values())),
        bytes=file.path.stat().st_size,
        sha256=file.sha256,
        notes=file.notes,
        shapes={name: tuple(t.shape) for name, t in file.tensors.items()},
    )


def convert(path: str | Path, out: str | Path) -> Inspection:
    """Writes a weight file's tensors as safetensors, atomically; Caffe's VGG16 under torchvision's names."""
    file = read_tensors(path)
    write_atomic(Path(out).expanduser(), save(_apart(file.tensors), metadata={"from": file.format}))
    return inspect(out)


def _style(file: WeightFile) -> str:
    if "multistream" in file.metadata:
        return STYLES["plan"]
    return next((style for key, style in STYLES.items() if key in file.tensors), "unknown names")


def _is_statistic(name: str) -> bool:
    """Whether a tensor is batch norm's running statistic, which is no parameter."""
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that share no memory: safetensors stores each alone."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
