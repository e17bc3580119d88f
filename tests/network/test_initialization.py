"""Initial weights: each part's follow from (seed, key, part), whatever else is composed."""

from __future__ import annotations

import torch

from multistream import compose, streams
from multistream.network.network import MultiStream


def composed(
    seed: int | None, *, keys: tuple[str, ...] = ("first", "second"), depth: int = 0, **options: str
) -> MultiStream:
    given = {"first": "object", "second": streams["anp"](width=6), "third": "object"}
    cut = {"first": depth} if depth else {}
    return compose(
        {key: given[key] for key in keys}, classes=["awe", "fear"], depth=cut, image_size=32, seed=seed, **options
    )


def same(first: MultiStream, second: MultiStream, name: str) -> bool:
    return torch.equal(first.get_parameter(name), second.get_parameter(name))


TAP, STAGE, HEAD = (
    "branches.first.taps.block1.projection.weight",
    "branches.first.stream.stages.block1.0.0.weight",
    "fusion.heads.first.weight",
)


def test_a_part_begins_alike_whatever_stands_next_to_it() -> None:
    both, alone = composed(3, fusion="late"), composed(3, keys=("first",), fusion="late")
    moved = composed(3, keys=("second", "first", "third"), fusion="late")
    for name in (TAP, HEAD):
        assert same(both, alone, name)
        assert same(both, moved, name)
    names = [n for n, _ in both.branches["first"].stream.named_parameters()]
    assert all(same(both, alone, f"branches.first.stream.{name}") for name in names)


def test_a_cut_stream_keeps_its_beginning() -> None:
    assert same(composed(3), composed(3, depth=2), TAP)


def test_seeds_and_keys_differ() -> None:
    network = composed(3, keys=("first", "third"), fusion="late")
    assert not same(network, composed(4, keys=("first", "third"), fusion="late"), TAP)
    own, other = network.branches["first"], network.branches["third"]
    assert not torch.equal(own.taps["block1"].projection.weight, other.taps["block1"].projection.weight)


def test_without_a_seed_torchs_generator_decides_and_with_one_it_stays() -> None:
    torch.manual_seed(1)
    first, second = composed(None), composed(None)
    torch.manual_seed(1)
    assert same(first, composed(None), TAP)
    assert not same(first, second, TAP)
    before = torch.get_rng_state()
    composed(3)
    assert torch.equal(before, torch.get_rng_state())
