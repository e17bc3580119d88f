"""Ablation where streams train too: every row is an ordinary training on the photos."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import torch

from multistream import runs
from multistream.ablation.statistics import Tally
from multistream.ablation.variants import Axis, Variant
from multistream.console import Console
from multistream.errors import UsageError
from multistream.interfaces import Stream
from multistream.network.network import MultiStream
from multistream.profiling.machine import timed
from multistream.profiling.profile import example_batch
from multistream.recipe import Recipe
from multistream.runs.model_file import load_model
from multistream.runs.predictions_file import read_predictions
from multistream.training.engines import Engine, PlannedRun, State, run_all
from multistream.training.prepare import Prepared
from multistream.training.train import train

BACKWARD = 3
"""A training step costs some three passes: forward, and backward through activations and weights."""


class PhotoRunner:
    """Trains each variant for each seed and split, in folders of their own below `folder`."""

    def __init__(
        self,
        prepared: Prepared,
        variants: Sequence[Variant],
        *,
        axis: Axis,
        seeds: Sequence[int],
        split_seeds: Sequence[int],
        streams: Mapping[str, Stream] | None,
        folder: Path,
        console: Console,
        engine: Engine | None = None,
    ) -> None:
        if axis == "taps":
            what = "--axis taps trains on pooled features, but streams of this recipe are trained."
            raise UsageError(
                "--axis",
                what,
                right="--axis depth and --axis streams also work with trained streams.",
                do="Freeze the streams, or choose another axis.",
            )
        self.prepared, self.variants, self.axis, self.folder = prepared, variants, axis, folder
        self.seeds, self.split_seeds, self.streams, self.console = seeds, split_seeds, streams, console
        if engine and streams:
            what = "streams that are given as instances cannot be sent to other processes."
            raise UsageError("engine", what, do="Leave engine out, or name the streams by specs.")
        self.engine = engine

    def tell_cost(self) -> None:
        """Says how many trainings there will be and how long they may take, from a few steps timed now."""
        trainings = len(self.variants) * len(self.seeds) * len(self.split_seeds)
        settings, photos = self.prepared.recipe.training, len(self.prepared.parts.train)
        seconds = self._seconds_a_photo() * BACKWARD * photos * settings.epochs * trainings
        self.console.say(
            f"ablate: streams are trained, so every row is a full training: {trainings:,} trainings of "
            f"up to {settings.epochs} epochs over {photos:,} photos, about {span(seconds)} in total"
        )

    def run(self) -> tuple[Tally, list[MultiStream], float]:
        """Who was right; the first networks, one a variant; and the seconds of training."""
        tally = Tally(len(self.variants), len(self.prepared.table))
        started, networks = time.perf_counter(), []
        if self.engine:
            run_all(self._planned(), self.engine, place=self.folder, console=self.console)
        for split_seed in self.split_seeds:
            for seed in self.seeds:
                answers = []
                for number, variant in enumerate(self.variants):
                    run = self._train(variant, number, seed=seed, split_seed=split_seed)
                    answers.append(self._answers(run))
                    if (seed, split_seed) == (self.seeds[0], self.split_seeds[0]):
                        given = {k: s for k, s in (self.streams or {}).items() if k in variant.keep}
                        networks.append(load_model(run, streams=given).network)
                rows = np.array(sorted(set.intersection(*(set(answer) for answer in answers))), dtype=np.int64)
                tally.add(rows, np.array([[answer[i] for i in rows.tolist()] for answer in answers]))
        return tally, networks, round(time.perf_counter() - started, 3)

    def _planned(self) -> list[PlannedRun]:
        """Every training, as an engine takes it."""
        return [
            PlannedRun(folder.name, recipe, folder)
            for split_seed in self.split_seeds
            for seed in self.seeds
            for number, variant in enumerate(self.variants)
            for recipe, folder, _ in [self._run_of(variant, number, seed=seed, split_seed=split_seed)]
        ]

    def _run_of(self, variant: Variant, number: int, *, seed: int, split_seed: int) -> tuple[Recipe, Path, State]:
        """Recipe and folder of one training, and how far it has come."""
        recipe = recipe_of(variant, self.prepared, self.axis)
        recipe = recipe.updated({"training": {"seed": seed}, "data": {"split_seed": split_seed}})
        return recipe, *_place(self.folder / f"{number:02}-seed{seed}-split{split_seed}", recipe)

    def _train(self, variant: Variant, number: int, *, seed: int, split_seed: int) -> Path:
        self.console.say(f"ablate: {variant.label(self.variants[-1])}, seed {seed}, split {split_seed}")
        given = {key: stream for key, stream in (self.streams or {}).items() if key in variant.keep}
        recipe, folder, state = self._run_of(variant, number, seed=seed, split_seed=split_seed)
        if given and state != "new":  # an instance cannot be compared with the one that was trained
            folder, state = _free(folder), "new"
        if state == "finished":
            self.console.say(f"ablate: {folder} was already trained with these settings and is reused")
            return folder
        if state == "stopped":
            return train(recipe, resume=folder, console=self.console).folder
        return train(recipe, out=folder, streams=given or None, console=self.console).folder

    def _answers(self, run: Path) -> dict[int, bool]:
        """{index in the table: right or not} of a run's test split."""
        places = {name: i for i, name in enumerate(self.prepared.table.ids)}
        found = read_predictions(run / runs.PREDICTIONS)
        return {places[path]: bool(right) for path, right in zip(found.paths, found.correct, strict=True)}

    def _seconds_a_photo(self) -> float:
        """A forward pass in a batch of eight, of the streams that run in every epoch: frozen ones run once."""
        network, runtime = self.prepared.network, self.prepared.runtime
        batch = runtime.send(example_batch(network, 8))
        with torch.no_grad():
            pooled = network.pool(batch)
        held = {key: pooled[key] for key, branch in network.branches.items() if branch.is_cacheable}

        def forward() -> None:
            with runtime.autocast:
                network.pool({**batch, **held})

        return min(timed(forward, runtime, repeats=2)) / 8


def span(seconds: float) -> str:
    """A time to plan with.

    >>> span(40), span(600), span(40_000)
    ('40 seconds', '10 minutes', '11.1 hours')
    """
    if seconds < 120:
        return f"{max(1, round(seconds))} seconds"
    return f"{seconds / 60:,.0f} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"


def _place(folder: Path, recipe: Recipe) -> tuple[Path, State]:
    """The run of this recipe at `folder` or next to it, and how far it has come; else a free folder."""
    for number in count(1):
        place = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        if not place.exists():
            return place, "new"
        if (place / runs.RECIPE).is_file() and Recipe.load(place) == recipe:
            return place, "finished" if (place / runs.SUMMARY).is_file() else "stopped"
    raise AssertionError


def _free(folder: Path) -> Path:
    """The next free folder next to `folder`."""
    free = (folder.with_name(f"{folder.name}-{number}") for number in count(2))
    return next(place for place in free if not place.exists())


def recipe_of(variant: Variant, prepared: Prepared, axis: Axis) -> Recipe:
    """The recipe that trains a variant alone."""
    recipe = prepared.recipe
    if axis == "depth":
        key = variant.about
        if not key:
            return recipe
        depth = list(prepared.network.branches[key].stream.stages).index(variant.keep[key][-1]) + 1
        return recipe.updated({"network": {"depth": {**recipe.network.depth, key: depth}}})
    streams = {key: spec for key, spec in recipe.network.streams.items() if key in variant.keep}
    used = {name for key in variant.keep for name in (key, prepared.network.inputs[key].name)}
    inputs = {name: path for name, path in recipe.network.inputs.items() if name in used}
    changes = {"network": {"streams": streams, "inputs": inputs, "fusion": variant.fusion}}
    if variant.fusion == recipe.network.fusion:
        return recipe.updated(changes)
    return recipe.updated({**changes, "options": {"fusion": {}}})
