"""The contract of streams."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import Tensor

from multistream.errors import WeightsError
from multistream.inputs import Image
from multistream.interfaces import VECTOR, Stream
from multistream.registry import Kind
from multistream.testing.base import Contract, same, state, step
from multistream.weights import Source


class StreamContract(Contract):
    """The requirements of a `multistream.Stream`: shapes, truncation, freezing, loading."""

    kind: ClassVar[Kind] = "stream"

    def batch(self, size: int = 2) -> Tensor:
        """Draws random images, maps or vectors, with the shape and dtype of the stream's input."""
        chance = torch.Generator().manual_seed(1)
        empty = self.made().example_input(batch=size)
        if empty.dtype == torch.uint8:
            return torch.randint(0, 256, empty.shape, generator=chance, dtype=torch.uint8)
        return torch.rand(empty.shape, generator=chance)

    def test_is_a_stream(self) -> None:
        """it is a multistream.Stream"""
        stream = self.made()
        assert isinstance(stream, Stream), f"it is a {type(stream).__name__}; it must be a multistream.Stream"

    @torch.no_grad()
    def test_maps_have_the_declared_channels(self) -> None:
        """every stage returns a map (B, C, h, w) with the declared number of channels"""
        stream, x = self.made().eval(), self.batch()
        maps = stream(x)
        assert list(maps) == list(stream.channels), f"maps {list(maps)} are not the stages {list(stream.channels)}"
        for stage, feature_map in maps.items():
            wanted = (2, stream.channels[stage])
            assert tuple(feature_map.shape[:2]) == wanted, f"{stage}: {tuple(feature_map.shape)} must begin {wanted}"
            assert feature_map.ndim == (2 if stage == VECTOR else 4), f"{stage}: {feature_map.ndim} dimensions"
            assert torch.isfinite(feature_map).all(), f"{stage}: NaN or Inf"

    @torch.no_grad()
    def test_random_weights_give_varying_maps(self) -> None:
        """a random initialisation in eval mode does not produce a constant feature map"""
        for stage, feature_map in self.made().eval()(self.batch()).items():
            deviation = float(feature_map.std())
            assert deviation > 1e-4, (
                f"{stage}: its values deviate by {deviation:.1e}; frozen, training on it would have no effect"
            )

    @torch.no_grad()
    def test_eval_mode_is_deterministic_and_rows_are_independent(self) -> None:
        """in eval mode the map of a photo does not depend on the other photos of the batch"""
        stream, x = self.trained().eval(), self.batch(3)
        whole, again, first = stream(x), stream(x), stream(x[:1])
        for stage in whole:
            assert torch.equal(whole[stage], again[stage]), f"{stage}: two passes differ"
            near = torch.allclose(whole[stage][:1], first[stage], atol=1e-3, rtol=1e-3)
            assert near, f"{stage}: a photo's map depends on the others in the batch"

    @torch.no_grad()
    def test_batch_and_maps_are_not_modified(self) -> None:
        """neither the batch nor a returned map is modified afterwards"""
        stream, x = self.trained().eval(), self.batch()
        before = x.clone()
        stream(x)
        assert torch.equal(x, before), "the batch was modified in place"
        state_of: Tensor = stream.prepare(x)
        for name, stage in stream.stages.items():
            kept = state_of.clone() if isinstance(state_of, Tensor) else None
            following = stage(state_of)
            changed = kept is not None and not torch.equal(kept, state_of)
            assert not changed, (
                f"{name} modifies the map of the previous stage: its first operation must not be in place"
            )
            state_of = following

    @torch.no_grad()
    def test_other_sizes_are_resized(self) -> None:
        """a photo of another size is resized on the device"""
        stream = self.made().eval()
        if isinstance(stream.input, Image):
            size = 2 * stream.input.size
            large = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
            shapes = {stage: m.shape[2:] for stage, m in stream(large).items()}
            own = {stage: m.shape[2:] for stage, m in stream(self.batch()).items()}
            assert shapes == own, f"a photo of {size} gives {shapes}, one of {stream.input.size} gives {own}"

    @torch.no_grad()
    def test_truncation_shares_kept_stages_and_drops_later_ones(self) -> None:
        """truncate(n) shares the first n stages, with equal maps, and has no parameters of the later ones"""
        stream, x = self.trained().eval(), self.batch()
        whole, stages = stream(x), list(stream.stages)
        for depth in range(1, len(stages) + 1):
            cut = stream.truncate(depth)
            assert list(cut.stages) == stages[:depth], f"truncate({depth}) has {list(cut.stages)}"
            assert list(stream.stages) == stages, "truncate changed the stream itself"
            assert same(cut.eval()(x), {s: whole[s] for s in stages[:depth]}), f"truncate({depth}): other maps"
            later = {id(p) for s in stages[depth:] for p in stream.stages[s].parameters()}
            kept = {id(p) for p in cut.parameters()}
            assert not later & kept, f"truncate({depth}) still holds parameters of {stages[depth:]}"
            own = {id(p) for s in stages[:depth] for p in stream.stages[s].parameters()}
            assert own <= kept, f"truncate({depth}) copied parameters; they must be shared"

    def test_frozen_means_bit_identical(self) -> None:
        """in a frozen stream no parameter and no buffer (such as batch norm's statistics) changes in training"""
        stream = self.made().freeze()
        before = state(stream)
        assert not any(p.requires_grad for p in stream.parameters()), "a frozen parameter requires gradients"
        stream.train()
        wrong = [name for name, stage in stream.stages.items() if any(m.training for m in stage.modules())]
        assert not wrong, f".train() put {wrong[:3]} of a frozen stream into training mode"
        if before:
            maps = stream(self.batch())
            step(stream, torch.stack([m.float().mean() for m in maps.values()]).sum())
        changed = [name for name, tensor in stream.state_dict().items() if not torch.equal(tensor, before[name])]
        assert not changed, f"frozen, but {changed[:3]} changed"

    def test_the_first_stages_can_be_frozen_alone(self) -> None:
        """freeze(1) freezes the first stage, and the others stay trainable"""
        stream = self.made()
        if len(stream.stages) > 1:
            stream.freeze(1).train()
            first, second = list(stream.stages.values())[:2]
            assert not any(p.requires_grad for p in first.parameters()), "the first stage still trains"
            assert not first.training, "the first stage is in training mode"
            trains = any(p.requires_grad for p in second.parameters()) or not list(second.parameters())
            assert trains, "the second stage was frozen too"

    @torch.no_grad()
    def test_state_dict_and_copies_have_all_state(self) -> None:
        """a stream with the same state dict and a deep copy give the same maps"""
        stream, x = self.trained().eval(), self.batch()
        torch.manual_seed(7)
        other = self.make().eval()
        other.load_state_dict(stream.state_dict())
        assert same(other(x), stream(x)), (
            "after load_state_dict the maps differ: some state is neither a parameter nor a buffer"
        )
        assert same(copy.deepcopy(stream)(x), stream(x)), "a deep copy gives other maps"

    def test_loading_is_strict(self) -> None:
        """load_weights accepts its own tensors, and rejects a file without one of them, with its name"""
        stream = self.made()
        tensors = dict(state(stream))
        weights = [name for name, _ in stream.named_parameters()]  # buffers may come from options, such as a mean image
        if not weights:
            return
        foreign = [name for name in tensors if stream.rename(name) != name]
        assert not foreign, f"rename({foreign[0]!r}) is {stream.rename(foreign[0])!r}; it must pass its own names"
        stream.load_weights(tensors)
        missing = tensors.pop(weights[0])
        message = ""
        try:
            stream.load_weights(tensors)
        except WeightsError as error:
            message = str(error)
        assert message, f"a file without {weights[0]} {tuple(missing.shape)} was accepted"
        assert weights[0] in message, f"the error does not name {weights[0]}: {message}"

    def test_sources_name_a_file_or_a_hub(self) -> None:
        """pretrained weights, if there are any, name a file or a hub as their source"""
        stream = self.made()
        for variant, source in stream.weights.items():
            assert isinstance(source, Source), f"weights[{variant!r}] is not a multistream.Source"
            assert source.file or source.hub, f"weights[{variant!r}] must name a file or a hub"

    def test_its_head_classifies(self) -> None:
        """make_head(width, classes) returns logits (B, classes)"""
        width = self.made().channels.get(VECTOR, 24)
        logits = self.made().make_head(width, 5).eval()(torch.zeros(2, width))
        assert tuple(logits.shape) == (2, 5), f"the head gives {tuple(logits.shape)}, it must be (2, 5)"
