"""Temporals: modules that turn a branch's tokens, shallow to deep, into one vector. "Time" is the stage."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from multistream.interfaces import Temporal


class Concat(Temporal):
    """Concatenates all tokens: (B, T, W) -> (B, T x W) (paper eq. 1)."""

    linear = True

    def __init__(self, width: int, *, steps: int) -> None:
        super().__init__(width, steps=steps, out_width=steps * width)

    def forward(self, tokens_BTW: Tensor) -> Tensor:
        return tokens_BTW.flatten(1)


class Average(Temporal):
    """The mean of the tokens: (B, T, W) -> (B, W), as in the authors' object script (paper section 2)."""

    linear = True

    def __init__(self, width: int, *, steps: int) -> None:
        super().__init__(width, steps=steps, out_width=width)

    def forward(self, tokens_BTW: Tensor) -> Tensor:
        return tokens_BTW.mean(1)


class BiGRU(Temporal):
    """A single-layer bidirectional GRU over the tokens (paper section 1), `units` in each direction.

    `directions` combines the two directions by `concat` (2 x units per step) or `sum`. `readout` combines the steps:
    `flatten` (all of them), `last` (each direction's final state) or `sum`.

    >>> BiGRU(64, steps=5)(torch.zeros(2, 5, 64)).shape
    torch.Size([2, 640])
    """

    def __init__(
        self,
        width: int,
        *,
        steps: int,
        units: int = 64,
        directions: Literal["concat", "sum"] = "concat",
        readout: Literal["flatten", "last", "sum"] = "flatten",
    ) -> None:
        check_choice("directions", directions, ("concat", "sum"))
        check_choice("readout", readout, ("flatten", "last", "sum"))
        self_width = 2 * units if directions == "concat" else units
        super().__init__(width, steps=steps, out_width=steps * self_width if readout == "flatten" else self_width)
        self.units, self.directions, self.readout, self.step_width = units, directions, readout, self_width
        self.gru = nn.GRU(width, units, batch_first=True, bidirectional=True)

    def forward(self, tokens_BTW: Tensor) -> Tensor:
        return self.read(self.attend(self.states(tokens_BTW)))

    def states(self, tokens_BTW: Tensor) -> Tensor:
        """The GRU's output of both directions, (B, T, 2 x units)."""
        # Explanation needs gradients in eval mode, which cuDNN's GRU does not support; the native kernel does.
        with torch.backends.cudnn.flags(enabled=self.training and torch.backends.cudnn.enabled):
            states: Tensor = self.gru(tokens_BTW)[0]
        return states

    def join(self, states: Tensor) -> Tensor:
        """Combines both directions: (..., 2 x units) -> (..., step_width)."""
        return states if self.directions == "concat" else states[..., : self.units] + states[..., self.units :]

    def attend(self, states_BTS: Tensor) -> Tensor:
        """Returns the states unchanged; subclasses weight them here, before `read`."""
        return states_BTS

    def read(self, states_BTS: Tensor) -> Tensor:
        """(B, T, 2 x units) -> (B, out_width)."""
        if self.readout == "last":
            forward, backward = states_BTS[:, -1, : self.units], states_BTS[:, 0, self.units :]
            return self.join(torch.cat([forward, backward], dim=-1))
        joined = self.join(states_BTS)
        return joined.flatten(1) if self.readout == "flatten" else joined.sum(1)


class AttentiveBiGRU(BiGRU):
    """Bi-GRU with attention: each step's output x_t times `tanh(W_t x_t + b_t)^2` (paper eq. 2).

    `weights`: one W per `step` or one `shared` W. `gate`: a `vector` (one factor per unit) or a `scalar` per step.
    The gate's gradient is zero at W = b = 0, so W is Glorot initialised.
    """

    def __init__(
        self,
        width: int,
        *,
        steps: int,
        units: int = 64,
        directions: Literal["concat", "sum"] = "concat",
        readout: Literal["flatten", "last", "sum"] = "flatten",
        weights: Literal["step", "shared"] = "step",
        gate: Literal["vector", "scalar"] = "vector",
    ) -> None:
        check_choice("weights", weights, ("step", "shared"))
        check_choice("gate", gate, ("vector", "scalar"))
        super().__init__(width, steps=steps, units=units, directions=directions, readout=readout)
        self.weights, self.gate = weights, gate
        gates = steps if weights == "step" else 1
        self.weight = nn.Parameter(torch.empty(gates, 2 * units if gate == "vector" else 1, 2 * units))
        self.bias = nn.Parameter(torch.zeros(gates, self.weight.shape[1]))
        for matrix in self.weight:
            nn.init.xavier_uniform_(matrix)

    def attention(self, tokens_BTW: Tensor) -> Tensor:
        """The factor of each step (eq. 2), (B, T) in [0, 1): the mean over its units."""
        return self.factors(self.states(tokens_BTW)).mean(2)

    def factors(self, states_BTS: Tensor) -> Tensor:
        """The factors of each step's output (eq. 2), (B, T, 2 x units) or (B, T, 1), in [0, 1)."""
        weight, bias = self.weight.expand(self.steps, -1, -1), self.bias.expand(self.steps, -1)
        return torch.tanh(torch.einsum("bts,tgs->btg", states_BTS, weight) + bias).square()

    def attend(self, states_BTS: Tensor) -> Tensor:
        """Multiplies each step's output by its factors."""
        return states_BTS * self.factors(states_BTS)


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError for an option's value that is not one of the choices."""
    if value not in choices:
        raise ValueError(f"temporal option {option}={value!r} is unknown. It must be one of {', '.join(choices)}.")
