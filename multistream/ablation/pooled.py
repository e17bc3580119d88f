"""Ablation over pooled features: the photos are seen once, and all rows train from what `pool` returned."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.ablation.pool import Pool
from multistream.ablation.results import Certificate, Verified
from multistream.ablation.ridge import Probes
from multistream.ablation.scores import Tally
from multistream.ablation.solo import verify
from multistream.ablation.starts import Starts, tapped_everywhere
from multistream.ablation.together import epochs_of, train_together
from multistream.ablation.variants import Variant
from multistream.console import Console
from multistream.data.splits import Parts
from multistream.data.views import views_of
from multistream.errors import DataError
from multistream.features import Extracted, extract
from multistream.interfaces import Stream
from multistream.network.compose import fusion_factory
from multistream.network.network import MultiStream
from multistream.runs.leaks import check_leaks
from multistream.training.objective import CrossEntropy, class_weights
from multistream.training.prepare import Prepared, fit_vectors

Grid = list[list[MultiStream]]


@dataclass(frozen=True)
class Found:
    """What the trainings of all seeds and splits gave; `networks` are the first training's, one a variant."""

    tally: Tally
    masked: Tally
    ridge: Tally | None
    certificate: Certificate | None
    verified: Verified | None
    networks: Sequence[MultiStream]
    base: MultiStream
    stacked: int
    seconds: float
    """Of training alone."""


class PooledAblation:
    """All seeds and variants of one split after another, on features that are extracted once."""

    def __init__(
        self,
        prepared: Prepared,
        variants: Sequence[Variant],
        *,
        seeds: Sequence[int],
        streams: Mapping[str, Stream] | None,
        console: Console,
    ) -> None:
        self.prepared, self.variants, self.seeds = prepared, variants, seeds
        self.streams, self.console = streams, console
        self.base = tapped_everywhere(prepared.network).to(prepared.runtime.device)
        self.labels = torch.from_numpy(np.ascontiguousarray(prepared.table.labels)).to(prepared.runtime.device)
        settings = prepared.recipe.training
        self.views = views_of(flips=settings.flips, crops=settings.crops)
        self.seconds, self.stacked = 0.0, 0

    def run(self, splits: Sequence[Parts], *, ridge: bool, check: bool) -> Found:
        """Trains and tests everything; `ridge` gives subsets of taps a probe, `check` trains one row alone."""
        photos = len(self.prepared.table)
        tally, masked = Tally(len(self.variants), photos), Tally(len(self.variants), photos)
        probed = Tally(len(self.variants), photos) if ridge else None
        certificates: list[tuple[int, float]] = []
        verified = None
        networks: Sequence[MultiStream] = ()
        extracted = self._extract(splits)
        for number, parts in enumerate(splits):
            pool = self._pool(parts, extracted, first=number == 0)
            grid, starts = self._train(pool)
            tests = pool.rows(parts.test)
            for trained in grid:
                tally.add(tests, self._correct(pool, tests, trained))
                masked.add(tests, self._masked(pool, tests, trained[-1]))
            if probed is not None:
                certificates += self._probe(pool, tests, probed)
            if number == 0:
                networks = grid[0]
                verified = self._verify(pool, starts, grid) if check else None
        certificate = Certificate(sum(n for n, _ in certificates), max(d for _, d in certificates)) if ridge else None
        return Found(
            tally, masked, probed, certificate, verified, networks, self.base, self.stacked, round(self.seconds, 3)
        )

    def _extract(self, splits: Sequence[Parts]) -> Extracted:
        """One pass over all photos that any split uses."""
        chosen = np.unique(np.concatenate([rows for parts in splits for rows in parts.named().values()]))
        photos = self.prepared.photos
        with self.console.progress(len(chosen), "features") as bar:
            found = extract(
                self.base,
                photos,
                chosen,
                runtime=self.prepared.runtime,
                workers=self.prepared.workers,
                tick=bar.advance,
                say=self.console.say,
                turned=dict.fromkeys(self.views[1:], np.unique(np.concatenate([parts.train for parts in splits]))),
            )
        if photos.bad:
            self.console.warn(f"{len(photos.bad):,} photos cannot be decoded and are left out")
        return found

    def _pool(self, parts: Parts, extracted: Extracted, *, first: bool) -> Pool:
        """The features under one split, the base fitted to its training part."""
        check_leaks(self.prepared.recipe, self.prepared.table, parts)
        features = dict(extracted.views_to(self.prepared.runtime.device))
        if not first:
            fit_vectors(self.base, self.prepared.side_inputs, parts)
            for key, rows in self.prepared.side_inputs.vectors.items():
                vectors = torch.from_numpy(np.ascontiguousarray(rows)).to(self.prepared.runtime.device)
                pooled = self.base.branches[key].pool(vectors)
                features[key] = {s: f.repeat(len(self.views), 1) for s, f in pooled.items()}
        settings = self.prepared.recipe.training
        weights = None
        if settings.class_weights == "balanced":
            weights = class_weights(self.labels[parts.train].cpu(), len(self.prepared.table.classes))
        criterion = CrossEntropy(weights=weights, label_smoothing=settings.label_smoothing).to(self.labels.device)
        views = len(self.views)
        pool = Pool(features, self.labels.repeat(views), extracted.valid.repeat(views), parts, criterion)
        train = torch.from_numpy(pool.rows(parts.train))
        if not len(train) or not len(pool.rows(parts.test)):
            raise DataError("data", "no photo of the training or test part can be decoded.", do="Scan the data.")
        self.base.fit(pool.take(train.to(self.labels.device)))
        return pool

    def _train(self, pool: Pool) -> tuple[Grid, Starts]:
        classes = len(self.prepared.table.classes)
        own, options = self.prepared.network.fusion_plan
        fusions = {
            name: (
                fusion_factory(name, options if name == own else {}, classes=classes),
                options if name == own else {},
            )
            for name in dict.fromkeys(variant.fusion for variant in self.variants)
        }
        starts = Starts(self.base, self.prepared.recipe, streams=self.streams, fusions=fusions)
        grid = [[starts.network(variant, seed=seed) for variant in self.variants] for seed in self.seeds]
        settings = self.prepared.recipe.training
        started = time.perf_counter()
        with self.console.progress(epochs_of(grid, settings), "ablate") as bar:
            done = train_together(
                grid, pool, seeds=self.seeds, settings=settings, runtime=self.prepared.runtime, tick=bar.advance
            )
        self.seconds += time.perf_counter() - started
        self.stacked += done.stacked
        return grid, starts

    def _correct(self, pool: Pool, rows: NDArray[np.int64], networks: Sequence[MultiStream]) -> NDArray[np.bool_]:
        """Who is right on these photos, (V, n)."""
        return np.stack([_right(pool, rows, network) for network in networks])

    def _masked(self, pool: Pool, rows: NDArray[np.int64], whole: MultiStream) -> NDArray[np.bool_]:
        """The whole network with each variant's missing taps at the training mean, or its missing streams left out."""
        found = []
        for variant in self.variants:
            present = frozenset(variant.keep) if set(variant.keep) != set(whole.branches) else None
            missing = {
                key: [stage for stage in branch.taps if stage not in variant.keep[key]]
                for key, branch in whole.branches.items()
                if key in variant.keep
            }
            found.append(_right(pool, rows, whole.mask({k: s for k, s in missing.items() if s}), present))
        return np.stack(found)

    def _probe(self, pool: Pool, rows: NDArray[np.int64], tally: Tally) -> list[tuple[int, float]]:
        """Ridge probes of each stream's subsets, and their certificates; a variant without one is never right."""
        correct = np.zeros((len(self.variants), len(rows)), dtype=np.bool_)
        keys = [probed_key(self.variants, v) for v in range(len(self.variants))]
        certificates = []
        for key in dict.fromkeys(filter(None, keys)):
            numbers = [v for v, own in enumerate(keys) if own == key]
            correct[numbers], certificate = self._probe_stream(pool, rows, key, numbers)
            certificates.append(certificate)
        tally.add(rows, correct)
        return certificates

    def _probe_stream(
        self, pool: Pool, rows: NDArray[np.int64], key: str, numbers: Sequence[int]
    ) -> tuple[NDArray[np.bool_], tuple[int, float]]:
        """Whether the probes of these variants are right, (n_variants, n); and (how many are certified, how well)."""
        branch = self.base.branches[key]
        features = {stage: tap.standardise(pool.features[key][stage]) for stage, tap in branch.taps.items()}
        train = torch.from_numpy(pool.rows(pool.parts.train)).to(self.labels.device)
        test = torch.from_numpy(rows).to(self.labels.device)
        probes = Probes.of(_at(features, train), self.labels[train], classes=len(self.prepared.table.classes))
        subsets = [self.variants[v].keep[key] for v in numbers]
        weights = probes.solve_all(subsets)
        tested = _at(features, test)
        right = [
            (probes.predict(tested, subset, own) == self.labels[test]).cpu().numpy()
            for subset, own in zip(subsets, weights, strict=True)
        ]
        return np.stack(right), probes.certify(subsets, weights)

    def _verify(self, pool: Pool, starts: Starts, grid: Grid) -> Verified:
        """Trains the middle row of the last seed alone, and holds it against its twin."""
        v = len(self.variants) // 2
        return verify(
            grid[-1][v],
            self.variants[v],
            whole=self.variants[-1],
            starts=starts,
            pool=pool,
            seed=self.seeds[-1],
            settings=self.prepared.recipe.training,
            runtime=self.prepared.runtime,
        )


def probed_key(variants: Sequence[Variant], v: int) -> str:
    """The stream of whose taps a variant gets a ridge probe; the whole, where one stream alone is cut; "" for none."""
    keys = {variant.about for variant in variants if variant.about}
    key = variants[v].about or (keys.pop() if len(keys) == 1 else "")
    return key if key in variants[v].keep else ""


def _at(features: Mapping[str, Tensor], places: Tensor) -> dict[str, Tensor]:
    return {stage: values[places] for stage, values in features.items()}


@torch.no_grad()
def _right(
    pool: Pool, rows: NDArray[np.int64], network: MultiStream, present: frozenset[str] | None = None
) -> NDArray[np.bool_]:
    """Whether the network is right on each of these photos."""
    chunks = []
    for places in pool.plain(rows):
        logits = network.fuse(pool.take(places), present).logits
        chunks.append((logits.argmax(1) == pool.labels[places]).cpu().numpy())
    return np.concatenate(chunks)
