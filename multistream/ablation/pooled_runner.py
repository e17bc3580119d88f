"""Ablation on pooled features: the frozen streams run once over the photos, and all rows train on their features."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.ablation.initial_networks import InitialNetworks, tapped_everywhere
from multistream.ablation.results import RidgeCertificate, VerifiedRow
from multistream.ablation.row_data import Grid, RowData
from multistream.ablation.row_loop import epochs_of, train_rows, verify_row
from multistream.ablation.scores import Tally
from multistream.ablation.statistics import new_tally
from multistream.ablation.variants import Variant
from multistream.bootstrap import Floats
from multistream.console import Console
from multistream.data.splits import Parts
from multistream.data.views import views_of
from multistream.errors import DataError, UsageError
from multistream.features import Extracted, extract
from multistream.network.compose import fusion_factory
from multistream.network.network import MakeFusion, MultiStream
from multistream.network.plan import Options
from multistream.runs.leaks import check_leaks
from multistream.training.convex import ConvexFit, fit_network, is_convex
from multistream.training.convex_training import convex_data
from multistream.training.feeds import as_targets
from multistream.training.prepare import Prepared, fit_vectors
from multistream.training.ridge import RidgeProbes


@dataclass(frozen=True)
class PooledAblation:
    """The results of all seeds and splits; `networks` are those of the first seed and split, one per variant."""

    tally: Tally
    masked: Tally
    ridge: Tally | None
    certificate: RidgeCertificate | None
    verified: VerifiedRow | None
    networks: Sequence[MultiStream]
    base: MultiStream
    batched: int
    seconds: float
    """Seconds of training, without feature extraction."""


class PooledRunner:
    """Trains all seeds and variants, split by split, on features that are extracted once."""

    def __init__(
        self,
        prepared: Prepared,
        variants: Sequence[Variant],
        *,
        seeds: Sequence[int],
        console: Console,
    ) -> None:
        self.prepared, self.variants, self.seeds = prepared, variants, seeds
        self.console = console
        self.base = tapped_everywhere(prepared.network).to(prepared.runtime.device)
        self.labels = torch.from_numpy(np.ascontiguousarray(prepared.table.labels)).to(prepared.runtime.device)
        self.targets = as_targets(prepared.targets, device=prepared.runtime.device)
        settings = prepared.recipe.training
        self.views = views_of(flips=settings.flips, crops=settings.crops)
        self.seconds, self.batched = 0.0, 0

    def run(self, splits: Sequence[Parts], *, ridge: bool, check: bool) -> PooledAblation:
        """Trains and tests all rows; `ridge` adds a probe for each subset of taps, `check` verifies one row."""
        tally, masked, probes = (new_tally(self.prepared.table, len(self.variants)) for _ in range(3))
        probed = probes if ridge else None
        certificates: list[tuple[int, float]] = []
        verified = None
        networks: Sequence[MultiStream] = ()
        extracted = self._extract(splits)
        for number, parts in enumerate(splits):
            data = self._data(parts, extracted, first=number == 0)
            grid, initial = self._train(data)
            tests = data.rows(parts.test)
            for trained in grid:
                tally.add(tests, self._predicted(data, tests, trained))
                masked.add(tests, self._masked(data, tests, trained[-1]))
            if probed is not None:
                certificates += self._probe(data, tests, probed)
            if number == 0:
                networks = grid[0]
                verified = self._verify(data, initial, grid) if check else None
        certificate = None
        if ridge:
            checked, differences = zip(*certificates, strict=True)
            certificate = RidgeCertificate(sum(checked), max(differences))
        return PooledAblation(
            tally, masked, probed, certificate, verified, networks, self.base, self.batched, round(self.seconds, 3)
        )

    def _extract(self, splits: Sequence[Parts]) -> Extracted:
        """Extracts the features of all photos that any split uses, in one pass."""
        chosen = np.unique(np.concatenate([rows for parts in splits for rows in parts.named().values()]))
        photos = self.prepared.photos
        with self.console.progress(len(chosen), "features") as bar:
            extracted = extract(
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
            self.console.warn(f"{len(photos.bad):,} photos cannot be decoded and are skipped")
        return extracted

    def _data(self, parts: Parts, extracted: Extracted, *, first: bool) -> RowData:
        """Returns the features with one split, after fitting the base network to its training part."""
        check_leaks(self.prepared.recipe, self.prepared.table, parts)
        features = dict(extracted.views_to(self.prepared.runtime.device))
        if not first:
            fill = self.prepared.recipe.data.missing_vectors == "mean"
            filled = fit_vectors(self.base, self.prepared.side_inputs, parts, fill=fill)
            for key, rows in filled.vectors.items():
                vectors = torch.from_numpy(np.ascontiguousarray(rows)).to(self.prepared.runtime.device)
                pooled = self.base.branches[key].pool(vectors)
                features[key] = {s: f.repeat(len(self.views), 1) for s, f in pooled.items()}
        settings = self.prepared.recipe.training
        if settings.ema:
            raise UsageError(
                "training.ema", "rows are trained without an average of the weights.", do="Pass --set training.ema=0."
            )
        criterion = self.prepared.criterion(parts.train)
        views = len(self.views)
        labels, targets = self.labels.repeat(views), torch.cat([self.targets] * views)
        data = RowData(features, labels, targets, extracted.valid.repeat(views), parts, criterion)
        train = torch.from_numpy(data.rows(parts.train))
        if not len(train) or not len(data.rows(parts.test)):
            raise DataError(
                "data", "no photo of the training or test split can be decoded.", do="Run multistream data scan."
            )
        self.base.fit(data.take(train.to(self.labels.device)))
        return data

    def _train(self, data: RowData) -> tuple[Grid, InitialNetworks]:
        """Trains all rows of all seeds: convex rows by lbfgs if the recipe uses it, the others step by step."""
        initial = InitialNetworks(self.base, self.prepared.recipe, fusions=self._fusions())
        grid = [[initial.network(variant, seed=seed) for variant in self.variants] for seed in self.seeds]
        started = time.perf_counter()
        if self.prepared.recipe.training.solver == "lbfgs":
            self._fit_or_train(grid, data)
        else:
            self._train_rows(grid, data)
        self.seconds += time.perf_counter() - started
        return grid, initial

    def _fit_or_train(self, grid: Grid, data: RowData) -> None:
        fitted = [network for network in grid[0] if is_convex(network)]
        others = [v for v, network in enumerate(grid[0]) if network not in fitted]
        if fitted:
            self._solve(data, fitted)
        if fitted and others:
            names = ", ".join(dict.fromkeys(self.variants[v].fusion for v in others))
            self.console.say(f"ablate: {len(others)} rows are not convex ({names}) and are trained step by step")
        if others:
            self._train_rows([[networks[v] for v in others] for networks in grid], data)

    def _fusions(self) -> dict[str, tuple[MakeFusion, Options]]:
        """Returns factory and options of each fusion of the rows; only the recipe's fusion has options."""
        recipe_fusion, options = self.prepared.network.fusion_plan
        classes = len(self.prepared.table.classes)
        wanted = {variant.fusion: options if variant.fusion == recipe_fusion else {} for variant in self.variants}
        return {
            name: (fusion_factory(name, fusion_options, classes=classes), fusion_options)
            for name, fusion_options in wanted.items()
        }

    def _train_rows(self, grid: Grid, data: RowData) -> None:
        settings, runtime = self.prepared.recipe.training, self.prepared.runtime
        with self.console.progress(epochs_of(grid, settings), "ablate") as bar:
            done = train_rows(grid, data, seeds=self.seeds, settings=settings, runtime=runtime, tick=bar.advance)
        self.batched += done.batched

    def _solve(self, data: RowData, networks: Sequence[MultiStream]) -> None:
        """Fits networks to their optimum, the largest first; each starts at the smallest fit that has all its taps."""
        images = len(self.labels)
        targets, valid, views = self.targets.cpu(), data.valid[:images], len(self.views)
        classes = len(self.prepared.table.classes)
        rows = convex_data(data.features, targets, valid, data.parts, data.criterion, views=views, classes=classes)
        penalties, fits = self.prepared.recipe.training.penalties, list[ConvexFit]()
        with self.console.progress(len(networks), "ablate") as bar:
            for network in reversed(networks):
                fits.append(fit_network(network, rows, penalties=penalties, starts=fits))
                network.eval().mark_trained()
                bar.advance(1)

    def _predicted(self, data: RowData, rows: NDArray[np.int64], networks: Sequence[MultiStream]) -> Floats:
        """Returns the probabilities of these photos, (V, n, K)."""
        return np.stack([_probabilities(data, rows, network) for network in networks])

    def _masked(self, data: RowData, rows: NDArray[np.int64], whole: MultiStream) -> Floats:
        """Tests the complete network with missing taps at the training mean and without missing streams, (V, n, K)."""
        probabilities = []
        for variant in self.variants:
            present = frozenset(variant.keep) if set(variant.keep) != set(whole.branches) else None
            taps = {key: whole.branches[key].taps for key in variant.keep}
            missing = {key: [stage for stage in taps[key] if stage not in kept] for key, kept in variant.keep.items()}
            probabilities.append(
                _probabilities(data, rows, whole.mask({k: s for k, s in missing.items() if s}), present)
            )
        return np.stack(probabilities)

    def _probe(self, data: RowData, rows: NDArray[np.int64], tally: Tally) -> list[tuple[int, float]]:
        """Fits ridge probes to the tap subsets of each stream and returns their certificates.

        The predictions of a variant without a probe are zeros.
        """
        predicted = np.zeros((len(self.variants), len(rows), len(self.prepared.table.classes)))
        keys = [probed_key(self.variants, v) for v in range(len(self.variants))]
        certificates = []
        for key in dict.fromkeys(filter(None, keys)):
            numbers = [v for v, probed in enumerate(keys) if probed == key]
            predicted[numbers], certificate = self._probe_stream(data, rows, key, numbers)
            certificates.append(certificate)
        tally.add(rows, predicted)
        return certificates

    def _probe_stream(
        self, data: RowData, rows: NDArray[np.int64], key: str, numbers: Sequence[int]
    ) -> tuple[Floats, tuple[int, float]]:
        """Returns the scores of the variants' probes (n_variants, n, K), and (number certified, largest difference)."""
        branch = self.base.branches[key]
        features = {stage: tap.standardise(data.features[key][stage]) for stage, tap in branch.taps.items()}
        train = torch.from_numpy(data.rows(data.parts.train)).to(self.labels.device)
        test = torch.from_numpy(rows).to(self.labels.device)
        targets = self.targets[train] if self.base.label_sets else self.labels[train]
        probes = RidgeProbes.of(_at(features, train), targets, classes=len(self.prepared.table.classes))
        subsets = [self.variants[v].keep[key] for v in numbers]
        weights = probes.solve_all(subsets)
        tested = _at(features, test)
        scores = [
            probes.scores(tested, subset, weight).cpu().numpy() for subset, weight in zip(subsets, weights, strict=True)
        ]
        return np.stack(scores), probes.certify(subsets, weights)

    def _verify(self, data: RowData, initial: InitialNetworks, grid: Grid) -> VerifiedRow:
        """Compares the row of the middle variant and the last seed with the same row trained alone."""
        v, seed = len(self.variants) // 2, self.seeds[-1]
        return verify_row(
            grid[-1][v],
            [initial.network(self.variants[v], seed=seed) for _ in range(2)],
            data,
            label=self.variants[v].label(self.variants[-1]),
            settings=replace(self.prepared.recipe.training, seed=seed),
            runtime=self.prepared.runtime,
        )


def probed_key(variants: Sequence[Variant], v: int) -> str:
    """Returns the stream whose taps a variant's ridge probe reads; "" for none.

    The complete network has a probe only if a single stream is cut.
    """
    keys = {variant.about for variant in variants if variant.about}
    key = variants[v].about or (keys.pop() if len(keys) == 1 else "")
    return key if key in variants[v].keep else ""


def _at(features: Mapping[str, Tensor], places: Tensor) -> dict[str, Tensor]:
    return {stage: values[places] for stage, values in features.items()}


@torch.no_grad()
def _probabilities(
    data: RowData, rows: NDArray[np.int64], network: MultiStream, present: frozenset[str] | None = None
) -> Floats:
    """Returns the network's probabilities of these photos, (n, K)."""
    fused = (network.fuse(data.take(places), present).logits for places in data.plain(rows))
    return np.concatenate([network.probabilities(logits).cpu().numpy() for logits in fused])
