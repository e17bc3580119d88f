"""DeepSentiBank: a CaffeNet that scores adjective-noun pairs in a photo (paper section 5; Chen et al. 2014)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from multistream import Image, MultistreamError, Source, Stream
from multistream.weights import Fitted, read_tensors

SQUASHED, CROPPED = 256, 227
"""Photos are squashed to the first size, then cropped centrally to the second, in pixels."""

BGR_MEAN = (104.0, 117.0, 123.0)
"""ILSVRC12's mean colour, used without a mean image."""

PAIRS = 2089
WIDTHS = (96, 256, 384, 384, 256, 4096, 4096)
"""Channels of conv1 to conv5, fc6 and fc7."""


class DeepSentiBank(Stream):
    """The network of `caffe_sentibank_train_iter_250000.caffemodel`; its last stage returns the scores of the pairs.

    Stages: conv1 to conv5 after ReLU (pooling and response normalisation are part of the next stage), fc6 and fc7 as
    convolutions, and `concepts`: the softmax of fc8-t, (B, 2089, 1, 1). `names` is a file with the pairs' names, a JSON
    list or one per line, or the names themselves; `mean` is a .binaryproto with the mean image, by default one colour.

    >>> DeepSentiBank(pairs=20, widths=(4, 8, 8, 8, 4, 16, 16))(torch.zeros(1, 3, 256, 256))["concepts"].shape
    torch.Size([1, 20, 1, 1])
    """

    weights: ClassVar[Mapping[str, Source]] = {
        "": Source(
            file="caffe_sentibank_train_iter_250000.caffemodel",
            trained_on="Flickr photos of 2,089 adjective-noun pairs",
            licence="for research, see its page",
            preprocessing="squashed to 256, B G R 0-255 minus the mean image, centre 227",
            size="236 MB",
        )
    }

    mean_image: Tensor

    def __init__(
        self,
        *,
        pairs: int = PAIRS,
        names: str | Sequence[str] = "",
        mean: str = "",
        widths: Sequence[int] = WIDTHS,
    ) -> None:
        if len(widths) != len(WIDTHS) or any(width < 2 or width % 2 for width in widths):
            right = "It must be seven even numbers, because two convolutions have two groups."
            raise MultistreamError("deepsentibank.widths", f"{list(widths)} is not valid.", right=right)
        channels = dict(zip((*(f"conv{i}" for i in range(1, 6)), "fc6", "fc7"), widths, strict=True))
        channels["concepts"] = pairs
        colours = Image(SQUASHED, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), channels="BGR")
        super().__init__(_stages(channels), channels=channels, input=colours)
        self.names = read_names(Path(names).expanduser(), pairs) if isinstance(names, str) and names else tuple(names)
        self.made_of_files = {"names": list(self.names)} | ({"mean": ""} if mean else {})
        self.register_buffer("mean_image", _mean_image(mean))

    def prepare(self, x: Tensor) -> Tensor:
        """Subtracts the mean image from B, G, R in 0-255 and crops the centre: (B, 3, 227, 227)."""
        edge = (SQUASHED - CROPPED) // 2
        return (super().prepare(x) - self.mean_image)[..., edge : edge + CROPPED, edge : edge + CROPPED]

    @property
    def settled(self) -> Mapping[str, object]:
        """The names instead of their file, and no mean image, because it is a buffer."""
        return self.made_of_files

    def channel_names(self, stage: str) -> tuple[str, ...]:
        """The names of a stage's channels: those of the pairs, if they are known."""
        return self.names if stage == "concepts" else ()

    def rename(self, key: str) -> str | None:
        """Maps Caffe's layers to stages, which have the same names except the last, fc8-t or fc8."""
        layer, _, kind = key.rpartition(".")
        if layer.startswith("fc8"):
            return f"stages.concepts.layer.{kind}"
        return f"stages.{layer}.layer.{kind}" if layer in self.channels else key

    def load_weights(self, tensors: Mapping[str, Tensor], *, where: str = "weights") -> Fitted:
        """Loads a .caffemodel: reshapes dense layers to convolutions, and keeps the mean image, which it lacks."""
        own = self.state_dict()
        placed = {name: self.rename(name) or name for name in tensors}
        shaped = {
            name: tensor.reshape(own[placed[name]].shape)
            if placed[name] in own and tensor.ndim == 2 and tensor.numel() == own[placed[name]].numel()
            else tensor
            for name, tensor in tensors.items()
        }
        return super().load_weights({"mean_image": self.mean_image, **shaped}, where=where)


class _Stage(nn.Module):
    """A stage: modules before its layer, the layer, and a module after it."""

    def __init__(self, opening: Sequence[nn.Module], layer: nn.Module, ending: nn.Module) -> None:
        super().__init__()
        self.opening = nn.Sequential(*opening)
        self.layer, self.ending = layer, ending

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h', w')."""
        result: Tensor = self.ending(self.layer(self.opening(x)))
        return result


def _stages(channels: Mapping[str, int]) -> dict[str, nn.Module]:
    """CaffeNet's stages: Caffe pools in ceil mode, and normalises responses over 5 channels after pooling."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, stride=2, ceil_mode=True)

    def normalise() -> nn.Module:
        return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)

    one, two, three, four, five, six, seven, last = channels.values()
    return {
        "conv1": _Stage([], nn.Conv2d(3, one, 11, stride=4), nn.ReLU()),
        "conv2": _Stage([pool(), normalise()], nn.Conv2d(one, two, 5, padding=2, groups=2), nn.ReLU()),
        "conv3": _Stage([pool(), normalise()], nn.Conv2d(two, three, 3, padding=1), nn.ReLU()),
        "conv4": _Stage([], nn.Conv2d(three, four, 3, padding=1, groups=2), nn.ReLU()),
        "conv5": _Stage([], nn.Conv2d(four, five, 3, padding=1, groups=2), nn.ReLU()),
        "fc6": _Stage([pool()], nn.Conv2d(five, six, 6), nn.ReLU()),
        "fc7": _Stage([], nn.Conv2d(six, seven, 1), nn.ReLU()),
        "concepts": _Stage([], nn.Conv2d(seven, last, 1), nn.Softmax(dim=1)),
    }


def _mean_image(path: str) -> Tensor:
    """The mean image (3, 256, 256), B G R, from a .binaryproto, or of ILSVRC12's mean colour."""
    if not path:
        return torch.tensor(BGR_MEAN).view(3, 1, 1).expand(3, SQUASHED, SQUASHED).clone()
    found = read_tensors(path).tensors.get("mean")
    if found is None or found.shape != (3, SQUASHED, SQUASHED):
        what = f"{path} is not a mean image of {SQUASHED} x {SQUASHED}."
        raise MultistreamError("deepsentibank.mean", what, right="It must be a .binaryproto of Caffe.")
    return found.float()


def read_names(path: Path, count: int) -> tuple[str, ...]:
    """Reads the pairs' names, a JSON list or one per line, in the order of the network's outputs."""
    try:
        text = path.read_text(encoding="utf-8")
        names = json.loads(text) if text.lstrip().startswith("[") else text.split("\n")
    except (OSError, ValueError, RecursionError) as error:
        raise MultistreamError("deepsentibank.names", f"{path} cannot be read: {error}.") from error
    clean = [str(name).strip() for name in names if str(name).strip()]
    if len(clean) != count:
        what = f"{path} has {len(clean):,} names for {count:,} outputs."
        raise MultistreamError("deepsentibank.names", what, right="They must be equal.")
    return tuple(clean)
