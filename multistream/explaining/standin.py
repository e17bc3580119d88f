"""Stand-ins: a small stream with the stages of another, whose every pixel answers for what lies in front of it."""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import nn

from multistream.explaining.planting import CLASSES, SIDE
from multistream.inputs import Map, Vector
from multistream.interfaces import Stream
from multistream.network.compose import build_taps, fusion_factory
from multistream.network.network import Branch, MultiStream

CHANNELS = 64
"""Of every stage: with 16, twins that were taught alike agreed less (.64 to .81 in rank, instead of .76 to .93)."""


class StandIn(Stream):
    """As many stages as `stream` has, under their names: two convolutions of stride 2, then 1 x 1.

    A pixel of any map sees 7 pixels of the picture, so that evidence lies where it was found. Its head is `stream`'s.
    """

    def __init__(self, stream: Stream) -> None:
        given = stream.input
        assert not isinstance(given, Vector)
        stages: dict[str, nn.Module] = {}
        channels = given.channels if isinstance(given, Map) else 3
        for place, name in enumerate(stream.stages):
            wide = place < 2
            convolution = nn.Conv2d(
                channels, CHANNELS, 3 if wide else 1, stride=2 if wide else 1, padding=1 if wide else 0
            )
            nn.init.kaiming_normal_(convolution.weight)
            nn.init.constant_(convolution.get_parameter("bias"), 0)
            stages[name], channels = nn.Sequential(convolution, nn.ReLU()), CHANNELS
        super().__init__(stages, channels=dict.fromkeys(stages, CHANNELS), input=replace(given, size=SIDE))
        self.head_of_original = stream.make_head

    def make_head(self, width: int, classes: int) -> nn.Module:
        """The original's."""
        return self.head_of_original(width, classes)


def stand_in(network: MultiStream) -> MultiStream:
    """The network's composition over stand-ins, newly initialised: its taps, temporals, fusion, heads and vectors."""
    branches = {key: _branch(branch) for key, branch in network.branches.items()}
    fusion, options = network.fusion_plan
    return MultiStream(branches, make_fusion=fusion_factory(fusion, options, classes=len(CLASSES)), classes=CLASSES)


def _branch(branch: Branch) -> Branch:
    if branch.plan is None:
        raise ValueError("a Branch that compose did not make has no plan.")
    if branch.is_vector:
        return copy.deepcopy(branch)
    stream = StandIn(branch.stream)
    taps = build_taps(stream, branch.plan)
    return Branch(stream, taps=taps, make_temporal=branch.make_temporal, plan=branch.plan)
