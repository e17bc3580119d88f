"""ablate: which depth, which tap, which stream matters, and what each costs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from multistream import runs
from multistream.ablation.costs import Cost, costs
from multistream.ablation.photo_runner import PhotoRunner
from multistream.ablation.pooled_runner import PooledAblation, PooledRunner, probed_key
from multistream.ablation.results import Ablation, TapShapley, VariantResult, save_result
from multistream.ablation.statistics import RowScores, complement, tap_values
from multistream.ablation.variants import AXES, Axis, Variant, variants
from multistream.console import Console
from multistream.data.splits import Parts
from multistream.errors import DataError, UsageError, did_you_mean
from multistream.interfaces import Stream
from multistream.recipe import Recipe
from multistream.statistics import holm, pareto
from multistream.training.engines import Engine
from multistream.training.folds import fold_recipes
from multistream.training.prepare import Prepared, draw_parts, prepare, usable


def ablate(
    source: str | Path | Recipe,
    *,
    run: str | Path | None = None,
    axis: str = "depth",
    seeds: int = 1,
    splits: int = 1,
    cut: str = "",
    verify: bool = False,
    out: str | Path | None = None,
    streams: Mapping[str, Stream] | None = None,
    console: Console | None = None,
    engine: Engine | None = None,
) -> Ablation:
    """Trains a composition again with parts of it left out, and says what each part is worth and what it costs.

    `source` is a run or a recipe; `run`, the run that a changed recipe comes from and that keeps the result. `axis`:
    `depth` cuts each stream from the top (paper fig. 4), `taps` tries all subsets of a stream's taps, `streams` all
    subsets of streams under each fusion. `seeds` and `splits` are how many; the first are the recipe's own. `cut`
    names the one stream to cut. With frozen streams all rows train in one pass over pooled features; else each is
    trained for real, on an `engine` where one is given. A run keeps the result in its `ablations/`, a recipe in the
    folder `out`, if that is given.
    Raises MultistreamError.
    """
    if axis not in AXES:
        raise UsageError("--axis", f"{axis!r} is unknown.", right=did_you_mean(axis, AXES))
    if seeds < 1 or splits < 1:
        raise UsageError("ablate", f"{seeds} seeds and {splits} splits.", right="At least one of each is needed.")
    console = console or Console(quiet=True)
    started = time.perf_counter()
    recipe = source if isinstance(source, Recipe) else recipe_of(Path(source).expanduser())
    run = run if isinstance(source, Recipe) else source
    work = _AblationRun(
        prepared=prepare(recipe, say=console.say, streams=streams),
        axis=axis,
        cut=cut,
        seeds=[recipe.training.seed + i for i in range(seeds)],
        split_seeds=[recipe.data.split_seed + i for i in range(splits)],
        streams=streams,
        console=console,
        engine=engine,
    )
    folder = Path(out).expanduser() if out is not None else _folder(Path(run)) / "ablations" if run else None
    result = work.run(folder, verify=verify)
    result = replace(result, run=str(run or ""), seconds=round(time.perf_counter() - started, 3))
    if folder is not None:
        console.say(f"ablate: saved to {save_result(result, folder, cut=cut)}")
    return result


@dataclass
class _AblationRun:
    """One ablation on its way."""

    prepared: Prepared
    axis: Axis
    cut: str
    seeds: Sequence[int]
    split_seeds: Sequence[int]
    streams: Mapping[str, Stream] | None
    console: Console
    engine: Engine | None = None

    def run(self, folder: Path | None, *, verify: bool) -> Ablation:
        """All rows, by whichever way the composition allows."""
        network = self.prepared.network
        self.variants = variants(network, self.axis, cut=self.cut)
        if self.prepared.recipe.training.solver == "lbfgs" and (len(self.seeds) > 1 or verify):
            option = "--verify" if verify else "--seeds"
            what = "lbfgs fits each row to its optimum, which does not depend on the seed."
            raise UsageError(option, what, do=f"Omit {option}; --splits tests on other photos.")
        splits = self._splits()
        many = f"{len(self.variants):,} variants x {len(self.seeds)} seeds x {len(splits)} splits"
        self.console.say(f"ablate: {self.axis}, {many}")
        if self.engine and network.is_cacheable:
            what = "its streams are frozen, so all rows train in one pass over pooled features, here."
            raise UsageError("--engine", what, do="Leave it out.")
        if self.engine and folder is None:
            raise UsageError("--engine", "the runs need a folder.", do="Give --out FOLDER.")
        if network.is_cacheable:
            return self._pooled(splits, verify=verify)
        if verify:
            right = (
                "--verify compares rows trained in one batch with rows trained alone; here each row is trained alone."
            )
            raise UsageError("--verify", "no rows are trained in a batch.", right=right)
        if folder is not None:
            return self._retrained(folder / f"runs-{self.axis}")
        with TemporaryDirectory(prefix="multistream-ablate-") as temporary:
            return self._retrained(Path(temporary))

    def _splits(self) -> list[Parts]:
        """The parts of every split; a data set that brings its own has no others."""
        prepared = self.prepared
        if prepared.recipe.data.folds and not prepared.recipe.data.fold:
            return self._folds()
        found = [prepared.parts]
        for seed in self.split_seeds[1:]:
            parts = draw_parts(prepared.table, replace(prepared.recipe.data, split_seed=seed))
            found.append(usable(parts, prepared.side_inputs, prepared.table))
        if len(found) > 1 and all(np.array_equal(p.test, found[0].test) for p in found[1:]):
            right = "It has predefined splits, or test photos only."
            what = f"{prepared.table.name} has a fixed test split."
            raise UsageError("--splits", what, right=right, do="Omit --splits.")
        if not all(len(parts.test) for parts in found):
            what = f"with data.split = {prepared.recipe.data.split} it has no test split, which rows are compared on."
            raise DataError(prepared.table.name, what, do="Give --set data.split=80/10/10.")
        return found

    def _folds(self) -> list[Parts]:
        """The parts of every fold and repeat of a recipe on folds: each photo is tested once a repeat."""
        if len(self.split_seeds) > 1:
            what = f"the recipe has {self.prepared.recipe.data.folds} folds, which are used as splits."
            raise UsageError("--splits", what, do="Omit --splits; data.repeats draws the folds again.")
        if not self.prepared.network.is_cacheable:
            what = "folds need frozen streams, whose features are computed once."
            raise UsageError("ablate", what, do="Give --set data.folds=0, or --freeze streams.")
        settings = [recipe.data for recipe in fold_recipes(self.prepared.recipe).values()]
        drawn = [draw_parts(self.prepared.table, each) for each in settings]
        return [usable(parts, self.prepared.side_inputs, self.prepared.table) for parts in drawn]

    def _pooled(self, splits: Sequence[Parts], *, verify: bool) -> Ablation:
        work = PooledRunner(self.prepared, self.variants, seeds=self.seeds, console=self.console)
        found = work.run(splits, ridge=self.axis == "taps", check=verify)
        spent = costs(found.base, found.networks, runtime=self.prepared.runtime)
        scores, labels = found.tally.scores(), self.prepared.table.labels
        values: tuple[TapShapley, ...] = ()
        if self.axis == "taps":
            values = tap_values(self.variants, scores, labels=labels, splits=splits, seeds=len(self.seeds))
        return replace(
            self._result(scores, self._rows(scores, spent, found), found.seconds),
            stacked=found.batched,
            ridge=found.certificate,
            verified=found.verified,
            shapley=values,
        )

    def _retrained(self, folder: Path) -> Ablation:
        work = PhotoRunner(
            self.prepared,
            self.variants,
            axis=self.axis,
            seeds=self.seeds,
            split_seeds=self.split_seeds,
            streams=self.streams,
            folder=folder,
            console=self.console,
            engine=self.engine,
        )
        work.tell_cost()
        tally, networks, seconds = work.run()
        runtime = self.prepared.runtime
        spent = [costs(network, [network], runtime=runtime)[0] for network in map(runtime.place, networks)]
        result = self._result(tally.scores(), self._rows(tally.scores(), spent, None), seconds)
        return replace(result, trained_on="photos")

    def _rows(
        self, scores: RowScores, spent: Sequence[Cost], found: PooledAblation | None
    ) -> tuple[VariantResult, ...]:
        last = len(self.variants) - 1
        p_values = [scores.p_value(v, last) for v in range(last)]
        corrected: list[float | None] = [*holm(p_values), None]
        best = pareto(scores.accuracy.tolist(), [cost.macs for cost in spent])
        masked = found.masked.scores().accuracy if found else None
        ridge = found.ridge.scores().accuracy if found and found.ridge else None
        labels, classes = self.prepared.table.labels, self.prepared.table.classes
        return tuple(
            VariantResult(
                keep=variant.keep,
                fusion=variant.fusion if len(variant.keep) > 1 else "",
                label=variant.label(self.variants[-1]),
                accuracy=float(scores.accuracy[v]),
                accuracy_ci95=scores.interval(v),
                delta=float(scores.accuracy[v] - scores.accuracy[last]),
                p_value=p_values[v] if v < last else None,
                p_holm=corrected[v],
                params=spent[v].params,
                macs=spent[v].macs,
                ms_p50=spent[v].ms,
                accuracies=tuple(scores.accuracies[v].tolist()),
                masked_accuracy=float(masked[v]) if masked is not None and self._can_mask(variant) else None,
                ridge_accuracy=float(ridge[v]) if ridge is not None and probed_key(self.variants, v) else None,
                pareto=best[v],
                per_class=scores.per_class(v, last, labels, classes),
            )
            for v, variant in enumerate(self.variants)
        )

    def _can_mask(self, variant: Variant) -> bool:
        """Whether the whole holds all that the variant keeps, under the same fusion."""
        whole = self.variants[-1]
        inside = all(set(stages) <= set(whole.keep[key]) for key, stages in variant.keep.items())
        return inside and variant.fusion == whole.fusion

    def _result(self, scores: RowScores, rows: tuple[VariantResult, ...], seconds: float) -> Ablation:
        return Ablation(
            axis=self.axis,
            rows=rows,
            seconds=0.0,
            training_seconds=seconds,
            seeds=tuple(self.seeds),
            split_seeds=tuple(self.split_seeds),
            n=int((scores.tried > 0).sum()),
            trained_on="pooled features",
            stacked=0,
            data=self.prepared.table.name,
            run="",
            streams=complement(self.variants, scores) if self.axis == "streams" else None,
        )


def _folder(run: Path) -> Path:
    """A run's folder, given itself or its model file."""
    return run if run.is_dir() else run.parent


def recipe_of(run: Path) -> Recipe:
    """The recipe of a run, given its folder or its model file; UsageError where there is none."""
    if not (_folder(run) / runs.RECIPE).is_file():
        raise UsageError(str(run), f"it has no {runs.RECIPE}.", right="Every run folder has one.")
    return Recipe.load(_folder(run))
