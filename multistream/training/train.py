"""train, from the recipe to the run folder."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream import runs
from multistream._version import __version__
from multistream.console import Console
from multistream.data.filenames import printable
from multistream.data.views import views_of
from multistream.errors import CannotResume, DataError, UsageError
from multistream.features import GROUP, Extracted, extract
from multistream.files import clean, write_atomic
from multistream.folder_lock import FolderLock
from multistream.inference.metrics import Metrics, metrics
from multistream.interfaces import Stream
from multistream.network.compose import plan_of
from multistream.recipe import Recipe, TrainingSettings
from multistream.runs import checkpoint
from multistream.runs.leaks import check_leaks, unknown_origins
from multistream.runs.model_file import MODEL_FILE, distributions_of, save_model
from multistream.runs.predictions_file import as_predictions, write_predictions
from multistream.runs.split_file import SplitRow, check_parts, read_split, split_rows, write_rows
from multistream.runtime.device import parameter_count
from multistream.runtime.memory import exhausted
from multistream.training.batch_size import settings_that_fit, smaller_batches
from multistream.training.feeds import Feed, PhotoFeed, PooledFeed
from multistream.training.loop import Trainer
from multistream.training.objective import CrossEntropy, Objective, class_weights
from multistream.training.prepare import Prepared, prepare
from multistream.training.progress import Listener, Progress
from multistream.training.resume import check_origin, recipe_to_resume
from multistream.training.stop import Interrupted, Stop, stoppable

BAD_SHOWN = 5
"""Photos that cannot be decoded, and are named one by one."""


@dataclass(frozen=True)
class Run:
    """What one training left: its folder, its recipe with nothing open, and its metrics by part."""

    folder: Path
    recipe: Recipe
    parts: Mapping[str, Metrics]
    seconds: float
    images_per_second: float
    data: Mapping[str, Any]
    parameters: Mapping[str, int]
    epochs: int
    best_epoch: int

    def to_dict(self) -> dict[str, Any]:
        """summary.json, and what `train --json` prints."""
        return {
            **{name: part.to_dict() for name, part in self.parts.items()},
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "run": str(self.folder),
            "data": dict(self.data),
            "parameters": dict(self.parameters),
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
        }


def train(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    streams: Mapping[str, Stream] | None = None,
    console: Console | None = None,
) -> Run:
    """Trains a composition and leaves a run folder; with `resume`, goes on with that run where it stood.

    `streams` gives streams as instances, by key, beside those that the recipe names. Raises MultistreamError for all
    that the user can change, and Interrupted after Ctrl-C or SIGTERM, with the run saved.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "train", "several processes were started.", right="Training runs in one.", do="Start it without torchrun."
        )
    console = console or Console(quiet=True)
    started = time.monotonic()
    folder = Path(resume).expanduser() if resume is not None else None
    if folder is not None:
        recipe = recipe_to_resume(folder, recipe)
    prepared = prepare(recipe, say=console.say, streams=streams)
    check_leaks(prepared.recipe, prepared.table, prepared.parts)
    for where, path in unknown_origins(prepared.recipe).items():
        console.warn(f"{where}: {path} has no {runs.SPLIT}, so nobody can say which test images it has seen")
    rows = split_rows(prepared.table, prepared.parts)
    for note in check_parts(rows, strict=prepared.recipe.data.strict):
        console.warn(f"split: {note}")
    folder = folder or runs.new_run(out, prepared.recipe)
    with FolderLock(folder), stoppable() as stop:
        _write_head(folder, prepared, rows)
        work = _Work(prepared, folder, console, stop)
        progress = work.train(resume=resume is not None)
        return work.finish(progress, started=started)


class _Work:
    """One training on its way."""

    def __init__(self, prepared: Prepared, folder: Path, console: Console, stop: Stop) -> None:
        self.prepared, self.folder, self.console, self.stop = prepared, folder, console, stop
        self.settings = prepared.recipe.training
        device = prepared.runtime.device
        self.labels = torch.from_numpy(np.ascontiguousarray(prepared.table.labels)).to(device)
        self.extracted: Extracted | None = None

    def train(self, *, resume: bool) -> Progress:
        """Fits the taps, then trains what is left to train."""
        network = self.prepared.network
        trainable = any(p.requires_grad for p in network.parameters())
        pooled, parts = network.is_cacheable, self.prepared.parts
        frozen = {key for key, branch in network.branches.items() if branch.stream.is_frozen}
        if not trainable:
            self.extracted = self._extract(parts.named().values())
        elif pooled or any(not network.branches[key].is_vector for key in frozen):
            views = views_of(flips=self.settings.flips, crops=self.settings.crops)
            seen = parts.named().values() if pooled else (parts.train, parts.val)
            self.extracted = self._extract(seen, views=views[1:], keys=frozen)
        if self.extracted is not None:
            self._fit(network, self.extracted)
        if not trainable:
            self.console.say("train: nothing is left to train; the network is evaluated as it is")
            return Progress(finished=True)
        criterion = self._criterion().to(self.prepared.runtime.device)
        objective = Objective(network, criterion=criterion, runtime=self.prepared.runtime, pooled=pooled)
        saved = self._checkpoint() if resume else None
        if self.prepared.recipe.runtime.fit_batch and saved is None:
            self._fit_batch(objective)
        feed = self._feed(self.settings, pooled=pooled)
        steps = -(-len(self.prepared.parts.train) // self.settings.batch_size)
        what = f"{self.settings.batch_size:,} images at once do not fit into the memory of {self.prepared.runtime}."
        done = int(saved.state["epoch"]) * steps + int(saved.state["position"]) if saved else 0
        with (
            self.console.progress(steps * self.settings.epochs, "train", done=done) as bar,
            exhausted("training", what, do=smaller_batches(self.settings)),
        ):
            trainer = Trainer(
                network,
                feed,
                self.prepared.parts,
                objective=objective,
                settings=self.settings,
                runtime=self.prepared.runtime,
                folder=self.folder / runs.CHECKPOINTS,
                about=self._about(),
                names=lambda index: self.prepared.table.ids[index],
                listener=Listener(epoch=self._tell_epoch, batch=lambda: bar.advance(1)),
                stop=self.stop,
            )
            return trainer.run(resume=saved)

    def finish(self, progress: Progress, *, started: float) -> Run:
        """Measures the trained network on all parts, and writes the run."""
        network, table, parts = self.prepared.network, self.prepared.table, self.prepared.parts
        if self.extracted is None or not network.is_cacheable or not bool(self.extracted.valid[parts.test].all()):
            self.extracted = self._extract(parts.named().values())
        self._set_baselines(self.extracted)
        counts = np.bincount(table.labels[parts.train], minlength=len(table.classes))
        network.mark_trained(torch.from_numpy(counts / counts.sum()))
        probabilities = self._probabilities(self.extracted)
        measured = {}
        for name, indices in parts.named().items():
            rows = indices[self.extracted.valid.numpy()[indices]]
            if len(rows):
                measured[name] = metrics(probabilities[rows], table.labels[rows], network.classes)
                if name == "test":
                    found = as_predictions(table, rows, probabilities[rows], classes=table.classes)
                    write_predictions(self.folder / runs.PREDICTIONS, found)
        seconds = time.monotonic() - started
        run = Run(
            folder=self.folder,
            recipe=self.prepared.recipe,
            parts=measured,
            seconds=round(seconds, 2),
            images_per_second=round(len(parts.train) * max(1, progress.epoch) / seconds, 1),
            data={"name": table.name, "n": len(table), "classes": list(table.classes)},
            parameters=parameter_count(network),
            epochs=progress.epoch,
            best_epoch=progress.best_epoch,
        )
        save_model(network, self.folder / MODEL_FILE, recipe=self.prepared.recipe)
        runs.write_json(self.folder / runs.SUMMARY, run.to_dict())
        runs.write_checksums(self.folder)
        return run

    def _extract(
        self, parts: Iterable[NDArray[np.int64]], *, views: Sequence[str] = (), keys: Collection[str] | None = None
    ) -> Extracted:
        """One pass of these streams, or of all, over the photos of these parts; of the training part also in views."""
        chosen = np.concatenate(list(parts))
        with self.console.progress(len(chosen), "features") as bar:

            def tick(done: int) -> None:
                bar.advance(done)
                if self.stop():
                    raise Interrupted(self.stop.signal, f"multistream train --resume {self.folder}")

            photos = self.prepared.photos
            what = f"{GROUP} images at once do not fit into the memory of {self.prepared.runtime}."
            elsewhere = ", or --device cpu" if self.prepared.runtime.device.type != "cpu" else ""
            do = f"Give smaller pictures, --set data.image_size=128, say{elsewhere}."
            with exhausted("features", what, do=do):
                found = extract(
                    self.prepared.network,
                    photos,
                    np.sort(chosen),
                    runtime=self.prepared.runtime,
                    workers=self.prepared.workers,
                    tick=tick,
                    say=self.console.say,
                    turned=dict.fromkeys(views, self.prepared.parts.train),
                    keys=keys,
                )
        for index, reason in sorted(photos.bad.items())[:BAD_SHOWN]:
            self.console.warn(f"{self.prepared.table.ids[index]}: {reason}; it is left out")
        if len(photos.bad) > BAD_SHOWN:
            self.console.warn(f"{len(photos.bad):,} photos in all are left out; multistream data scan lists them")
        return found

    def _fit(self, network: Any, extracted: Extracted) -> None:
        train = torch.from_numpy(self.prepared.parts.train)
        rows = train[extracted.valid[train]]
        if not len(rows):
            raise DataError("data", "no photo of the training part can be decoded.", do="Run multistream data scan.")
        features = extracted.to(self.prepared.runtime.device)
        network.fit({key: {s: f[rows] for s, f in stages.items()} for key, stages in features.items()})

    def _set_baselines(self, extracted: Extracted) -> None:
        """The training means of taps whose stream has trained: known only now."""
        train = torch.from_numpy(self.prepared.parts.train)
        rows = train[extracted.valid[train]]
        for key, branch in self.prepared.network.branches.items():
            if not branch.stream.is_frozen and key not in self.prepared.network.loaded_branches:
                for stage, tap in branch.taps.items():
                    tap.baseline.copy_(extracted.features[key][stage][rows].double().mean(0))

    def _feed(self, settings: TrainingSettings, *, pooled: bool) -> Feed:
        runtime, found = self.prepared.runtime, self.extracted
        features = found.views_to(runtime.device) if found else {}
        if pooled and found is not None:
            views = 1 + len(found.turned)
            return PooledFeed(features, self.labels.repeat(views), found.valid.repeat(views), settings)
        branches = self.prepared.network.branches
        held = {k: stages for k, stages in features.items() if branches[k].is_cacheable and not branches[k].is_vector}
        return PhotoFeed(self.prepared.photos, self.labels, settings, runtime, workers=self.prepared.workers, held=held)

    def _fit_batch(self, objective: Objective) -> None:
        """Settles `runtime.fit_batch`: what fits goes into the run's recipe, so that it can be repeated and resumed."""
        self.settings = fitted = settings_that_fit(
            self.settings,
            objective=objective,
            make_feed=lambda settings: self._feed(settings, pooled=objective.pooled),
            train=self.prepared.parts.train,
            device=self.prepared.runtime.device,
        )
        sizes = {"batch_size": fitted.batch_size, "accumulation": fitted.accumulation}
        recipe = self.prepared.recipe.updated({"training": sizes, "runtime": {"fit_batch": False}})
        self.prepared = replace(self.prepared, recipe=recipe)
        write_atomic(self.folder / runs.RECIPE, recipe.dumps())
        self.console.say(f"batch: {fitted.batch_size:,} images fit at once; {fitted.accumulation:,} such make a step")

    def _criterion(self) -> CrossEntropy:
        weights = None
        if self.settings.class_weights == "balanced":
            weights = class_weights(self.labels[self.prepared.parts.train].cpu(), len(self.prepared.table.classes))
        return CrossEntropy(weights=weights, label_smoothing=self.settings.label_smoothing)

    @torch.no_grad()
    def _probabilities(self, extracted: Extracted) -> Any:
        """softmax(logits) of every image, (N, K) float64; the rows of images that were not read are without meaning."""
        network = self.prepared.network.eval()
        features = extracted.to(self.prepared.runtime.device)
        chunks: list[Tensor] = []
        for start in range(0, len(extracted.valid), 4096):
            rows = slice(start, start + 4096)
            pooled = {key: {s: f[rows] for s, f in stages.items()} for key, stages in features.items()}
            chunks.append(network.classify(pooled).double().softmax(1).cpu())
        return torch.cat(chunks).numpy()

    def _tell_epoch(self, line: Mapping[str, float]) -> None:
        runs.append_line(self.folder / runs.METRICS, line)

    def _about(self) -> dict[str, Any]:
        plan = plan_of(self.prepared.network)
        return {
            "version": __version__,
            "recipe": self.prepared.recipe.to_dict(),
            "classes": list(self.prepared.table.classes),
            "distributions": distributions_of(plan),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "device": str(self.prepared.runtime.device),
        }

    def _checkpoint(self) -> checkpoint.Checkpoint | None:
        """The newest complete checkpoint; None where the run was stopped before its first."""
        folder = self.folder / runs.CHECKPOINTS
        found = checkpoint.latest(folder, warn=self.console.warn)
        if found is None:
            if any(folder.glob("step-*")):
                raise CannotResume(str(self.folder), "no checkpoint is complete and undamaged.", do="Train it anew.")
            self.console.say("train: no checkpoint was written yet; it starts at the beginning")
            return None
        check_origin(self.folder, found.about, self._about(), warn=self.console.warn)
        runs.keep_lines(self.folder / runs.METRICS, before_epoch=int(found.state["epoch"]))
        return found


def _write_head(folder: Path, prepared: Prepared, rows: Sequence[SplitRow]) -> None:
    """Writes what a run can be repeated from, before anything is trained; a resumed run's data must be the same."""
    clean(folder)
    checkpoint.clean(folder / runs.CHECKPOINTS)
    if (folder / runs.SPLIT).is_file():
        if changed := set(read_split(folder / runs.SPLIT)) ^ set(rows):
            paths = sorted({row.path for row in changed})
            what = f"{len(paths):,} photos are others than when the run began, such as {printable(paths[0])}."
            raise CannotResume(str(folder), what, do="Train a new run instead.")
    else:
        write_rows(folder / runs.SPLIT, rows)
    runs.remove_checksums(folder)
    write_atomic(folder / runs.RECIPE, prepared.recipe.dumps())
