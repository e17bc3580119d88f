"""Ablation with trained streams: every row is a full training run on the photos."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import count, product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from multistream import runs
from multistream.ablation.plan import AblationPlan
from multistream.ablation.scores import Tally
from multistream.ablation.statistics import new_tally
from multistream.console import Console
from multistream.interfaces import Stream
from multistream.network.network import MultiStream
from multistream.profiling.machine import timed
from multistream.profiling.profile import example_batch
from multistream.runs.model_file import load_model
from multistream.runs.predictions_file import read_predictions
from multistream.training.engines import Engine, check_can_be_sent, run_all
from multistream.training.folds import train_planned
from multistream.training.jobs import PlannedRun

BACKWARD = 3
"""The cost of a training step in forward passes: one forward, two backward (activations and weights)."""


class PhotoRunner:
    """Trains each variant for each seed and split, in separate folders below `folder`."""

    def __init__(
        self,
        plan: AblationPlan,
        *,
        streams: Mapping[str, Stream] | None,
        folder: Path,
        console: Console,
        engine: Engine | None = None,
    ) -> None:
        self.plan, self.folder, self.console, self.engine = plan, folder, console, engine
        self.streams = streams or {}
        if engine:
            check_can_be_sent(streams)

    def tell_cost(self) -> None:
        """Prints the number of training runs and their estimated time, from a few timed forward passes."""
        trainings = len(self.plan.variants) * len(self.plan.seeds) * len(self.plan.split_seeds)
        settings, photos = self.plan.prepared.recipe.training, len(self.plan.prepared.parts.train)
        seconds = self._seconds_a_photo() * BACKWARD * photos * settings.epochs * trainings
        self.console.say(
            f"ablate: streams are trained, so every row is a full training run: {trainings:,} runs of "
            f"up to {settings.epochs} epochs over {photos:,} photos, about {span(seconds)} in total"
        )

    def run(self) -> tuple[Tally, list[MultiStream], float]:
        """Returns all predictions, the networks of the first seed and split (one per variant), and the seconds."""
        plan = self.plan
        tally = new_tally(plan.prepared.table, len(plan.variants))
        started, networks = time.perf_counter(), list[MultiStream]()
        if self.engine:
            run_all(plan.trainings(self.folder), self.engine, place=self.folder, console=self.console)
        for split_seed, seed in product(plan.split_seeds, plan.seeds):
            answers = []
            for number in range(len(plan.variants)):
                training = plan.photo_training(number, seed=seed, split_seed=split_seed, folder=self.folder)
                run = self._train(training, self._given(number))
                answers.append(self._answers(run))
                if len(networks) == number:
                    networks.append(load_model(run, streams=self._given(number)).network)
            rows = sorted(set.intersection(*map(set, answers)))
            tally.add(np.array(rows, dtype=np.int64), np.array([[answer[i] for i in rows] for answer in answers]))
        return tally, networks, round(time.perf_counter() - started, 3)

    def _given(self, number: int) -> dict[str, Stream]:
        """Returns the streams of a variant that were given as instances."""
        return {key: stream for key, stream in self.streams.items() if key in self.plan.variants[number].keep}

    def _train(self, run: PlannedRun, given: Mapping[str, Stream]) -> Path:
        """Trains the run unless it is finished, and returns its folder."""
        self.console.say(f"ablate: {run.name}")
        if given and run.state != "new":  # an instance cannot be compared with the one that was trained
            run = replace(run, folder=_free(run.folder))
        if run.state == "finished":
            self.console.say(f"ablate: {run.folder} was already trained with these settings and is reused")
            return run.folder
        train_planned(run, streams=given, console=self.console)
        return run.folder

    def _answers(self, run: Path) -> dict[int, NDArray[np.float64]]:
        """Returns {row of the table: probabilities (K,)} of a run's test split."""
        places = {name: i for i, name in enumerate(self.plan.prepared.table.ids)}
        predictions = read_predictions(run / runs.PREDICTIONS)
        return {
            places[path]: probabilities
            for path, probabilities in zip(predictions.paths, predictions.probabilities, strict=True)
        }

    def _seconds_a_photo(self) -> float:
        """Times a forward pass of eight photos, per photo, without the frozen streams, which run only once."""
        network, runtime = self.plan.prepared.network, self.plan.prepared.runtime
        batch = runtime.send(example_batch(network, 8))
        with torch.no_grad():
            pooled = network.pool(batch)
        held = {key: pooled[key] for key, branch in network.branches.items() if branch.is_cacheable}

        def forward() -> None:
            with runtime.autocast:
                network.pool({**batch, **held})

        return min(timed(forward, runtime, repeats=2)) / 8


def span(seconds: float) -> str:
    """Formats a rough duration in words.

    >>> span(40), span(600), span(40_000)
    ('40 seconds', '10 minutes', '11.1 hours')
    """
    if seconds < 120:
        return f"{max(1, round(seconds))} seconds"
    return f"{seconds / 60:,.0f} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"


def _free(folder: Path) -> Path:
    return runs.first_free(folder.with_name(f"{folder.name}-{number}") for number in count(2))
