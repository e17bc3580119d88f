"""What is in a weight file, at a glance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from multistream.weights.files import WeightFile, read_tensors

ARCHITECTURES: tuple[tuple[str, str, str], ...] = (
    ("features.0.0.weight", "torchvision", "MobileNetV2"),
    ("blocks.0.0.conv_dw.weight", "timm", "MobileNet or EfficientNet"),
    ("pre_logits.fc1.weight", "timm", "VGG16"),
    ("features.28.weight", "torchvision", "VGG16"),
    ("layer4.0.conv3.weight", "torchvision or timm", "ResNet with bottlenecks (50 layers or more)"),
    ("layer4.0.conv1.weight", "torchvision or timm", "ResNet (18 or 34 layers)"),
    ("patch_embed.proj.weight", "timm", "a vision transformer"),
    ("conv5_3.weight", "Caffe", "VGG16"),
    ("fc8-t.weight", "Caffe", "DeepSentiBank"),
    ("conv_dw_1.weight", "Keras", "MobileNet"),
    ("mean", "Caffe", "a mean image"),
)
"""Keys that give away whose names a file uses, and what for; the first that is there counts."""

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Ends of the names of batch norm's state, which is no parameter."""


@dataclass(frozen=True)
class Inspection:
    """A weight file: `style` is whose names it uses, `architecture` a guess; both are empty where nothing tells."""

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
        """What `weights inspect --json` prints."""
        return asdict(self)


def inspect(path: str | Path) -> Inspection:
    """Reads a weight file and says what it holds; WeightsError if it cannot be read."""
    file = read_tensors(path)
    style, architecture = _guess(file)
    return Inspection(
        path=str(file.path),
        format=file.format,
        style=style,
        architecture=architecture,
        tensors=len(file.tensors),
        parameters=sum(t.numel() for name, t in file.tensors.items() if not name.endswith(STATISTICS)),
        dtypes=dict(Counter(str(t.dtype).removeprefix("torch.") for t in file.tensors.values())),
        bytes=file.path.stat().st_size,
        sha256=file.sha256,
        notes=file.notes,
        metadata=file.metadata,
        shapes={name: tuple(t.shape) for name, t in file.tensors.items()},
    )


def _guess(file: WeightFile) -> tuple[str, str]:
    if "multistream" in file.metadata:
        return "multistream", "a run's model"
    found = ((style, network) for key, style, network in ARCHITECTURES if key in file.tensors)
    return next(found, ("", ""))
