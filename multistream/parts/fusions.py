"""Fusions: one prediction from several branches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from multistream.interfaces import Fusion, FusionOutput
from multistream.parts.dropout import SteppedDropout


class Solo(Fusion):
    """The fusion of a network with one stream: the logits are those of its head."""

    linear = True

    def __init__(self, widths: Mapping[str, int], *, classes: int, heads: Mapping[str, nn.Module]) -> None:
        super().__init__(widths, classes=classes, heads=heads)
        self.linear = all(isinstance(head, nn.Linear) for head in heads.values())

    def set_classifier(self, weights: Mapping[str, Tensor], bias_K: Tensor) -> None:
        for key, weight in weights.items():
            _set_linear(self.heads[key], weight, bias_K)

    def forward(self, vectors: Mapping[str, Tensor], present: frozenset[str] | None = None) -> FusionOutput:
        del present
        ((key, vector),) = vectors.items()
        logits = self.heads[key](vector)
        return FusionOutput(logits, {key: logits})


class Early(Fusion):
    """Concatenates the vectors; dropout; one linear layer (paper section 1, EF).

    The vector of a stream that is left out is replaced by zeros.
    """

    linear = True

    def __init__(
        self, widths: Mapping[str, int], *, classes: int, heads: Mapping[str, nn.Module], dropout: float = 0.5
    ) -> None:
        del heads  # uses the streams' vectors, without their classifiers
        super().__init__(widths, classes=classes, heads={})
        self.dropout = SteppedDropout(dropout)
        self.classifier = nn.Linear(sum(widths.values()), classes)

    def forward(self, vectors: Mapping[str, Tensor], present: frozenset[str] | None = None) -> FusionOutput:
        return FusionOutput(self.classifier(_joined(vectors, self.widths, present, self.dropout)), {})

    def set_classifier(self, weights: Mapping[str, Tensor], bias_K: Tensor) -> None:
        _set_linear(self.classifier, torch.cat([weights[key] for key in self.widths], 1), bias_K)


class Late(Fusion):
    """Averages the softmax outputs of the streams' own classifiers (paper section 1, LF).

    Its loss is the sum of the streams' own losses, so that every classifier trains as if it were alone.
    """

    averages_probabilities = True
    one_class = True

    def set_classifier(self, weights: Mapping[str, Tensor], bias_K: Tensor) -> None:
        for key, weight in weights.items():
            _set_linear(self.heads[key], weight, bias_K)

    def forward(self, vectors: Mapping[str, Tensor], present: frozenset[str] | None = None) -> FusionOutput:
        keep = frozenset(vectors) if present is None else present
        streams = {key: self.heads[key](vectors[key]) for key in self.widths}
        logs = torch.stack([streams[key].float().log_softmax(1) for key in self.widths if key in keep])
        return FusionOutput(logs.logsumexp(0) - torch.tensor(float(len(logs))).log(), streams)

    def loss(self, output: FusionOutput, labels: Tensor, criterion: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The sum of the streams' own losses."""
        return torch.stack([criterion(logits, labels) for logits in output.streams.values()]).sum()


class Gated(Fusion):
    """Averages the softmax outputs of the streams' classifiers with learned weights that depend on the image.

    A linear layer on all vectors computes one score per stream, and softmax turns the scores into weights. They are
    uniform initially, so that the probabilities equal those of `late`. Each classifier also has its own loss;
    otherwise the first to learn would suppress the others. After Jacobs et al., "Adaptive mixtures of local experts"
    (1991).
    """

    one_class = True

    def __init__(
        self, widths: Mapping[str, int], *, classes: int, heads: Mapping[str, nn.Module], dropout: float = 0.5
    ) -> None:
        super().__init__(widths, classes=classes, heads=heads)
        self.dropout = SteppedDropout(dropout)
        self.gate = nn.Linear(sum(widths.values()), len(widths))
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def log_trust(self, vectors: Mapping[str, Tensor], present: frozenset[str] | None = None) -> Tensor:
        """The logarithms of the streams' weights, (B, S), in the streams' order; the weights sum to 1."""
        scores: Tensor = self.gate(_joined(vectors, self.widths, present, self.dropout))
        if present is not None:
            absent = torch.tensor([key not in present for key in self.widths], device=scores.device)
            scores = scores.masked_fill(absent, float("-inf"))
        return scores.float().log_softmax(1)

    def forward(self, vectors: Mapping[str, Tensor], present: frozenset[str] | None = None) -> FusionOutput:
        streams = {key: self.heads[key](vectors[key]) for key in self.widths}
        logs_BSK = torch.stack([streams[key].float().log_softmax(1) for key in self.widths], dim=1)
        return FusionOutput((logs_BSK + self.log_trust(vectors, present).unsqueeze(2)).logsumexp(1), streams)

    def loss(self, output: FusionOutput, labels: Tensor, criterion: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The criterion on the fused logits plus the sum of the streams' own losses."""
        own = torch.stack([criterion(logits, labels) for logits in output.streams.values()])
        return criterion(output.logits, labels) + own.sum()


@torch.no_grad()
def _set_linear(layer: nn.Module, weight_KE: Tensor, bias_K: Tensor) -> None:
    assert isinstance(layer, nn.Linear)
    layer.weight.copy_(weight_KE)
    layer.bias.copy_(bias_K)


def _joined(
    vectors: Mapping[str, Tensor], keys: Iterable[str], present: frozenset[str] | None, dropout: SteppedDropout
) -> Tensor:
    """The concatenated vectors after dropout, (B, sum of widths), with zeros for streams that are left out."""
    keep = frozenset(vectors) if present is None else present
    parts = {key: dropout(vectors[key], key) if key in keep else torch.zeros_like(vectors[key]) for key in keys}
    return torch.cat(list(parts.values()), dim=1)
