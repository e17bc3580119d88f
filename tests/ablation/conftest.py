"""A toy stream of three stages, random pooled features for it, and a small set of images on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torch import nn
from torch.nn import functional

from multistream import Image, Stream, compose, streams
from multistream.ablation.initial_networks import InitialNetworks, tapped_everywhere
from multistream.ablation.row_data import RowData
from multistream.ablation.row_loop import TrainedRows, train_rows
from multistream.ablation.variants import Axis, Variant, variants
from multistream.data.splits import Parts
from multistream.network.compose import fusion_factory
from multistream.network.network import MultiStream
from multistream.parts.losses import BinaryCrossEntropy, CrossEntropy
from multistream.recipe import Recipe, TrainingSettings
from multistream.runtime.device import Runtime

CPU = Runtime(torch.device("cpu"))
CLASSES = ["awe", "fear", "joy"]
COLOURS = {"awe": (120, 100, 140), "fear": (90, 90, 100), "joy": (150, 120, 90)}
PARTS = Parts(np.arange(90), np.arange(90, 110), np.arange(110, 150))


class Toy(Stream):
    """Three small convolutions with the same weights in every instance."""

    def __init__(self, names: Sequence[str] = ("edges", "parts", "things")) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            stages = {
                name: nn.Sequential(nn.Conv2d(into, out, 3, stride=2, padding=1), nn.ReLU())
                for name, into, out in zip(names, (3, 6, 10), (6, 10, 18), strict=True)
            }
        super().__init__(stages, channels=dict(zip(names, (6, 10, 18), strict=True)), input=Image(size=32))


@dataclass
class Bench:
    """A composed network with the streams `keys`, and random features to train its heads on.

    With `label_sets` an image has its class, and may have the first class too.
    """

    temporal: str = "concat"
    fusion: str = "early"
    keys: tuple[str, ...] = ("toy",)
    tap: str = "gap:8"
    stages: tuple[str, ...] = ("edges", "parts", "things")
    label_sets: bool = False

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        anp = streams["anp"](width=5)
        self.network = compose(
            {key: anp if key == "anp" else Toy(self.stages) for key in self.keys},
            classes=CLASSES,
            temporal=self.temporal,
            fusion=self.fusion,
            tap=self.tap,
            image_size=32,
            label_sets=self.label_sets,
        ).freeze("streams")
        self.base = tapped_everywhere(self.network)
        chance = torch.Generator().manual_seed(1)
        labels = torch.randint(3, (150,), generator=chance)
        features = {
            key: {
                stage: torch.randn(150, tap.pooled_width, generator=chance) + 0.4 * labels[:, None]
                for stage, tap in branch.taps.items()
            }
            for key, branch in self.base.branches.items()
        }
        targets, criterion = labels, CrossEntropy()
        if self.label_sets:
            targets, criterion = functional.one_hot(labels, 3).float(), BinaryCrossEntropy()
            targets[:, 0] = (labels % 2 == 0).float()
        self.data = RowData(features, labels, targets, torch.ones(150, dtype=torch.bool), PARTS, criterion)
        self.base.fit(self.data.take(torch.from_numpy(PARTS.train)))
        self.recipe = Recipe().updated({"network": {"freeze": ["streams"]}})
        fusions = {
            name: (fusion_factory(name, {}, classes=3), {}) for name in dict.fromkeys((self.fusion, "late", "gated"))
        }
        self.initial = InitialNetworks(self.base, self.recipe, fusions=fusions)

    def variants(self, axis: Axis) -> tuple[Variant, ...]:
        """Returns the variants of an axis, with one fusion."""
        return tuple(v for v in variants(self.network, axis) if v.fusion == self.fusion)

    def grid(self, found: Sequence[Variant], seeds: Sequence[int]) -> list[list[MultiStream]]:
        """Returns untrained networks, seeds by variants."""
        return [[self.initial.network(variant, seed=seed) for variant in found] for seed in seeds]

    def train(self, grid: list[list[MultiStream]], seeds: Sequence[int], settings: TrainingSettings) -> TrainedRows:
        """Trains all rows of the grid."""
        return train_rows(grid, self.data, seeds=seeds, settings=settings, runtime=CPU, tick=lambda _: None)


def settings_of(**changes: Any) -> TrainingSettings:
    """Returns settings for five short epochs of 12 steps with 16 images."""
    return Recipe().updated({"training": {"epochs": 5, "batch_size": 16, "patience": 0, **changes}}).training


def weights_of(network: MultiStream) -> dict[str, torch.Tensor]:
    """Returns all tensors that training changes."""
    return {n: t.detach().clone() for n, t in network.state_dict().items() if ".stream." not in n}


def difference(first: MultiStream, second: MultiStream) -> float:
    """Returns the largest difference of a weight."""
    other = weights_of(second)
    return max(float((t - other[n]).abs().max()) for n, t in weights_of(first).items())


@torch.no_grad()
def probability_difference(bench: Bench, first: MultiStream, second: MultiStream) -> float:
    """Returns the largest difference of a probability over all photos."""
    pooled = bench.data.take(torch.arange(150))
    one, other = (network.probabilities(network.classify(pooled)) for network in (first.eval(), second.eval()))
    return float((one - other).abs().max())


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of 90 images of 32 pixels whose colours overlap."""
    root = tmp_path_factory.mktemp("photos")
    chance = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for number in range(30):
            tint = np.array(colour) + chance.normal(0, 25, 3)
            pixels = np.clip(tint + chance.normal(0, 50, (32, 32, 3)), 0, 255).astype(np.uint8)
            Picture.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def vectors(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors of width 6 for every image; the first entry is weakly informative about the class."""
    ids = [str(path.relative_to(photos)) for path in sorted(photos.rglob("*.png"))]
    features = np.random.default_rng(1).random((len(ids), 6)).astype(np.float32)
    features[:, 0] += [0.4 * list(COLOURS).index(name.split("/")[0]) for name in ids]
    path = tmp_path_factory.mktemp("vectors") / "anp.npz"
    np.savez(path, ids=np.array(ids), features=features, vocabulary=np.array([f"pair {i}" for i in range(6)]))
    return path


@pytest.fixture
def recipe(photos: Path) -> Recipe:
    """A recipe of the toy stream alone, frozen: 4 epochs of 4 steps on the CPU."""
    return Recipe().updated(
        {
            "data": {"source": str(photos), "image_size": 32, "split": "60/10/30"},
            "network": {"freeze": ["streams"]},
            "training": {"epochs": 4, "batch_size": 16, "patience": 0},
            "runtime": {"device": "cpu", "precision": "fp32", "workers": 0},
        }
    )


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolates the feature cache of each test."""
    monkeypatch.setenv("MULTISTREAM_CACHE", str(tmp_path / "cache"))
