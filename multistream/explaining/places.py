"""Evidence in known places: the pointing game and the energy in masks, over many photos, with chance beside them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multistream.explaining.pointing import energy_in, points_into
from multistream.statistics import Interval, paired_bootstrap, wilson


@dataclass(frozen=True)
class Place:
    """Of `n` photos: how often a stream's strongest place lies in the mask, and its share of positive evidence there.

    `chance` is the masks' mean share of the pixels, which a map of noise gets in both. `energy` is over the `positive`
    photos that have any positive evidence.
    """

    stream: str
    n: int
    chance: float
    pointing: float
    pointing_ci95: Interval
    energy: float
    energy_ci95: Interval
    positive: int

    def to_dict(self) -> dict[str, Any]:
        """An object of `explain --masks --json`."""
        return asdict(self)


class Places:
    """Collects the pointing game and the energy in masks."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = {}

    def add(self, key: str, maps: Tensor, masks: Tensor) -> None:
        """Maps and masks (B, S, S) of a stream."""
        shares = masks.double().mean((1, 2))
        rows = torch.stack([points_into(maps, masks).double(), energy_in(maps, masks), shares], dim=1)
        self.parts.setdefault(key, []).append(rows)

    def results(self) -> tuple[Place, ...]:
        """One for each stream."""
        made = []
        for key, parts in self.parts.items():
            table = torch.cat(parts).numpy()
            n, hits = len(table), int(table[:, 0].sum())
            energy = table[~np.isnan(table[:, 1]), 1]
            nothing = (float("nan"), float("nan"))
            made.append(
                Place(
                    stream=key,
                    n=n,
                    chance=float(table[:, 2].mean()),
                    pointing=hits / n,
                    pointing_ci95=wilson(hits, n),
                    energy=float(energy.mean()) if len(energy) else float("nan"),
                    energy_ci95=paired_bootstrap(energy) if len(energy) else nothing,
                    positive=len(energy),
                )
            )
        return tuple(made)
