"""The self-test: a composition is taught from planted evidence, and its explanation must find what was planted.

Stand-ins take the place of the streams; taps, temporals, fusion, heads and the explanation are the composition's own.
Each stream that sees pictures gets the evidence in turn, on its own input alone. Then the maps must point at it, those
of other streams must not, the other streams' Shapley values must be next to nothing, maps must go when the weights
are randomised (Adebayo et al. 2018), and come back when the same composition is taught again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from multistream.errors import UsageError
from multistream.explaining.attribution import attribute
from multistream.explaining.decomposition import is_linear
from multistream.explaining.evidence import Method, evidence
from multistream.explaining.planting import SIDE, Planted, plant
from multistream.explaining.pointing import points_into
from multistream.explaining.randomisation import similarity_to_random
from multistream.explaining.ranks import spearman
from multistream.explaining.standin import stand_in
from multistream.network.network import MultiStream
from multistream.nn.eval_mode import evaluating
from multistream.parts.dropout import reseed_dropout
from multistream.runtime.device import Runtime
from multistream.training.objective import CrossEntropy

Explainer = Callable[[MultiStream, Planted], Mapping[str, Tensor]]
"""Maps {key: (B, SIDE, SIDE)} for each scene's class against the other."""

BATCH, SCENES, SEEDS = 64, 200, tuple(range(5))
STEPS, RATE, DECAY = 200, 3e-3, 0.01
TRAININGS = 3
"""Of the same composition with each stream's evidence: one pair of twins may agree by .1 more or less than another."""


@dataclass(frozen=True)
class Check:
    """One number that was measured with the evidence in `stream`, and the bound that it must keep."""

    name: str
    stream: str
    value: float
    bound: float
    at_least: bool

    @property
    def passed(self) -> bool:
        """Whether the bound is kept; a value that is not defined keeps none."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass(frozen=True)
class SelfTest:
    """All that was measured, and with which maps: the exact sum, or integrated gradients where there is none."""

    method: Method
    checks: tuple[Check, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The object of `explain --self-test --json`."""
        checks = [{**asdict(check), "passed": check.passed} for check in self.checks]
        return {"method": self.method, "passed": self.passed, "checks": checks, "seconds": self.seconds}


def self_test(
    network: MultiStream,
    *,
    runtime: Runtime,
    explainer: Explainer | None = None,
    steps: int = STEPS,
    say: Callable[[str], None] = lambda _: None,
) -> SelfTest:
    """Teaches stand-ins of a composition and checks what explains them; the network itself is only read.

    Some 20 s for each training on a CPU core, three for every stream that sees pictures. Raises UsageError where none
    does.
    """
    started = time.monotonic()
    keys = [key for key, branch in network.branches.items() if not branch.is_vector]
    if not keys:
        raise UsageError("--self-test", "no stream sees pictures.", right="The test plants its evidence in a picture.")
    checks: list[Check] = []
    for key in keys:
        say(f"self-test: evidence in {key}")
        taught = [teach(network, key, seed=seed, steps=steps, runtime=runtime) for seed in range(TRAININGS)]
        checks += _measure(taught, key, explainer or _explainer(runtime), runtime=runtime)
    method: Method = "exact" if is_linear(taught[0]) else "integrated"
    return SelfTest(method, tuple(checks), time.monotonic() - started)


def teach(network: MultiStream, key: str, *, seed: int, steps: int, runtime: Runtime) -> MultiStream:
    """Stand-ins under the network's composition, trained end to end on scenes with evidence in `key` alone."""
    generator = torch.Generator().manual_seed(1000 + seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = runtime.place(stand_in(network))
        optimizer = torch.optim.AdamW(student.parameters(), RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
        criterion = CrossEntropy()
        student.train()
        for step in range(steps):
            scenes = plant(student.inputs, key, count=BATCH, generator=generator)
            reseed_dropout(student, seed=seed, step=step)
            output = student.fuse(student.pool(runtime.send(scenes.batch)))
            loss = student.fusion.loss(output, scenes.labels.to(runtime.device), criterion)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    student.eval().requires_grad_(False)
    with torch.no_grad():
        student.fit(student.pool(runtime.send(plant(student.inputs, key, count=256, generator=generator).batch)))
    return student


def _explainer(runtime: Runtime) -> Explainer:
    def explained(network: MultiStream, scenes: Planted) -> Mapping[str, Tensor]:
        found = evidence(network, scenes.batch, targets=scenes.labels, against=1 - scenes.labels, runtime=runtime)
        return found.densities(SIDE)

    return explained


def _measure(taught: Sequence[MultiStream], key: str, explainer: Explainer, *, runtime: Runtime) -> list[Check]:
    """Every check of the first, the others its twins, with the evidence in `key`, over scenes that none has seen."""
    first = taught[0]
    drawn = plant(first.inputs, key, count=SCENES, generator=torch.Generator().manual_seed(7))
    scenes = Planted(runtime.send(drawn.batch), drawn.labels, drawn.masks)
    with torch.no_grad(), evaluating(first):
        right = first(scenes.batch).argmax(1).cpu() == scenes.labels
        pooled = first.pool(scenes.batch)
    each_maps = [explainer(network, scenes) for network in taught]
    maps = each_maps[0]
    hits = {name: float(points_into(each, scenes.masks).double().mean()) for name, each in maps.items()}
    others = [hit for name, hit in hits.items() if name != key]
    random = similarity_to_random(first, lambda: explainer(first, scenes)[key], batch=scenes.batch, seeds=SEEDS)
    pairs = combinations((each[key].flatten(1) for each in each_maps), 2)
    same = torch.stack([spearman(one, other).mean() for one, other in pairs])
    checks = [
        Check("right answers of what was taught", key, float(right.double().mean()), 0.95, at_least=True),
        Check("pointing game in the stream", key, hits[key], 0.95, at_least=True),
        *([Check("pointing game in the others", key, max(others), 0.15, at_least=False)] if others else []),
        Check("rank correlation, weights randomised", key, abs(float(random.mean())), 0.2, at_least=False),
        Check("rank correlation, taught again", key, float(same.mean()), 0.8, at_least=True),
    ]
    if len(first.branches) > 1:
        share = _share_of_others(first, pooled, scenes, key)
        checks.insert(-2, Check("Shapley values of the others, share", key, share, 0.01, at_least=False))
    return checks


def _share_of_others(
    network: MultiStream, pooled: Mapping[str, Mapping[str, Tensor]], scenes: Planted, key: str
) -> float:
    """The largest other stream's mean Shapley value, for class against class, as a share of the planted stream's."""
    found = attribute(network, pooled, stages=False)
    rows, labels = torch.arange(len(scenes.labels)), scenes.labels
    streams = found.streams.cpu()
    means = (streams[rows, labels] - streams[rows, 1 - labels]).mean(0)
    place = found.keys.index(key)
    return float(max(abs(mean) for i, mean in enumerate(means.tolist()) if i != place) / abs(float(means[place])))
