"""The self-test: a composition learns from planted cues, and its explanation must find them.

Small streams replace the streams; taps, temporals, fusion, heads and the explanation are those of the composition.
Each stream that reads images gets the cue in turn, in its input alone. Then its maps must point to the cue, the maps of
other streams must not, the contributions must sum to the explained score, the other streams' Shapley values must be
close to zero, the maps must change if the weights are shuffled (Adebayo et al. 2018), and training the same composition
again must give similar maps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from multistream.console import Say
from multistream.errors import UsageError
from multistream.explaining.attribution import Attribution, Method, attribute
from multistream.explaining.decomposition import TOLERANCE
from multistream.explaining.games import shapley_values
from multistream.explaining.linearity import is_linear
from multistream.explaining.localisation import points_into
from multistream.explaining.planted_scenes import SIDE, PlantedScenes, plant, with_small_streams
from multistream.inference.model import Model
from multistream.network.network import MultiStream
from multistream.nn.modules import evaluating
from multistream.parts.dropout import reseed_dropout
from multistream.recipe import RuntimeSettings
from multistream.runtime.device import Runtime, resolve

MakeMaps = Callable[[MultiStream, PlantedScenes], Mapping[str, Tensor]]
"""A network and scenes -> maps {key: (B, SIDE, SIDE)} for each scene's class against the other class."""

BATCH, SCENES, SEEDS = 64, 200, tuple(range(5))
STEPS, RATE, DECAY = 200, 3e-3, 0.01
TRAININGS = 3
"""Training runs per stream: the rank correlation of one pair of runs varies by .1."""
LARGEST_GAP = 1e-2
"""The largest error of integrated gradients, relative to the logit: the integral is a sum of 32 points."""

Explain = Callable[[], Tensor]
"""Explains one batch with the network's current weights: maps (B, ...)."""


@dataclass(frozen=True)
class SelfTestCheck:
    """One measured value, with the cue in `stream`, and its bound."""

    name: str
    stream: str
    value: float
    bound: float
    at_least: bool

    @property
    def passed(self) -> bool:
        """Whether the value is within the bound; NaN never is."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass(frozen=True)
class SelfTest:
    """All checks, and the method of the maps: the exact sum, or integrated gradients if there is none."""

    method: Method
    checks: tuple[SelfTestCheck, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Returns the object of `test-explanation --self-test --json`."""
        checks = [{**asdict(check), "passed": check.passed} for check in self.checks]
        return {"method": self.method, "passed": self.passed, "checks": checks, "seconds": self.seconds}


def self_test(
    network: MultiStream,
    *,
    runtime: Runtime,
    maps_of: MakeMaps | None = None,
    steps: int = STEPS,
    say: Say = lambda _: None,
) -> SelfTest:
    """Trains a network's composition with small streams and checks the explanations; `network` is not changed.

    There are three training runs for every stream that reads images, each of about 20 s on one CPU core. Raises
    UsageError if no stream reads images.
    """
    started = time.monotonic()
    keys = [key for key, branch in network.branches.items() if not branch.is_vector]
    if not keys:
        raise UsageError("--self-test", "no stream reads images.", right="The self-test plants cues in images.")
    checks: list[SelfTestCheck] = []
    for key in keys:
        say(f"self-test: cues planted in {key}")
        trained = [teach(network, key, seed=seed, steps=steps, runtime=runtime) for seed in range(TRAININGS)]
        checks += _measure(trained, key, maps_of or _maps_of(runtime), runtime=runtime)
    method: Method = "decomposition" if is_linear(network) else "integrated-gradients"
    return SelfTest(method, tuple(checks), time.monotonic() - started)


def self_test_model(model: Model, *, device: str = "auto", say: Say = lambda _: None) -> SelfTest:
    """Runs the self-test of a trained model's composition, in float32."""
    return self_test(model.network, runtime=resolve(RuntimeSettings(device=device, precision="fp32")), say=say)


def teach(network: MultiStream, key: str, *, seed: int, steps: int, runtime: Runtime) -> MultiStream:
    """Trains the network's composition with small streams, end to end, on scenes with the cue in `key` only."""
    generator = torch.Generator().manual_seed(1000 + seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = runtime.place(with_small_streams(network))
        optimizer = torch.optim.AdamW(student.parameters(), RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
        student.train()
        for step in range(steps):
            scenes = plant(student.inputs, key, count=BATCH, generator=generator)
            reseed_dropout(student, seed=seed, step=step)
            output = student.fuse(student.pool(runtime.send(scenes.batch)))
            loss = student.fusion.loss(output, scenes.labels.to(runtime.device), functional.cross_entropy)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    student.eval().requires_grad_(False)
    with torch.no_grad():
        student.fit(student.pool(runtime.send(plant(student.inputs, key, count=256, generator=generator).batch)))
    return student


def _maps_of(runtime: Runtime) -> MakeMaps:
    def explained(network: MultiStream, scenes: PlantedScenes) -> Mapping[str, Tensor]:
        return _attributed(network, scenes, runtime=runtime).densities(SIDE)

    return explained


def _attributed(network: MultiStream, scenes: PlantedScenes, *, runtime: Runtime) -> Attribution:
    """Returns the contributions to each scene's class, minus those to the other class."""
    return attribute(network, scenes.batch, targets=scenes.labels, against=1 - scenes.labels, runtime=runtime)


def _measure(trained: Sequence[MultiStream], key: str, maps_of: MakeMaps, *, runtime: Runtime) -> list[SelfTestCheck]:
    """Runs all checks of the first trained network on new scenes with the cue in `key`.

    The other trained networks measure the agreement between training runs.
    """
    first = trained[0]
    drawn = plant(first.inputs, key, count=SCENES, generator=torch.Generator().manual_seed(7))
    scenes = PlantedScenes(runtime.send(drawn.batch), drawn.labels, drawn.masks)
    with torch.no_grad(), evaluating(first):
        pooled = first.pool(scenes.batch)
        logits = first.classify(pooled)
    each_maps = [maps_of(network, scenes) for network in trained]
    hits = {name: float(points_into(each, scenes.masks).double().mean()) for name, each in each_maps[0].items()}
    others = [hit for name, hit in hits.items() if name != key]
    random = similarity_to_random(first, lambda: maps_of(first, scenes)[key], batch=scenes.batch, seeds=SEEDS)
    pairs = combinations((each[key].flatten(1) for each in each_maps), 2)
    again = torch.stack([spearman(one, other).mean() for one, other in pairs])
    checks = [
        SelfTestCheck(
            "accuracy on planted cues",
            key,
            float((logits.argmax(1).cpu() == scenes.labels).double().mean()),
            0.95,
            at_least=True,
        ),
        _sum_check(_attributed(first, scenes, runtime=runtime), logits, key),
        SelfTestCheck("pointing game in the stream", key, hits[key], 0.95, at_least=True),
        *([SelfTestCheck("pointing game in the others", key, max(others), 0.15, at_least=False)] if others else []),
        SelfTestCheck("rank correlation, weights shuffled", key, abs(float(random.mean())), 0.2, at_least=False),
        SelfTestCheck("rank correlation, trained again", key, float(again.mean()), 0.8, at_least=True),
    ]
    if len(first.branches) > 1:
        fraction = _fraction_of_others(first, pooled, scenes, key)
        checks.insert(-2, SelfTestCheck("Shapley values of the others, fraction", key, fraction, 0.01, at_least=False))
    return checks


def _sum_check(attribution: Attribution, logits: Tensor, key: str) -> SelfTestCheck:
    """Checks the sum of the contributions: the largest error, relative to the logit."""
    if attribution.residual is not None:
        worst, bound = float(attribution.residual.max()), TOLERANCE
    else:
        assert attribution.gap is not None
        size = attribution.columns.score(logits).abs().clamp_min(1).to(attribution.gap.device)
        worst, bound = float((attribution.gap / size).max()), LARGEST_GAP
    return SelfTestCheck("error of the sum of the contributions", key, worst, bound, at_least=False)


def _fraction_of_others(
    network: MultiStream, pooled: Mapping[str, Mapping[str, Tensor]], scenes: PlantedScenes, key: str
) -> float:
    """Returns the largest mean |Shapley value| of another stream, for class against class, relative to `key`'s."""
    values = shapley_values(network, pooled, stages=False)
    rows, labels = torch.arange(len(scenes.labels)), scenes.labels
    streams = values.streams.cpu()
    means = (streams[rows, labels] - streams[rows, 1 - labels]).mean(0)
    place = values.keys.index(key)
    return float(max(abs(mean) for i, mean in enumerate(means.tolist()) if i != place) / abs(float(means[place])))


@contextmanager
def randomised(network: MultiStream, *, seed: int, batch: Mapping[str, Tensor]) -> Iterator[None]:
    """Shuffles the entries of every weight tensor inside the `with` block, and restores the network afterwards.

    Shuffled weights keep their scale, so that activations do not vanish. The statistics of batch norm are measured
    again on `batch`. Weights, buffers and modes are restored after an exception too.
    """
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    before = {name: tensor.detach().clone() for name, tensor in state.items()}
    try:
        with torch.no_grad():
            _shuffle(network, torch.Generator().manual_seed(seed))
            _measure_statistics(network, batch)
        yield
    finally:
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(before[name])


def _shuffle(network: nn.Module, generator: torch.Generator) -> None:
    for parameter in network.parameters():
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))


def _measure_statistics(network: MultiStream, batch: Mapping[str, Tensor]) -> None:
    norms = {m: m.momentum for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats}
    if not norms:
        return
    with evaluating(network):
        try:
            for norm in norms:
                norm.training, norm.momentum = True, 1.0
            network.pool(batch)
        finally:
            for norm, momentum in norms.items():
                norm.momentum = momentum


def similarity_to_random(
    network: MultiStream, explain: Explain, *, batch: Mapping[str, Tensor], seeds: Sequence[int]
) -> Tensor:
    """Returns the rank correlation (seeds, B) of maps before and after shuffling all weights; it should be near 0."""
    whole = explain().flatten(1)
    correlations = []
    for seed in seeds:
        with randomised(network, seed=seed, batch=batch):
            correlations.append(spearman(whole, explain().flatten(1)))
    return torch.stack(correlations)


def spearman(first_BN: Tensor, second_BN: Tensor) -> Tensor:
    """Returns the rank correlation (B,) float64 of two maps' values, row by row; NaN if a map is constant.

    >>> spearman(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[9.0, 10.0, 99.0]])).tolist()
    [1.0]
    """
    from scipy.stats import rankdata  # importing it takes half a second

    one, other = (
        torch.from_numpy(rankdata(x.flatten(1).cpu().double().numpy(), axis=1)) for x in (first_BN, second_BN)
    )
    one, other = one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True)
    return (one * other).sum(1) / (one.square().sum(1) * other.square().sum(1)).sqrt()
