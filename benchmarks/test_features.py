"""Extraction against the roofline and timm, and training on cached features against photos and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from benchmarks.plain import plain_features
from benchmarks.subjects import CASES, batch_of, ours
from benchmarks.test_data import write_photo
from multistream import MultiStream
from multistream.features.fill_cache import extract
from multistream.features.pooled_groups import GROUP
from multistream.parts.losses import CrossEntropy
from multistream.profiling.machine import measure_roofline, timed
from multistream.recipe import Recipe, RuntimeSettings, TrainingSettings
from multistream.recipe.sections import Switch
from multistream.runtime.cuda_graphs import PooledGroups
from multistream.runtime.device import Runtime, resolve
from multistream.training.feeds import PooledFeed
from multistream.training.optimizers import make_optimizer
from multistream.training.step import Objective

Report = Callable[..., Any]
VGG16_MACS = 15_346_630_656
IMAGES, EPOCHS = 1_584, 30
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")]


def extraction_of(streams: Sequence[str], runtime: Runtime) -> Callable[[], Any]:
    """Returns a function that runs one group as in extraction."""
    network = ours(streams, runtime).freeze("streams").eval()
    given = runtime.send({"image": batch_of(GROUP, runtime.device)[0]})
    groups = PooledGroups(runtime, size=GROUP)

    @torch.no_grad()
    def group() -> None:
        for branch in network.branches.values():
            groups.pool(branch, given["image"])

    return group


@pytest.mark.parametrize(
    ("device", "compiled"),
    [("cpu", "off"), pytest.param("cuda", "off", marks=GPU), pytest.param("cuda", "on", marks=GPU)],
)
def test_extraction_of_vgg16_against_the_roofline(
    device: str, compiled: Switch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Decoded photos: the fraction of the speed that a matrix product reaches on this machine."""
    fast = resolve(RuntimeSettings(device=device, compile=compiled))
    group = extraction_of(["places"], fast)
    group()
    shares = []
    for _ in range(7):
        seconds = median(timed(group, fast, repeats=1 if device == "cpu" else 20))
        shares.append(GROUP * VGG16_MACS / seconds / measure_roofline(fast).macs_per_second)
    with capsys.disabled():
        fraction = f"{median(shares):.0%} [{min(shares):.0%}, {max(shares):.0%}] (median and range of 7)"
        rate = f"{GROUP / seconds:,.0f} photos a second"
        print(f"\n{f'extraction of VGG16 ({fast}), share of the roofline':42} {fraction}, {rate}")


@pytest.mark.parametrize(
    ("stream", "decoder"),
    [pytest.param(*case, marks=GPU) for case in (("object", "pillow"), ("object", "nvjpeg"), ("places", "nvjpeg"))],
)
def test_extraction_from_files(
    stream: str, decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Photos per second from 6,144 JPEGs of 640 x 480 on a GPU, with all cores that this process may use."""
    monkeypatch.setenv("MULTISTREAM_CACHE", str(tmp_path / "cache"))
    folder = write_photos(tmp_path / "photos", 6_144)
    recipe = Recipe().updated(
        {
            "data": {"source": str(folder), "decoder": decoder},
            "network": {"streams": {stream: stream}, "weights": {stream: "random"}, "freeze": ["streams"]},
        }
    )
    extraction = extract(recipe)
    assert extraction.streams[0].computed == 6_144
    with capsys.disabled():
        print(f"\n{f'extraction of {stream} from files, {decoder}':42} {extraction.images_per_second:,.0f} photos/s")


def write_photos(folder: Path, count: int) -> Path:
    """Writes `count` different files of 64 photos, in two class folders; they differ by a comment."""
    for seed in range(64):
        place = folder.with_name("photo.jpg")
        write_photo(place, (640, 480), seed=seed)
        content = place.read_bytes()
        for number in range(seed, count, 64):
            path = folder / ("awe", "fear")[number % 2] / f"{number:05}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content[:2] + b"\xff\xfe\x00\x08" + f"{number:06}".encode() + content[2:])
    return folder


@pytest.mark.parametrize("case", ["object", "places"])
def test_extraction_against_timm(case: str, fast: Runtime, report: Report, elsewhere: Callable[..., Any]) -> None:
    streams, (model,), _ = CASES[case]
    theirs = elsewhere(plain_features, model, GROUP, str(fast.device))
    report(f"extraction against timm's, {case}", extraction_of(streams, fast), theirs, pairs=7, warmup=1)


def test_an_epoch_on_the_cache(fast: Runtime, report: Report) -> None:
    network = ours(["object"], fast).freeze("streams")
    images, labels = batch_of(64, fast.device)
    given = fast.send({"image": images})
    with torch.no_grad(), fast.autocast:
        pooled = network.pool(given)
    optimizer = make_optimizer(network, TrainingSettings(), fast)

    def step(feed: Any, *, cached: bool) -> Callable[[], None]:
        objective = Objective(network.train(), criterion=CrossEntropy(), runtime=fast, pooled=cached)

        def run() -> None:
            objective(feed, labels)[0].backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return run

    report("epoch on the cache against frozen streams", step(pooled, cached=True), step(given, cached=False))


def test_training_on_the_cache_against_scikit_learn(
    fast: Runtime, report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    """Thirty epochs of a head against logistic regression to convergence, on the same concatenated features."""
    features, labels = clusters(ours(["object"], Runtime(torch.device("cpu"))))
    joined = np.concatenate([f.numpy() for f in features.values()], axis=1)
    train, test = slice(0, IMAGES), slice(IMAGES, None)
    scores: dict[str, float] = {}

    def mine() -> None:
        network = trained_head(features, labels, fast)
        rows = {"object": {stage: f[test].to(fast.device) for stage, f in features.items()}}
        with torch.no_grad():
            found = network.eval().classify(rows).argmax(1).cpu()
        scores["ours"] = float((found == labels[test]).float().mean())

    def theirs() -> None:
        scaler = StandardScaler().fit(joined[train])
        found = LogisticRegression(max_iter=1_000).fit(scaler.transform(joined[train]), labels[train].numpy())
        scores["theirs"] = float(found.score(scaler.transform(joined[test]), labels[test].numpy()))

    report("head on the cache against scikit-learn", mine, theirs, pairs=7, warmup=1)
    with capsys.disabled():
        print(f"{'':42} test accuracy ours {scores['ours']:.1%}, theirs {scores['theirs']:.1%}")
    assert scores["ours"] > scores["theirs"] - 0.03


def clusters(network: MultiStream) -> tuple[dict[str, Tensor], Tensor]:
    """Returns features {stage: (N, P)} of eight overlapping classes, with pooled features' shapes, and labels (N,)."""
    chance = torch.Generator().manual_seed(0)
    labels = torch.randint(8, (IMAGES + 400,), generator=chance)
    features = {}
    for stage, tap in network.branches["object"].taps.items():
        centres = 0.08 * torch.randn(8, tap.pooled_width, generator=chance)
        features[stage] = centres[labels] + torch.randn(len(labels), tap.pooled_width, generator=chance)
    return features, labels


def trained_head(features: dict[str, Tensor], labels: Tensor, runtime: Runtime) -> nn.Module:
    """Trains a head for thirty epochs on cached features, batch 64, as in training."""
    network = ours(["object"], runtime).freeze("streams")
    network.fit({"object": {stage: f[:IMAGES].to(runtime.device) for stage, f in features.items()}})
    settings = TrainingSettings()
    objective = Objective(network.train(), criterion=CrossEntropy(), runtime=runtime, pooled=True)
    optimizer = make_optimizer(network, settings, runtime)
    held = {"object": {stage: f.to(runtime.device) for stage, f in features.items()}}
    feed = PooledFeed(held, labels.to(runtime.device), torch.ones(len(labels), dtype=torch.bool), settings)
    for epoch in range(EPOCHS):
        for batch in feed.training(np.arange(IMAGES), epoch=epoch):
            objective(batch.given, batch.labels)[0].backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return network
