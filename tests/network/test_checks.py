"""What a stranger's part does wrong is one line when the network is composed: the part, its distribution, the fault."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import multistream
from multistream import Image, MultiStream, Stream, Vector, compose, datasets, streams
from multistream.data.layouts.data_source import open_table
from multistream.errors import MultistreamError, PluginError, UsageError
from multistream.network.compose import plan_of, recompose
from multistream.network.plan import NetworkPlan

CLASSES = ["awe", "fear", "joy"]
SOUND = "object@multistream-faulty"

FAULTS = {
    "dotted": "'layer.1' cannot be a stage",
    "channelless": "channels are given for []",
    "superless": "does not call super().__init__",
    "raising": "RuntimeError: the table of colours is gone",
    "classless": "it is a Classless, not a multistream.Stream",
    "wrong_channels": "stage 'high' returns ('B', 6, 3, 3) for an input of size 16, but 7 channels are declared",
    "no_dict": "forward returns list, but its stages are ['low', 'high']",
    "headless": "its head raised",
    "changing_vector": "forward returns ('B', 5), but its input has width 6",
    "wide_pool": "(stage 'low') returns ('B', 196), but pooled_width is 4",
    "wide_token": "project of ('B', 4) returns ('B', 8), but width is 9",
    "learnt_pool": "pool has parameters that train, but cacheable is True",
    "wide_temporal": "of 2 tokens of width 64 it returns ('B', 64), but out_width is 65",
    "raising_temporal": "forward raised",
    "tensor_fusion": "forward returns ('B', 3); it must return a multistream.FusionOutput",
    "narrow_fusion": "its logits are ('B', 1), but there are 3 classes",
    "heads_none": "its heads are None",
}


def composed(name: str, **options: object) -> MultiStream:
    """A network with this faulty part, all else sound."""
    if name in streams:
        known = {"one": {"width": 6}} if name == "changing_vector" else {}
        return compose({"one": name}, classes=CLASSES, known=known)
    kind = next(kind for kind in ("tap", "temporal", "fusion") if name in getattr(multistream, f"{kind}s"))
    return compose({"one": SOUND, "two": SOUND}, classes=CLASSES, **{kind: name}, options={kind: options})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "words"), FAULTS.items())
def test_a_faulty_part_is_one_line(installed, name: str, words: str) -> None:
    installed("faulty")
    with pytest.raises(PluginError) as told:
        composed(name)
    line = str(told.value)
    assert words in line
    assert f"'{name}' of multistream-faulty 0.7 is broken" in line
    assert "\n" not in line
    assert told.value.exit_code == 69


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("choosy", {"heads": 5}, "options.temporal: 'choosy' does not take heads=5"),
        ("bigru", {"readout": "middle"}, "options.temporal.readout: 'middle' is unknown. Known: flatten, last, sum."),
        ("early", {"dropout": 2}, "options.fusion: 'early' does not take dropout=2"),
        ("gap", {"width": -1}, "options.tap: 'gap' does not take width=-1"),
    ],
)
def test_an_impossible_option_is_the_users(installed, name: str, options: dict[str, object], words: str) -> None:
    installed("faulty")
    with pytest.raises(UsageError) as told:
        composed(name, **options)
    assert str(told.value).startswith(words)
    assert told.value.exit_code == 2


def test_sound_parts_of_the_same_plugin_work(installed) -> None:
    installed("faulty")
    composed("choosy", heads=4)
    composed("pooling")


class Given(Stream):
    def __init__(self) -> None:
        super().__init__({"only": nn.Conv2d(3, 4, 3)}, channels={"only": 5}, input=Image(size=8))


def test_an_instance_is_named_by_its_class() -> None:
    with pytest.raises(PluginError, match=r"^streams\.toy: the instance of \S*test_checks\.Given is broken"):
        compose({"toy": Given()}, classes=CLASSES)


class Counting(Stream):
    """Its code looks at numbers, which a pass without numbers cannot give."""

    def __init__(self) -> None:
        super().__init__({"only": nn.Conv2d(3, 4, 3)}, channels={"only": 4}, input=Image(size=8))

    def forward(self, x):
        maps = super().forward(x)
        return maps if float(maps["only"].sum()) < 1e9 else {}


def test_a_stream_that_looks_at_numbers_is_checked_on_numbers() -> None:
    assert compose({"toy": Counting()}, classes=CLASSES).branches["toy"].stream.map_shapes() == {"only": (1, 4, 6, 6)}


def test_a_pool_that_trains_does_so_under_a_frozen_stream(installed) -> None:
    """Where it says that it cannot be cached. Before, it was run without gradients and never moved."""
    installed("faulty")
    network = composed("pooling").freeze("streams")
    assert not network.is_cacheable
    network({"image": torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)}).sum().backward()
    gradients = [tap.power.grad for branch in network.branches.values() for tap in branch.taps.values()]
    assert all(gradient is not None and gradient != 0 for gradient in gradients)
    assert all(p.grad is None for branch in network.branches.values() for p in branch.stream.parameters())


def test_a_name_of_ours_stays_ours(installed) -> None:
    before = plan_of(compose(["object"], classes=CLASSES, image_size=32))
    installed("faulty")
    again = recompose(NetworkPlan.from_dict(before.to_dict()))
    assert type(again.branches["object"].stream).__module__ == "multistream_object.stream"
    assert type(compose({"one": SOUND}, classes=CLASSES).branches["one"].stream).__name__ == "Sound"


def test_a_plan_remembers_whose_a_strangers_part_is(installed) -> None:
    installed("faulty")
    network = compose({"one": SOUND, "two": SOUND}, classes=CLASSES, temporal="choosy")
    plan = plan_of(network)
    assert plan.branches["one"].temporal == "choosy@multistream-faulty"
    assert plan.fusion == "early"


@pytest.mark.parametrize(
    ("name", "words"), [("messy", "KeyError"), ("unlabelled", "1 label is not among its 2 classes")]
)
def test_a_faulty_layout_is_one_line(installed, tmp_path, name: str, words: str) -> None:
    installed("faulty")
    assert name in datasets
    with pytest.raises(MultistreamError) as told:
        open_table(f"{name}:{tmp_path}")
    assert words in str(told.value)
    assert f"'{name}' of multistream-faulty 0.7 is broken" in str(told.value)
    assert told.value.exit_code == 69


def test_a_stream_reads_one_input() -> None:
    both = (Image(size=8), Vector("scores", width=3))
    with pytest.raises(ValueError, match="It must be one Image, Map or Vector"):
        Stream({"only": nn.Conv2d(3, 4, 3)}, channels={"only": 4}, input=both)  # type: ignore[arg-type]
