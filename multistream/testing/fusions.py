"""The contract of fusions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from multistream.interfaces import Fusion, FusionOutput
from multistream.registry import Kind
from multistream.testing.base import Contract, is_affine

WIDTHS, CLASSES = {"one": 5, "two": 3}, 4


class FusionContract(Contract):
    """The requirements of a `multistream.Fusion`: logits, a loss that trains it, streams that can be left out."""

    kind: ClassVar[Kind] = "fusion"

    def given(self) -> Mapping[str, Any]:
        heads = {key: nn.Linear(width, CLASSES) for key, width in WIDTHS.items()}
        return {"widths": WIDTHS, "classes": CLASSES, "heads": heads}

    def vectors(self, size: int = 6) -> dict[str, Tensor]:
        """Draws random vectors {key: (B, E)}."""
        chance = torch.Generator().manual_seed(1)
        return {key: torch.randn(size, width, generator=chance) for key, width in WIDTHS.items()}

    def test_is_a_fusion(self) -> None:
        """it is a multistream.Fusion"""
        assert isinstance(self.made(), Fusion), f"it is a {type(self.made()).__name__}; it must be a multistream.Fusion"

    @torch.no_grad()
    def test_gives_logits_in_float32(self) -> None:
        """vectors give a FusionOutput with finite float32 logits (B, K)"""
        output = self.made().eval()(self.vectors())
        assert isinstance(output, FusionOutput), f"it returns a {type(output).__name__}, not a FusionOutput"
        shape = tuple(output.logits.shape)
        assert shape == (6, CLASSES), f"logits are {shape}, they must be (6, {CLASSES})"
        assert output.logits.dtype == torch.float32, f"logits are {output.logits.dtype}"
        assert torch.isfinite(output.logits).all(), "logits hold NaN or Inf"
        for key, own in output.streams.items():
            assert key in WIDTHS, f"streams holds logits of {key!r}, which is not a stream"
            assert tuple(own.shape) == (6, CLASSES), f"the logits of {key} are {tuple(own.shape)}"

    @torch.no_grad()
    def test_streams_are_their_own_classifiers(self) -> None:
        """the logits of each stream are equal to `stream_logits` of its vector alone"""
        fusion, vectors = self.trained().eval(), self.vectors()
        for key, own in fusion(vectors).streams.items():
            if key in fusion.heads:
                same = torch.allclose(fusion.stream_logits(key, vectors[key]), own, atol=1e-5)
                assert same, f"streams[{key!r}] is not stream_logits({key!r}, its vector): override stream_logits"

    def test_linear_streams_are_affine(self) -> None:
        """if `is_linear_stream` is True, a stream's own logits are an affine function of its vector"""
        fusion = self.trained().eval()
        for key in fusion.heads:
            affine = is_affine(lambda vector, key=key: fusion.stream_logits(key, vector), 2, WIDTHS[key])
            assert affine or not fusion.is_linear_stream(key), f"the logits of {key} are not an affine function"

    @torch.no_grad()
    def test_averaged_probabilities_are_the_mean(self) -> None:
        """if `averages_probabilities` is True, the fused probabilities are the mean of the streams'"""
        fusion = self.trained().eval()
        output = fusion(self.vectors())
        if fusion.averages_probabilities:
            assert set(output.streams) == set(WIDTHS), "averages_probabilities is True, but streams are missing"
            mean = torch.stack([own.softmax(1) for own in output.streams.values()]).mean(0)
            assert torch.allclose(output.logits.softmax(1), mean, atol=1e-5), "the fused probabilities are not the mean"

    def test_its_loss_trains_every_parameter(self) -> None:
        """its loss is a finite scalar whose gradient reaches every parameter"""
        fusion = self.made().train()
        labels = torch.arange(6) % CLASSES
        loss = fusion.loss(fusion(self.vectors()), labels, nn.CrossEntropyLoss())
        assert loss.ndim == 0, f"the loss has the shape {tuple(loss.shape)}; it must be a scalar"
        loss.backward()
        assert torch.isfinite(loss), "the loss is NaN or Inf"
        idle = [name for name, p in fusion.named_parameters() if p.requires_grad and p.grad is None]
        assert not idle, f"{idle} get no gradient"

    @torch.no_grad()
    def test_a_stream_can_be_left_out(self) -> None:
        """with `present`, the logits do not depend on the absent stream's vector"""
        fusion, vectors = self.trained().eval(), self.vectors()
        some = fusion(vectors, frozenset({"one"})).logits
        moved = fusion({**vectors, "two": vectors["two"] + 100}, frozenset({"one"})).logits
        assert torch.isfinite(some).all(), "with one stream present the logits are NaN or Inf"
        assert torch.equal(some, moved), "the logits still depend on the vector of a stream that is left out"
        assert not torch.equal(some, fusion(vectors).logits), "leaving a stream out changes nothing"

    @torch.no_grad()
    def test_rows_are_independent(self) -> None:
        """an image's logits do not depend on the others in the batch"""
        fusion, vectors = self.trained().eval(), self.vectors()
        first = fusion({key: v[:1] for key, v in vectors.items()}).logits
        assert torch.allclose(fusion(vectors).logits[:1], first, atol=1e-5), "rows are mixed"

    def test_linear_means_affine(self) -> None:
        """if `linear` is True, the logits are an affine function of the vectors"""
        fusion = self.trained().eval()

        def joined(x: Tensor) -> Tensor:
            parts = x.split(list(WIDTHS.values()), dim=1)
            logits: Tensor = fusion(dict(zip(WIDTHS, parts, strict=True))).logits
            return logits

        affine = is_affine(joined, 2, sum(WIDTHS.values()))
        assert affine or not fusion.linear, "linear is True, but the logits are not an affine function of the vectors"
