"""One training run: extracts features, fits, trains, computes metrics, writes the run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from multistream import runs
from multistream.commands import command_line
from multistream.console import Console
from multistream.data.loading import Photos
from multistream.data.views import views_of
from multistream.features import Extracted
from multistream.files import make_folder, write_atomic
from multistream.inputs import Image
from multistream.interfaces import Loss
from multistream.nn.modules import trains
from multistream.recipe import TrainingSettings
from multistream.runs.checkpoint import Checkpoint
from multistream.runs.split_file import read_split
from multistream.runtime.cuda_graphs import GraphedStreams
from multistream.runtime.device import Runtime, compiling_pays, parameter_count
from multistream.runtime.distributed import ALONE, Ranks
from multistream.runtime.memory import exhausted
from multistream.training.batch_size import settings_that_fit, smaller_batches
from multistream.training.calibration import OutOfFold, settled_temperature
from multistream.training.convex_training import solve
from multistream.training.extraction import TrainingFeatures, fit_taps, set_baselines
from multistream.training.feeds import Feed, PhotoFeed, PooledFeed, as_targets
from multistream.training.loop import Trainer
from multistream.training.prepare import Prepared
from multistream.training.probing import probe_of
from multistream.training.progress import Listener, Progress
from multistream.training.run_folder import Run, classify, measure, origin, read_checkpoint, write_head, write_run
from multistream.training.sharding import sharded
from multistream.training.step import Objective
from multistream.training.stop import Interrupted, Stop


class TrainingRun:
    """A prepared training run in its folder; `run` executes it, or the part that is not finished."""

    def __init__(
        self, prepared: Prepared, folder: Path, console: Console, stop: Stop, digests: Mapping[int, str]
    ) -> None:
        self.prepared, self.folder, self.console, self.stop, self.digests = prepared, folder, console, stop, digests
        self.ranks = ranks = prepared.ranks
        self.settings = prepared.recipe.training
        self.targets = as_targets(prepared.targets, device=prepared.runtime.device)
        self.extract = TrainingFeatures(prepared, folder, console=console, stop=stop, ranks=ranks, digests=digests)
        self.extracted: Extracted | None = None
        self.out_of_fold: OutOfFold | None = None
        self.photos: Photos | None = None
        """The photos that the training loop reads; undecodable ones are reported after the first epoch."""

    def run(self, *, resume: bool, started: float) -> Run:
        """Trains, or continues training, and writes the run."""
        self.ranks.from_first(None)  # no rank reads the folder before rank 0 has locked and written it
        self.extracted = self._frozen_features()
        if self.extracted is not None:
            fit_taps(self.prepared, self.extracted)
        if trains(self.prepared.network):
            progress = self._train(resume=resume)
        else:
            self.console.say("train: all components are frozen; the network is evaluated without training")
            progress = Progress(finished=True)
        return self._finish(progress, started=started)

    def _frozen_features(self) -> Extracted | None:
        """Extracts features of frozen streams for this training's photos; None if no frozen stream reads pictures."""
        network, parts = self.prepared.network, self.prepared.parts
        if not trains(network):
            return self.extract(parts.named().values())
        frozen = {key for key, branch in network.branches.items() if branch.stream.is_frozen}
        if network.is_cacheable or frozen & network.picture_branches.keys():
            views = views_of(flips=self.settings.flips, crops=self.settings.crops)
            seen = parts.named().values() if network.is_cacheable else (parts.train, parts.val)
            return self.extract(seen, views=views[1:], keys=frozen)
        return None

    def _train(self, *, resume: bool) -> Progress:
        """Trains on every rank, or on rank 0 alone if only pooled features are needed."""
        network = self.prepared.network
        if self.ranks.size == 1 or not network.is_cacheable:
            return self._fit(resume=resume, ranks=self.ranks)
        self.console.say("train: all streams are frozen, so rank 0 trains alone on the features of all ranks")
        progress = self._fit(resume=resume, ranks=ALONE) if self.ranks.is_first else Progress()
        self.ranks.wait_for_first()
        self.ranks.copy_from_first(network.state_dict())
        return Progress.from_state(self.ranks.from_first(progress.to_state()))

    def _fit(self, *, resume: bool, ranks: Ranks) -> Progress:
        criterion = self.prepared.criterion(self.prepared.parts.train)
        if self.settings.solver == "lbfgs":
            return self._solve(criterion)
        saved = read_checkpoint(self.folder, self.prepared, console=self.console) if resume else None
        if saved is None:
            self._begin(criterion, ranks)
        elif ranks.is_first:
            runs.write_lines(self.folder / runs.METRICS, saved.state["history"])
        return self._descend(criterion, ranks, saved)

    def _solve(self, criterion: Loss) -> Progress:
        assert self.extracted is not None  # lbfgs is only for frozen streams
        line, self.out_of_fold = solve(self.prepared, self.extracted, criterion, say=self.console.say)
        runs.write_lines(self.folder / runs.METRICS, [line])
        return Progress(epoch=1, best_epoch=0, finished=True)

    def _begin(self, criterion: Loss, ranks: Ranks) -> None:
        """Prepares the first step: linear probe and batch size. Both are stored in the checkpoint later."""
        if self.settings.probe_epochs > 0:
            self._probe()
        if self.prepared.recipe.runtime.fit_batch:
            self._fit_batch(criterion, ranks)

    def _descend(self, criterion: Loss, ranks: Ranks, saved: Checkpoint | None) -> Progress:
        """Runs the training loop, with its progress on the console."""
        prepared, pooled = self.prepared, self.prepared.network.is_cacheable
        steps = -(-len(prepared.parts.train) // self.settings.batch_size)
        runtime, shard = prepared.runtime, prepared.recipe.runtime.shard
        if prepared.recipe.runtime.compile == "auto" and not pooled and not shard:
            runtime = replace(runtime, compile=compiling_pays(runtime, steps=steps * self.settings.epochs))
        plain = self._objective(criterion, runtime=runtime, pooled=pooled, ranks=ranks)
        what = f"{self.settings.batch_size:,} images do not fit at once into the memory of {prepared.runtime}."
        done = int(saved.state["epoch"]) * steps + int(saved.state["position"]) if saved else 0
        with (
            sharded(plain, runtime=runtime, ranks=ranks) if shard else nullcontext(plain) as objective,
            self.console.progress(steps * self.settings.epochs, "train", done=done) as bar,
            exhausted("training", what, do=smaller_batches(self.settings)),
        ):
            trainer = Trainer(
                self._feed(self.settings, pooled=pooled, ranks=ranks),
                prepared.parts,
                objective=objective,
                settings=self.settings,
                runtime=runtime,
                folder=self.folder / runs.CHECKPOINTS,
                about=origin(self.prepared),
                names=lambda index: prepared.table.ids[index],
                listener=Listener(epoch=self._end_epoch, batch=lambda: bar.advance(1)),
                stop=self.stop,
                ranks=ranks,
            )
            return trainer.run(resume=saved)

    def _probe(self) -> None:
        """Runs the linear probe as a nested run in the run's folder, and starts from its weights."""
        recipe, network = probe_of(self.prepared.recipe, self.prepared.network)
        probe, folder = replace(self.prepared, recipe=recipe, network=network), self.folder / runs.PROBE
        self.console.say(f"probe: streams are frozen for the first {self.settings.probe_epochs} epochs, at most")
        resume = self.ranks.from_first((folder / runs.RECIPE).is_file())
        if self.ranks.is_first:
            write_head(make_folder(folder), probe, read_split(self.folder / runs.SPLIT))
        training = TrainingRun(probe, folder, self.console, self.stop, self.digests)
        try:
            training.run(resume=resume, started=time.monotonic())
        except Interrupted as error:
            raise Interrupted(error.signal, command_line("train", "--resume", self.folder)) from error
        self.prepared.network.load_state_dict(network.state_dict())

    def _objective(self, criterion: Loss, *, runtime: Runtime, pooled: bool, ranks: Ranks) -> Objective:
        """Builds network and loss; on one GPU, trainable streams are replayed from CUDA graphs."""
        network, graphs = self.prepared.network, None
        # DDP would wrap modules that graphs replace. A graph overwrites its gradients and cannot accumulate them.
        alone = ranks.size == 1 and self.settings.accumulation == 1
        if runtime.cuda_graphs and not pooled and alone:
            size = self.settings.batch_size
            graphs = GraphedStreams(network, runtime, batch_size=size, say=self.console.say)
        return Objective(
            network,
            criterion=criterion,
            runtime=runtime,
            pooled=pooled,
            graphs=graphs,
            stream_dropout=self.settings.stream_dropout,
        )

    def _finish(self, progress: Progress, *, started: float) -> Run:
        """Computes the metrics of the trained network on all parts, and writes the run."""
        prepared, network, parts = self.prepared, self.prepared.network, self.prepared.parts
        extracted = self.extracted
        if extracted is None or not network.is_cacheable or not bool(extracted.valid[parts.test].all()):
            extracted = self.extract(parts.named().values())
        set_baselines(prepared, extracted)
        network.mark_trained(torch.from_numpy(prepared.class_shares(parts.train).mean(0)))
        logits = classify(prepared, extracted)
        if self.settings.calibration == "temperature":
            val = parts.val[extracted.valid.numpy()[parts.val]]
            validation = OutOfFold(logits.numpy()[val], val)
            network.calibrate(settled_temperature(validation, self.out_of_fold, prepared.targets, say=self.console.say))
        measured = measure(prepared, logits, extracted.valid)
        seconds = time.monotonic() - started
        run = Run(
            folder=self.folder,
            recipe=prepared.recipe,
            parts=measured.metrics,
            seconds=round(seconds, 2),
            images_per_second=round(len(parts.train) * max(1, progress.epoch) / seconds, 1),
            data={"name": prepared.table.name, "n": len(prepared.table), "classes": list(prepared.table.classes)},
            parameters=parameter_count(network),
            epochs=progress.epoch,
            best_epoch=progress.best_epoch,
            temperature=network.temperature,
            side_inputs=tuple(key for key, each in network.inputs.items() if not isinstance(each, Image)),
        )
        if self.ranks.is_first:
            write_run(prepared, measured, run, digests=self.digests)
        self.ranks.wait_for_first()
        return run

    def _feed(self, settings: TrainingSettings, *, pooled: bool, ranks: Ranks = ALONE) -> Feed:
        runtime, extracted = self.prepared.runtime, self.extracted
        features = extracted.views_to(runtime.device) if extracted else {}
        if pooled and extracted is not None:
            views = 1 + len(extracted.turned)
            targets = torch.cat([self.targets] * views)
            return PooledFeed(features, targets, extracted.valid.repeat(views), settings)
        branches = self.prepared.network.branches
        held = {
            k: stages for k, stages in features.items() if branches[k].is_cacheable and not branches[k].reads_vector
        }
        self.photos = self.prepared.photos
        workers = self.prepared.workers
        return PhotoFeed(self.photos, self.targets, settings, runtime, workers=workers, held=held, ranks=ranks)

    def _fit_batch(self, criterion: Loss, ranks: Ranks) -> None:
        """Resolves `runtime.fit_batch`: writes the batch size that fits to the recipe, for reproduction and resume."""
        network, runtime = self.prepared.network, self.prepared.runtime
        objective = Objective(network, criterion=criterion, runtime=runtime, pooled=network.is_cacheable)
        fitted = settings_that_fit(
            self.settings,
            objective=objective,
            make_feed=lambda settings: self._feed(settings, pooled=objective.pooled),
            train=self.prepared.parts.train,
            device=runtime.device,
        )
        size, whole = int(ranks.table(fitted.batch_size).min()), fitted.batch_size * fitted.accumulation
        self.settings = fitted = replace(fitted, batch_size=size, accumulation=whole // size)
        sizes = {"batch_size": fitted.batch_size, "accumulation": fitted.accumulation}
        recipe = self.prepared.recipe.updated({"training": sizes, "runtime": {"fit_batch": False}})
        self.prepared = replace(self.prepared, recipe=recipe)
        if ranks.is_first:
            write_atomic(self.folder / runs.RECIPE, recipe.dumps())
        self.console.say(f"batch: {fitted.batch_size:,} images fit at once; {fitted.accumulation:,} batches per step")

    def _end_epoch(self, line: Mapping[str, float]) -> None:
        """Writes the epoch's line; after the first epoch reports the photos that cannot be decoded."""
        if self.ranks.is_first:
            runs.append_line(self.folder / runs.METRICS, line)
        if self.photos is not None and line["epoch"] == 0:
            bad = {index: why for each in self.ranks.gather(list(self.photos.bad.items())) for index, why in each}
            read = np.sort(np.concatenate([self.prepared.parts.train, self.prepared.parts.val]))
            self.extract.name_left_out(bad, read=read)
