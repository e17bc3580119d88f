"""The plan of an ablation: the training runs of each variant, seed and split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count, product
from pathlib import Path

from multistream import runs
from multistream.ablation.results import result_path
from multistream.ablation.variants import AXES, Axis, Variant, variants
from multistream.console import Say
from multistream.data.splits import Parts
from multistream.errors import DataError, UsageError, did_you_mean
from multistream.interfaces import Stream
from multistream.network.network import MultiStream
from multistream.recipe import DataSettings, Recipe
from multistream.training.folds import fold_recipes
from multistream.training.jobs import PlannedRun
from multistream.training.prepare import Prepared, draw_parts, prepare, usable


@dataclass(frozen=True)
class AblationPlan:
    """The variants (the complete network last), and the seeds and splits for which each is trained."""

    prepared: Prepared
    variants: tuple[Variant, ...]
    axis: Axis
    cut: str
    """The only stream that is cut; "" cuts each in turn."""
    seeds: Sequence[int]
    split_seeds: Sequence[int]

    @property
    def is_pooled(self) -> bool:
        """Whether all rows train on features that are pooled in one pass, because the streams are frozen."""
        return self.prepared.network.is_cacheable

    @property
    def size(self) -> str:
        """The numbers of variants, seeds and splits, in one line."""
        counts = f"{len(self.variants):,} variants x {len(self.seeds)} seeds x {len(self.splits)} splits"
        return f"ablate: {self.axis}, {counts}"

    @cached_property
    def splits(self) -> list[Parts]:
        """The train, val and test rows of every split. Raises UsageError for several splits of predefined ones."""
        if self.is_on_folds:
            return self._folds()
        prepared = self.prepared
        drawn = [self._drawn(replace(prepared.recipe.data, split_seed=seed)) for seed in self.split_seeds[1:]]
        tests = {tuple(parts.test.tolist()) for parts in (prepared.parts, *drawn)}
        if drawn and len(tests) == 1:
            right = "It has predefined splits, or test photos only."
            what = f"{prepared.table.name} has a fixed test split."
            raise UsageError("--splits", what, right=right, do="Omit --splits.")
        if () in tests:
            what = f"with data.split = {prepared.recipe.data.split} it has no test split, which rows are compared on."
            raise DataError(prepared.table.name, what, do="Pass --set data.split=80/10/10.")
        return [prepared.parts, *drawn]

    @property
    def is_on_folds(self) -> bool:
        """Whether the recipe's folds are used as splits."""
        data = self.prepared.recipe.data
        return bool(data.folds and not data.fold)

    def _drawn(self, settings: DataSettings) -> Parts:
        return usable(draw_parts(self.prepared.table, settings), self.prepared.side_inputs, self.prepared.table)

    def _folds(self) -> list[Parts]:
        """Draws the parts of every fold and repeat of a recipe with folds: each photo is tested once per repeat."""
        if len(self.split_seeds) > 1:
            what = f"the recipe has {self.prepared.recipe.data.folds} folds, which are used as splits."
            raise UsageError("--splits", what, do="Omit --splits; data.repeats draws the folds again.")
        if not self.prepared.network.is_cacheable:
            what = "folds need frozen streams, whose features are computed once."
            raise UsageError("ablate", what, do="Pass --set data.folds=0, or --freeze streams.")
        return [self._drawn(recipe.data) for recipe in fold_recipes(self.prepared.recipe).values()]

    def trainings(self, folder: Path) -> list[PlannedRun]:
        """Returns all training runs in their order; `folder` is the folder of the result."""
        if self.is_pooled:
            return self._pooled_trainings(result_path(folder, self.axis, cut=self.cut))
        numbers = range(len(self.variants))
        return [
            self.photo_training(number, seed=seed, split_seed=split_seed, folder=folder)
            for split_seed, seed, number in product(self.split_seeds, self.seeds, numbers)
        ]

    def _pooled_trainings(self, file: Path) -> list[PlannedRun]:
        """Lists the training runs on pooled features; they have no folders, so each has the result's file instead."""
        recipe = self.prepared.recipe
        if self.is_on_folds:
            recipes = {f"fold {name}": fold_recipe for name, fold_recipe in fold_recipes(recipe).items()}
        else:
            recipes = {f"split {seed}": recipe for seed in self.split_seeds}
        return [
            PlannedRun(f"{self._label(variant)}, seed {seed}, {split}", recipes[split], file)
            for split, seed, variant in product(recipes, self.seeds, self.variants)
        ]

    def photo_training(self, number: int, *, seed: int, split_seed: int, folder: Path) -> PlannedRun:
        """Plans the training of a variant on photos, in the folder of an existing run of the same recipe, if any."""
        variant = self.variants[number]
        recipe = recipe_of(variant, self.prepared, self.axis)
        recipe = recipe.updated({"training": {"seed": seed}, "data": {"split_seed": split_seed}})
        run_folder = _place(folder / f"runs-{self.axis}" / f"{number:02}-seed{seed}-split{split_seed}", recipe)
        return PlannedRun(f"{self._label(variant)}, seed {seed}, split {split_seed}", recipe, run_folder)

    def _label(self, variant: Variant) -> str:
        return variant.label(self.variants[-1])


def plan_ablation(
    recipe: Recipe,
    *,
    axis: str,
    seeds: int,
    splits: int,
    cut: str,
    streams: Mapping[str, Stream] | None,
    say: Say,
) -> AblationPlan:
    """Opens the data, composes the network, and lists its variants. Raises MultistreamError."""
    if axis not in AXES:
        raise UsageError("--axis", f"{axis!r} is unknown.", right=did_you_mean(axis, AXES))
    if min(seeds, splits) < 1:
        raise UsageError("ablate", f"{seeds} seeds and {splits} splits.", right="At least one of each is needed.")
    prepared = prepare(recipe, say=say, streams=streams)
    plan = AblationPlan(
        prepared=prepared,
        variants=variants(prepared.network, axis, cut=cut),
        axis=axis,
        cut=cut,
        seeds=[recipe.training.seed + i for i in range(seeds)],
        split_seeds=[recipe.data.split_seed + i for i in range(splits)],
    )
    if axis == "taps" and not plan.is_pooled:
        what = "--axis taps trains on pooled features, but streams of this recipe are trained."
        right = "--axis depth and --axis streams also work with trained streams."
        raise UsageError("--axis", what, right=right, do="Freeze the streams, or choose another axis.")
    return plan


def _place(folder: Path, recipe: Recipe) -> Path:
    """Returns the run of this recipe at `folder` or next to it; else a free folder name."""
    places = (folder if number == 1 else folder.with_name(f"{folder.name}-{number}") for number in count(1))
    return next(place for place in places if not place.exists() or _is_of(place, recipe))


def _is_of(run: Path, recipe: Recipe) -> bool:
    return (run / runs.RECIPE).is_file() and Recipe.load(run) == recipe


def recipe_of(variant: Variant, prepared: Prepared, axis: Axis) -> Recipe:
    """Returns the recipe that trains a variant alone."""
    recipe = prepared.recipe
    if axis == "depth":
        return _truncated(recipe, variant, prepared.network)
    streams = {key: spec for key, spec in recipe.network.streams.items() if key in variant.keep}
    used = {name for key in variant.keep for name in (key, prepared.network.inputs[key].name)}
    inputs = {name: path for name, path in recipe.network.inputs.items() if name in used}
    changes = {"network": {"streams": streams, "inputs": inputs, "fusion": variant.fusion}}
    if variant.fusion == recipe.network.fusion:
        return recipe.updated(changes)
    return recipe.updated({**changes, "options": {"fusion": {}}})


def _truncated(recipe: Recipe, variant: Variant, network: MultiStream) -> Recipe:
    """Returns the recipe with the variant's depth for the stream that it truncates."""
    key = variant.about
    if not key:
        return recipe
    depth = list(network.branches[key].stream.stages).index(variant.keep[key][-1]) + 1
    return recipe.updated({"network": {"depth": {**recipe.network.depth, key: depth}}})
