"""The interface of a stream: a backbone as an ordered set of stages.

Letters in names and docstrings: B images, C channels, h and w a map's sides, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from multistream.errors import UsageError
from multistream.inputs import Image, Input, Map, Vector
from multistream.nn.modules import Modules, evaluating, trains
from multistream.nn.shapes import without_numbers
from multistream.spec import check_key
from multistream.weights import Fitted, Source, fit

VECTOR = "vector"
"""The only stage of a stream that reads a Vector, and the last stage of a network that ends in a vector (B, D)."""


class Stream(nn.Module):
    """An ordered set of stages; the output of a stage is its feature map (paper section 1: a backbone's conv blocks).

    `stages` maps names to modules, shallow to deep; the input of each is the output of the previous one. `channels`
    gives the channels of every stage's map. A stream that reads a Vector has no stages and overrides `forward`. If the
    last stage is called `vector`, it returns (B, D) instead of a map: only that stage is tapped, and its entries are
    explained individually.

    >>> stream = Stream({"edges": nn.Conv2d(3, 8, 3, stride=2)}, channels={"edges": 8}, input=Image(size=32))
    >>> stream(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))["edges"].shape
    torch.Size([2, 8, 15, 15])
    """

    variants: ClassVar[tuple[str, ...]] = ()
    variant: str = ""
    """The variant of this instance, one of `variants`; the constructor sets it."""
    weights: ClassVar[Mapping[str, Source]] = {}
    """The sources of pretrained weights, by variant. A stream without sources trains from scratch by default."""
    ignored_weights: ClassVar[tuple[str, ...]] = ()
    """Prefixes of keys in weight files that are ignored, for example classifiers."""

    stages: Modules[nn.Module]
    mean: Tensor
    std: Tensor

    def __init__(self, stages: Mapping[str, nn.Module], *, channels: Mapping[str, int], input: Input) -> None:
        super().__init__()
        if list(stages) != list(channels):
            raise ValueError(
                f"{type(self).__name__}: stages are {list(stages)} but channels are given for {list(channels)}. "
                "Both must name the same stages in the same order."
            )
        if not isinstance(input, Image | Map | Vector):
            raise ValueError(
                f"{type(self).__name__}: input is {input!r}. It must be one Image, Map or Vector. "
                "A network that reads several has a stream for each."
            )
        for name in stages:
            _check_stage(name)
        if not stages and not isinstance(input, Vector):
            raise ValueError(f"{type(self).__name__}: no stages. Only a stream that reads a Vector may have none.")
        self.stages = Modules(stages)
        self.channels = dict(channels) if stages else {VECTOR: input.width}  # type: ignore[union-attr]
        self.input = input
        self.frozen = 0
        self.keeps_statistics = False
        if isinstance(input, Image):
            self.register_buffer("mean", torch.tensor(input.mean).view(3, 1, 1), persistent=False)
            self.register_buffer("std", torch.tensor(input.std).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The maps {stage: (B, C, h, w)} of a batch: uint8 (B, 3, S, S) for an Image, float32 for a Map."""
        state: Any = self.prepare(x)
        maps = {}
        for name, stage in self.stages.items():
            state = stage(state)
            maps[name] = self.to_map(state, name)
        return maps

    def prepare(self, x: Tensor) -> Tensor:
        """Brings a batch to the size, channel order and scale that the stages expect, on its own device."""
        if isinstance(self.input, Vector):
            return x.float()
        if x.shape[-2:] != (self.input.size, self.input.size):
            mode = self.input.interpolation if isinstance(self.input, Image) else "bilinear"
            x = functional.interpolate(x.float(), size=(self.input.size,) * 2, mode=mode, antialias=True)
        x = x.float()
        if isinstance(self.input, Image):
            x = ((x.flip(1) if self.input.channels == "BGR" else x) - self.mean) / self.std
        # After `.to(torch.bfloat16)` the stages do not accept float32.
        return x.to(next((weight.dtype for weight in self.parameters()), x.dtype))

    def example_input(self, *, batch: int = 1) -> Tensor:
        """A batch of zeros in the shape and type of this stream's input."""
        match self.input:
            case Image(size=size):
                return torch.zeros(batch, 3, size, size, dtype=torch.uint8)
            case Map(channels=channels, size=size):
                return torch.zeros(batch, channels, size, size)
            case Vector(width=width):
                return torch.zeros(batch, width)

    def map_shapes(self, *, batch: int = 1) -> dict[str, tuple[int, ...]]:
        """The shapes {stage: (B, C, h, w)} of the maps, without computing any."""
        with evaluating(self), torch.no_grad():
            maps = without_numbers(lambda: self(self.example_input(batch=batch)))
        return {stage: tuple(m.shape) for stage, m in maps.items()}

    def to_map(self, state: Any, stage: str) -> Tensor:
        """The map (B, C, h, w) from the output of `stage`; override it if that output is not a map."""
        del stage
        return state  # type: ignore[no-any-return]

    def fit(self, vectors: Tensor) -> str | None:
        """Called once with the raw vectors (N, D) of the training split, for a stream that reads a Vector.

        A returned text is printed, for example to report what was chosen.
        """
        del vectors
        return None

    def truncate(self, depth: int) -> Self:
        """A new stream of the first `depth` stages (paper fig. 4), shared with this one."""
        if not 1 <= depth <= len(self.stages):
            raise ValueError(f"{type(self).__name__}: depth {depth} is out of range. It has {len(self.stages)} stages.")
        kept = list(self.stages)[:depth]
        new = type(self).__new__(type(self))
        # nn.Module keeps its registries in dicts: without copies, changes to the new stream would change this one.
        new.__dict__ = {k: v.copy() if isinstance(v, dict) else v for k, v in self.__dict__.items()}
        new.stages = Modules({name: self.stages[name] for name in kept})
        new.channels = {name: self.channels[name] for name in kept}
        new.frozen = min(self.frozen, depth)
        return new

    def freeze(self, depth: int | None = None) -> Self:
        """Freezes the first `depth` stages, or all: no gradients, and eval mode kept under `.train()`.

        Frozen stages stay frozen: after `freeze()`, `freeze(1)` changes nothing.
        """
        if depth is not None and not 0 <= depth <= len(self.stages):
            raise ValueError(f"{type(self).__name__}: cannot freeze {depth} of {len(self.stages)} stages.")
        self.frozen = max(self.frozen, len(self.stages) if depth is None else depth)
        for module in [self] if depth is None else list(self.stages.values())[: self.frozen]:
            module.requires_grad_(False)
        return self.train(self.training)

    def unfreeze(self) -> Self:
        """Makes all stages trainable again. Eval mode ends with the next call of `train()`."""
        self.frozen = 0
        return self.requires_grad_(True)

    def keep_statistics(self) -> Self:
        """Makes batch norms use and keep their running statistics in training too; their weights still train."""
        self.keeps_statistics = True
        return self.train(self.training)

    @property
    def source(self) -> Source | None:
        """The source of this variant's pretrained weights."""
        return self.weights.get(self.variant)

    @property
    def is_frozen(self) -> bool:
        """Whether no parameter trains and all stages are frozen."""
        return self.frozen == len(self.stages) and not trains(self)

    def train(self, mode: bool = True) -> Self:
        """As in torch, but frozen stages stay in eval mode, so that their batch norm statistics do not change."""
        if self.stages and self.frozen == len(self.stages):
            return super().train(False)
        super().train(mode)
        for stage in list(self.stages.values())[: self.frozen]:
            stage.eval()
        for module in self.modules() if self.keeps_statistics else ():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def make_head(self, width: int, classes: int) -> nn.Module:
        """The classifier of this stream alone, (B, width) -> logits (B, classes); default: linear (paper section 1)."""
        return nn.Linear(width, classes)

    def zero_shot_head(self, classes: Sequence[str]) -> nn.Linear | None:
        """A classifier of the stage `vector` that needs no training, if the stream can provide one for these classes.

        It replaces a new `make_head(width, len(classes))`, which must be linear too.
        """
        del classes
        return None

    @property
    def settled(self) -> Mapping[str, Any]:
        """Options to rebuild this stream without the files that it was built from.

        A model file holds them instead of the options of the same names; the stream's buffers hold everything else.
        """
        return {}

    def channel_names(self, stage: str) -> tuple[str, ...]:
        """The names of a stage's channels, such as class names; () if they have none. `extract --out` writes them.

        A vector stream that reads such a file has named entries. The names of the stage `vector` also appear in
        explanations.
        """
        return self.input.vocabulary if stage == VECTOR and isinstance(self.input, Vector) else ()

    def rename(self, key: str) -> str | None:
        """Maps a weight file's `key` to this stream's name of the tensor; None ignores the tensor."""
        return key

    def load_weights(self, tensors: Mapping[str, Tensor], *, where: str = "weights") -> Fitted:
        """Loads the tensors of a weight file strictly: WeightsError lists all tensors that do not fit."""
        return fit(self, tensors, rename=self.rename, ignore=self.ignored_weights, where=where)


def _check_stage(name: str) -> None:
    """Refuses a stage name that cannot be a key in files, recipes and modules."""
    try:
        check_key(name, where="stages", noun="stage")
    except UsageError as error:
        raise ValueError(str(error)) from error
