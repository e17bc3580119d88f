from torch import nn

from multistream import Image, Stream


class Sketch(Stream):
    """Edges, then strokes."""

    def __init__(self):
        stages = {"edges": nn.Conv2d(3, 16, 3, stride=2), "strokes": nn.Conv2d(16, 32, 3, stride=2)}
        super().__init__(stages, channels={"edges": 16, "strokes": 32}, input=Image(size=64))
