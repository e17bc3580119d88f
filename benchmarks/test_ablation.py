"""Ablation on pooled features: batched training of many rows, against one training loop and against separate loops.

pytest benchmarks/test_ablation.py -s      on a CPU, with two threads

Features are random numbers with the shape of MobileNetV2's for 1,584 training photos of six classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from multistream.ablation.initial_networks import InitialNetworks
from multistream.ablation.row_data import RowData
from multistream.ablation.row_loop import train_by_itself, train_rows
from multistream.ablation.variants import Axis, variants
from multistream.data.splits import Parts
from multistream.network.compose import fusion_factory
from multistream.network.network import MultiStream
from multistream.parts.losses import BinaryCrossEntropy, CrossEntropy
from multistream.recipe import Recipe
from multistream.runs.composition import compose
from multistream.runtime.device import Runtime
from multistream.training.convex import ConvexFit, fit_network
from multistream.training.convex_training import convex_data

Report = Callable[..., Any]
CLASSES = [f"class {number}" for number in range(6)]
PARTS = Parts(np.arange(1584), np.arange(1584, 1683), np.arange(1683, 1980))
EPOCHS = 10
SEEDS = range(5)
CPU = Runtime(torch.device("cpu"))
RECIPE = Recipe().updated(
    {
        "network": {"streams": {"object": "object"}, "weights": {"object": "random"}, "freeze": ["streams"]},
        "training": {"epochs": EPOCHS, "patience": 0, "checkpoint_minutes": 1000},
    }
)


class Bench:
    """Untrained networks of one axis, and the features to train them on."""

    def __init__(self, *, temporal: str = "concat", epochs: int = EPOCHS, label_sets: bool = False) -> None:
        self.recipe = RECIPE.updated({"training": {"epochs": epochs}})
        torch.set_num_threads(2)
        torch.manual_seed(0)
        network = compose(["object"], classes=CLASSES, temporal=temporal, label_sets=label_sets)
        self.base = network.freeze("streams")
        chance = torch.Generator().manual_seed(0)
        labels = torch.randint(len(CLASSES), (1980,), generator=chance)
        features = {
            "object": {
                stage: torch.randn(1980, tap.pooled_width, generator=chance)
                for stage, tap in self.base.branches["object"].taps.items()
            }
        }
        targets, criterion = labels, CrossEntropy()
        if label_sets:
            targets, criterion = (torch.rand(1980, len(CLASSES), generator=chance) < 0.4).float(), BinaryCrossEntropy()
        self.data = RowData(features, labels, targets, torch.ones(1980, dtype=torch.bool), PARTS, criterion)
        self.base.fit(self.data.take(torch.from_numpy(PARTS.train)))
        make = fusion_factory("early", {}, classes=len(CLASSES))
        self.initial = InitialNetworks(self.base, self.recipe, fusions={"early": (make, {})})

    def grid(self, axis: Axis, *, seeds: Sequence[int] = SEEDS) -> list[list[MultiStream]]:
        """Builds every variant of the axis with every seed."""
        found = variants(self.base, axis)
        return [[self.initial.network(variant, seed=seed) for variant in found] for seed in seeds]

    def train(self, grid: list[list[MultiStream]]) -> None:
        """Trains all of them as `ablate` does."""
        train_rows(grid, self.data, seeds=list(SEEDS), settings=self.recipe.training, runtime=CPU, tick=lambda _: None)

    def alone(self, network: MultiStream, *, seed: int = 0) -> None:
        """Trains one of them as `train` does, including the checkpoints at start and end."""
        settings = self.recipe.updated({"training": {"seed": seed}}).training
        train_by_itself(network, self.data, settings=settings, runtime=CPU)


@pytest.mark.parametrize("axis", ["depth", "taps"])
@pytest.mark.parametrize("label_sets", [False, True])
def test_all_rows_against_one_training_loop(label_sets: bool, axis: Axis, report: Report) -> None:
    """Target: 25 rows take at most 2 times as long as the loop, 155 rows at most 4.5 times."""
    bench = Bench(label_sets=label_sets)
    grid, single = bench.grid(axis), bench.grid("depth")[0][-1]
    count = len(grid) * len(grid[0])
    report(
        f"{axis}, {count} rows{', label sets' if label_sets else ''}, against one loop",
        lambda: bench.train(grid),
        lambda: bench.alone(single),
    )


def test_rows_at_their_optimum_against_one_training_loop(report: Report) -> None:
    """Target: all 31 subsets by L-BFGS, with selected penalties, take at most as long as the loop of 30 epochs."""
    bench = Bench(epochs=30)
    chance = torch.Generator().manual_seed(1)
    for stages in bench.data.features.values():
        for pooled in stages.values():  # one feature in eight depends on the class
            directions = torch.randn(len(CLASSES), pooled.shape[1], generator=chance)
            pooled[:, ::8] += 0.3 * directions[bench.data.labels, ::8]
    labels, valid = bench.data.labels, bench.data.valid
    rows = convex_data(bench.data.features, labels, valid, PARTS, bench.data.criterion, views=1, classes=len(CLASSES))

    def fit_all() -> None:
        fits: list[ConvexFit] = []
        for network in reversed(bench.grid("taps", seeds=[0])[0]):
            fits.append(fit_network(network, rows, starts=fits))

    single = bench.grid("depth")[0][-1]
    report("31 rows by lbfgs, against one loop", fit_all, lambda: bench.alone(single), pairs=5, warmup=1)


def test_recurrent_rows_against_the_sum_of_single_runs(report: Report) -> None:
    """Bi-GRU with attention is not batched: its rows share gathered inputs, and must be faster than single loops."""
    bench = Bench(temporal="bigru+att", epochs=2)
    grid = bench.grid("depth")

    def one_by_one() -> None:
        for seed, networks in zip(SEEDS, grid, strict=True):
            for network in networks:
                bench.alone(network, seed=seed)

    report("depth with Bi-GRU + att, against one by one", lambda: bench.train(grid), one_by_one, pairs=7, warmup=1)
