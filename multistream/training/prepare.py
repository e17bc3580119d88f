"""Prepares a training from its recipe: data, splits, network, weights, freezing. Reports the defaults that it chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from multistream.console import Say
from multistream.data.layouts.data_source import VOTES, open_table
from multistream.data.loading import Photos, check_decoder, make_photos
from multistream.data.side_inputs import SideInputs, gather
from multistream.data.splits import Parts, split
from multistream.data.table import Table
from multistream.errors import DataError, UsageError
from multistream.inputs import Map
from multistream.interfaces import Loss, Stream
from multistream.network.network import MultiStream
from multistream.nn.modules import trains
from multistream.recipe import DataSettings, NetworkSettings, Recipe, RuntimeSettings
from multistream.runs.composition import compose_network, settle_weights, with_distributions, with_instances
from multistream.runtime.device import Runtime, resolve
from multistream.runtime.distributed import ALONE, Ranks
from multistream.runtime.precision_check import settle
from multistream.training.calibration import settle_calibration
from multistream.training.convex import check_convex
from multistream.training.losses import make_loss
from multistream.training.probing import settle_probing
from multistream.training.sharding import check_sharding


@dataclass(frozen=True)
class Prepared:
    """A complete recipe, and the data, network and runtime that it describes."""

    recipe: Recipe
    table: Table
    parts: Parts
    network: MultiStream
    side_inputs: SideInputs
    runtime: Runtime
    ranks: Ranks = ALONE

    @property
    def photos(self) -> Photos:
        """The photos with the vectors and maps that the network's inputs need."""
        return make_photos(self.table, self.network.inputs, self.side_inputs, self.recipe.data)

    @property
    def targets(self) -> NDArray[np.int64] | NDArray[np.float64]:
        """The training targets: labels (N,), (N, K) label sets, or (N, K) votes with `data.label = "votes"`."""
        if self.table.label_sets is not None:
            return self.table.label_sets.astype(np.float64)
        votes = self.table.votes if self.recipe.data.label == VOTES else None
        return self.table.labels if votes is None else votes

    def class_shares(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns the target distributions of these images, (n, K); a label is one-hot."""
        own = self.targets[indices]
        return own.astype(np.float64) if own.ndim == 2 else np.eye(len(self.table.classes))[own.astype(np.int64)]

    def criterion(self, train: NDArray[np.int64]) -> Loss:
        """Builds the recipe's loss on the device, with the class weights and priors of these training images."""
        settings = self.recipe.training
        return make_loss(
            settings.loss,
            self.recipe.options.loss,
            shares=self.class_shares(train),
            balanced=settings.class_weights == "balanced",
            label_smoothing=settings.label_smoothing,
            label_sets=self.network.label_sets,
        ).to(self.runtime.device)

    @property
    def workers(self) -> int:
        """The number of decoding workers of this process."""
        return self.ranks.workers(self.recipe.runtime.workers)


def prepare(recipe: Recipe, *, say: Say, streams: Mapping[str, Stream] | None = None, ranks: Ranks = ALONE) -> Prepared:
    """Opens the data, composes the network, loads weights, freezes, as the recipe says; prints chosen defaults."""
    recipe = with_instances(recipe, streams or {})
    if not recipe.network.streams:
        raise UsageError("streams", "none is given.", right="At least one is needed, as in --streams object,anp.")
    if recipe.training.batch_size < ranks.size:
        what = f"{recipe.training.batch_size} images per batch cannot be divided among {ranks.size} processes."
        raise UsageError("training.batch_size", what, right=f"It must be at least {ranks.size}.")
    resolve(on_rank(recipe.runtime, ranks))  # checks the device before any work on the data
    check_decoder(recipe.data)
    table, is_demo = _opened(recipe.data, say=say), not recipe.data.source
    image_size = recipe.data.image_size or table.image_size
    recipe = recipe.updated({"data": {"image_size": image_size}})
    recipe = settle_loss(with_distributions(recipe), table, say=say)
    network = compose_network(recipe, table, streams=streams)
    recipe = settle_weights(recipe, network, is_demo=is_demo)
    recipe = settle_freezing(recipe, network, is_demo=is_demo, say=say)
    if len(network.branches) == 1 and recipe.network.fusion != NetworkSettings().fusion:
        say(f"fusion: {recipe.network.fusion} is not used, because the network has one stream")
    network.freeze(*recipe.network.freeze)
    recipe = settle_training(recipe, network)
    check_sharding(recipe, network, ranks)
    _check_solver(recipe, network)
    settings = recipe.data
    side_inputs = gather(
        table, network.inputs, recipe.network.inputs, missing=settings.missing_vectors, resize=settings.resize
    )
    for note in side_inputs.notes:
        say(f"data: {note}")
    parts = usable(draw_parts(table, recipe.data), side_inputs, table)
    for note in parts.notes:
        say(f"split: {note}")
    recipe = settle_calibration(recipe, network, validation=len(parts.val))
    fill = settings.missing_vectors == "mean"
    side_inputs = fit_vectors(network, side_inputs, parts, fill=fill, say=say)
    runtime = settle(on_rank(recipe.runtime, ranks), network, say=say)
    runtime = replace(runtime, precision=ranks.from_first(runtime.precision))
    # On another machine, auto may give another precision.
    recipe = recipe.updated({"runtime": {"precision": runtime.precision}})
    return Prepared(recipe, table, parts, network, side_inputs, runtime, ranks)


def _opened(settings: DataSettings, *, say: Say) -> Table:
    table = open_table(
        settings.source, label=settings.label, allow_outside=settings.allow_outside, strict=settings.strict
    )
    about = f"{table.name}, {len(table):,} images, {len(table.classes)} classes"
    say(f"data: {about}" if settings.source else f"data: {about} (built-in demo set: no --data was given)")
    for note in table.notes:
        say(f"data: {note}")
    if len(table.classes) < 2:
        what = f"all photos have one class, {table.classes[0]!r}."
        raise DataError(table.name, what, right="Training needs at least two classes.")
    return table


def _check_solver(recipe: Recipe, network: MultiStream) -> None:
    if recipe.training.solver != "lbfgs" or not trains(network):
        return
    check_convex(network)
    if recipe.training.loss not in ("cross_entropy", "binary_cross_entropy"):
        right = "lbfgs minimises cross entropy, of label sets binary cross entropy."
        raise UsageError("training.loss", f"lbfgs has no {recipe.training.loss!r}.", right=right)


def on_rank(settings: RuntimeSettings, ranks: Ranks) -> RuntimeSettings:
    """Returns the runtime settings of one of many processes, each of which has its own GPU."""
    if ranks.size == 1 or settings.device not in ("auto", "cuda") or not torch.cuda.is_available():
        return settings
    return replace(settings, device=f"cuda:{ranks.local_rank}")


def settle_loss(recipe: Recipe, table: Table, *, say: Say) -> Recipe:
    """Replaces cross entropy by binary cross entropy if images may have several labels.

    Raises UsageError for settings that need one label per image.
    """
    if table.label_sets is None:
        return recipe
    training = recipe.training
    if training.class_weights != "none" or training.label_smoothing or training.calibration == "temperature":
        names = ("class_weights", "label_smoothing", "calibration")
        name = next(each for each in names if getattr(training, each) not in ("none", "auto", 0))
        raise UsageError(f"training.{name}", "images may have several labels here.", do="Leave it at its default.")
    if training.loss != "cross_entropy":
        return recipe
    say("loss: binary_cross_entropy (images may have several labels)")
    return recipe.updated({"training": {"loss": "binary_cross_entropy"}})


def settle_freezing(recipe: Recipe, network: MultiStream, *, is_demo: bool, say: Say) -> Recipe:
    """Resolves the default of --freeze: pretrained streams and trained branches are frozen.

    Randomly initialised streams train, except in the demo.
    """
    if recipe.network.freeze:
        return recipe
    chosen, why = _default_freezing(recipe, network, is_demo=is_demo)
    if why:
        say(f"freeze: {', '.join(chosen)} ({why})")
    return recipe.updated({"network": {"freeze": chosen}})


def _default_freezing(recipe: Recipe, network: MultiStream, *, is_demo: bool) -> tuple[list[str], str]:
    """Returns the parts to freeze, and the reason; the reason is empty if no stream reads images."""
    if network.loaded_branches >= set(network.branches):
        return ["branches"], "they are already trained; --freeze streams continues training of their taps and heads"
    images = network.picture_branches
    frozen = [key for key in images if is_demo or _is_pretrained(recipe, network, key)]
    ready = network.zero_shot_heads | network.loaded_branches
    if network.zero_shot_heads & set(frozen) and ready >= set(network.branches):
        return ["branches"], "the classes are concepts: zero-shot; --freeze streams trains the classifier further"
    if not images:
        return ["streams"], ""
    if not frozen:
        return ["none"], "no stream has pretrained weights; --freeze streams freezes them"
    chosen = ["streams"] if len(frozen) == len(images) else frozen
    return chosen, f"{_why_frozen(is_demo)}; --freeze none trains them"


def _is_pretrained(recipe: Recipe, network: MultiStream, key: str) -> bool:
    return key in network.loaded_branches or recipe.network.weights.get(key, "random") != "random"


def _why_frozen(is_demo: bool) -> str:
    if is_demo:
        return "randomly initialised, which is enough for the simple demo images"
    return "pretrained streams are frozen by default"


def settle_training(recipe: Recipe, network: MultiStream) -> Recipe:
    """Sets lower rates and fixed batch norms for pretrained streams that train; resolves `flips` and probing."""
    settings, rates = recipe.training, dict(recipe.training.rates)
    for key, branch in network.branches.items():
        pretrained = _is_pretrained(recipe, network, key)
        if pretrained and not branch.stream.is_frozen:
            rates.setdefault(key, min(settings.fine_tuning_rate, settings.learning_rate))
        if settings.batch_norm == "fixed" or (settings.batch_norm == "auto" and pretrained):
            branch.stream.keep_statistics()
    recipe = settle_probing(recipe, network)
    check_augmentation(recipe, network)
    flips = recipe.training.flips
    if flips == ("auto",):
        flips = () if network.is_frozen else ("horizontal",)
    return recipe.updated({"training": {"rates": rates, "flips": flips}})


def draw_parts(table: Table, settings: DataSettings) -> Parts:
    """Draws the splits that the recipe's section `data` describes."""
    return split(
        table,
        fractions=settings.split,
        seed=settings.split_seed,
        groups=settings.groups,
        folds=settings.folds,
        fold=settings.fold,
    )


def check_augmentation(recipe: Recipe, network: MultiStream) -> None:
    """Raises UsageError if a stream would not see the augmentation: all picture streams must train, on photos."""
    settings = recipe.training
    chosen = [f"training.{n}" for n in ("augment", "mixup", "cutmix") if getattr(settings, n) not in ("none", 0)]
    if not chosen:
        return
    for key, branch in network.picture_branches.items():
        if branch.stream.is_frozen:
            right = "All streams that read images must be trained, otherwise they would see different images."
            do = "Use --freeze none, or omit the augmentation."
            raise UsageError(chosen[0], f"{key} is frozen.", right=right, do=do)
    if settings.augment != "none":
        _check_reads_photos(network)


def _check_reads_photos(network: MultiStream) -> None:
    for key, branch in network.branches.items():
        if isinstance(branch.stream.input, Map):
            what = f"{key} reads maps, which torchvision's augmentation policies do not transform."
            raise UsageError("training.augment", what)
    if not network.picture_branches:
        raise UsageError("training.augment", "no stream reads photos.", right="Augmentation changes photos.")


def usable(parts: Parts, side_inputs: SideInputs, table: Table) -> Parts:
    """Returns the splits without the images that lack a required input."""
    train, val, test = (rows[side_inputs.usable[rows]] for rows in (parts.train, parts.val, parts.test))
    kept = replace(parts, train=train, val=val, test=test)
    if not len(parts.train):
        do = "Put photos into a folder called train, or write a CSV with a column part."
        raise DataError(table.name, "it has no training split, only test photos.", do=do)
    if not len(kept.train):
        raise DataError(
            "split", f"none of the {len(table):,} images can be used for training.", do="Check the vectors' ids."
        )
    return kept


@torch.no_grad()
def fit_vectors(
    network: MultiStream, side_inputs: SideInputs, parts: Parts, *, fill: bool, say: Say = lambda _: None
) -> SideInputs:
    """Fits the scaling of streams that read vectors on the training split, except in branches that are trained.

    With `fill`, images without a vector get the mean of the training split, or the stored mean of a loaded branch.
    """
    for key, rows in side_inputs.vectors.items():
        if key not in network.loaded_branches:
            own = parts.train[side_inputs.present[key][parts.train]]
            if not len(own):
                raise DataError(f"input.{key}", "no image of the training split has a vector.", do="Check their ids.")
            network.branches[key].raw_mean.copy_(torch.from_numpy(rows[own].mean(0, dtype=np.float64)))
    filled = side_inputs.filled(network.raw_means) if fill else side_inputs
    for key, rows in filled.vectors.items():
        if key not in network.loaded_branches:
            note = network.branches[key].stream.fit(torch.from_numpy(np.ascontiguousarray(rows[parts.train])))
            if note:
                say(f"{key}: {note}")
    return filled
