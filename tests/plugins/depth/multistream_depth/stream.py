"""Depth maps as a stream."""

from torch import nn

from multistream import Map, Stream, read_map


class Depth(Stream):
    """Two stages over a depth map of 32 pixels, 8 and 16 channels."""

    def __init__(self) -> None:
        stages = {
            "near": nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            "far": nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        }
        super().__init__(
            stages, channels={"near": 8, "far": 16}, input=Map("depth", channels=1, size=32, read=read_map)
        )
