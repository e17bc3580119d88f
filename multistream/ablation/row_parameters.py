"""Parameters of rows that train in one batch, with dimensions G (seeds) and V (variants), and a stage of such rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from multistream.network.network import MultiStream

Grid = Sequence[Sequence[MultiStream]]
"""networks[g][v]: seed g, variant v."""


class RowParameter:
    """One parameter of all seeds and of the variants that have it: `value` (G, V_p, ...), `variants` (V_p,)."""

    def __init__(self, grid: Grid, variants: Sequence[int], of: Callable[[MultiStream], Tensor]) -> None:
        self.sources = [[of(networks[v]).detach() for v in variants] for networks in grid]
        self.best = torch.stack([torch.stack(row) for row in self.sources])
        self.value = nn.Parameter(self.best.clone(), requires_grad=of(grid[0][variants[0]]).requires_grad)
        self.variants = torch.tensor(variants, device=self.value.device)
        self.is_bias = self.value.ndim == 3

    @torch.no_grad()
    def remember(self, rows_GV: Tensor) -> None:
        """Keeps the present values of these rows."""
        chosen = rows_GV.to(self.variants.device)[:, self.variants]
        self.best[chosen] = self.value.detach()[chosen]

    @torch.no_grad()
    def write_back(self) -> None:
        """Copies what was kept into the networks."""
        for row, values in zip(self.sources, self.best, strict=True):
            for source, value in zip(row, values, strict=True):
                source.copy_(value)


@dataclass(frozen=True)
class StageRows:
    """A stage of the variants that keep it: its projection, and the columns of the classifier that read its token."""

    key: str
    stage: str
    output: int
    projection: tuple[RowParameter, RowParameter] | None
    """Weight (G, V_s, W, P) and bias (G, V_s, W); None where the token is the pooled feature itself."""
    columns: RowParameter
    """(G, V_c, K, W); the stages of a stream whose tokens are averaged share them."""
    inside: Tensor
    """(V_s,) the stage's variants among those of the columns."""
    places: Tensor
    """(V_s, W) where the token stands in the stream's vector, which dropout drops from."""
    fraction: Tensor
    """(V_s, 1, 1): 1, or 1 / T where T tokens are averaged."""

    @property
    def parameters(self) -> tuple[RowParameter, ...]:
        """The columns and, if there is one, the projection."""
        return (self.columns, *(self.projection or ()))

    def logits(self, x_GBP: Tensor, mask_GEB: Tensor | None) -> Tensor:
        """Standardised features -> what the token adds to the logits, (G, V_s, K, B)."""
        columns = self.columns.value[:, self.inside] * self.fraction
        if self.projection is None:
            tokens_GWB = x_GBP.mT if mask_GEB is None else x_GBP.mT * mask_GEB[:, self.places[0]]
            return _shared(columns, tokens_GWB)
        weight, bias = (each.value for each in self.projection)
        if mask_GEB is None:  # columns meet weights before images: K products an image instead of W
            return _shared(columns @ weight, x_GBP.mT) + columns @ bias.unsqueeze(3)
        tokens_GVWB = (_shared(weight, x_GBP.mT) + bias.unsqueeze(3)) * mask_GEB[:, self.places]
        return columns @ tokens_GVWB


def _shared(weight_GVKP: Tensor, x_GPB: Tensor) -> Tensor:
    """Weights of V variants times the images that they share -> (G, V, K, B)."""
    product: Tensor = (weight_GVKP.flatten(1, 2) @ x_GPB).unflatten(1, weight_GVKP.shape[1:3])
    return product
