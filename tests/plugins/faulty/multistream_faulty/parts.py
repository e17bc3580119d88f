# ruff: noqa: ARG002  the arguments are the interface's
import torch
from torch import nn

from multistream import Fusion, FusionOutput, Image, Stream, Tap, Temporal, Vector


class Sound(Stream):
    def __init__(self, *, width: int = 4):
        stages = {"low": nn.Conv2d(3, width, 3, stride=2), "high": nn.Conv2d(width, 6, 3, stride=2)}
        super().__init__(stages, channels={"low": width, "high": 6}, input=Image(size=16))


class Dotted(Stream):
    def __init__(self):
        super().__init__({"layer.1": nn.Conv2d(3, 4, 3)}, channels={"layer.1": 4}, input=Image(size=16))


class Channelless(Stream):
    def __init__(self):
        super().__init__({"low": nn.Conv2d(3, 4, 3)}, channels={}, input=Image(size=16))


class Superless(Stream):
    def __init__(self):
        pass


class Raising(Stream):
    def __init__(self):
        raise RuntimeError("the table\nof colours is gone")


class Classless:
    pass


class WrongChannels(Sound):
    def __init__(self):
        super().__init__()
        self.channels = {"low": 4, "high": 7}


class NoDict(Sound):
    def forward(self, x):
        return list(super().forward(x).values())


class Headless(Sound):
    def make_head(self, width, classes):
        return nn.Linear(width + 1, classes)


class ChangingVector(Stream):
    def __init__(self, *, width: int):
        super().__init__({}, channels={}, input=Vector("changing_vector", width=width))

    def forward(self, x):
        return {"vector": x[:, 1:]}


class WidePool(Tap):
    def __init__(self, channels: int, *, width: int = 8):
        super().__init__(channels, width=width)

    def pool(self, map_BChw):
        return map_BChw.flatten(1).float()


class WideToken(Tap):
    def __init__(self, channels: int, *, width: int = 8):
        super().__init__(channels, width=width + 1)
        self.projection = nn.Linear(channels, width)

    def project(self, pooled_BP):
        return self.projection(pooled_BP)


class LearntPool(Tap):
    """Generalised mean pooling, whose exponent is learnt; it forgets to say that it cannot be cached."""

    def __init__(self, channels: int, *, width: int = 8):
        super().__init__(channels, width=width)
        self.power = nn.Parameter(torch.tensor(3.0))
        self.projection = nn.Linear(channels, width)

    def pool(self, map_BChw):
        return map_BChw.float().clamp_min(1e-3).pow(self.power).mean((2, 3)).pow(1 / self.power)

    def project(self, pooled_BP):
        return self.projection(pooled_BP)


class PowerPool(LearntPool):
    cacheable = False


class WideTemporal(Temporal):
    def __init__(self, width: int, *, steps: int):
        super().__init__(width, steps=steps, out_width=width + 1)

    def forward(self, tokens_BTW):
        return tokens_BTW.sum(1)


class RaisingTemporal(Temporal):
    def __init__(self, width: int, *, steps: int):
        super().__init__(width, steps=steps, out_width=width)
        self.mix = nn.Linear(width + 1, width)

    def forward(self, tokens_BTW):
        return self.mix(tokens_BTW).sum(1)


class Choosy(Temporal):
    def __init__(self, width: int, *, steps: int, heads: int = 4):
        super().__init__(width, steps=steps, out_width=width)
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, tokens_BTW):
        return self.attend(tokens_BTW, tokens_BTW, tokens_BTW)[0].sum(1)


class TensorFusion(Fusion):
    def forward(self, vectors, present=None):
        return torch.stack([self.heads[key](vector) for key, vector in vectors.items()]).sum(0)


class NarrowFusion(Fusion):
    def forward(self, vectors, present=None):
        return FusionOutput(next(iter(vectors.values()))[:, :1], {})


class HeadsNone(Fusion):
    def __init__(self, widths, *, classes, heads):
        super().__init__(widths, classes=classes, heads=heads)
        self.heads = None
        self.classifier = nn.Linear(sum(widths.values()), classes)

    def forward(self, vectors, present=None):
        return FusionOutput(self.classifier(torch.cat(list(vectors.values()), 1)), {})
