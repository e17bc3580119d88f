"""ablate: the score and the cost of a network without some of its depth, taps or streams."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from tempfile import TemporaryDirectory

from multistream import runs
from multistream.ablation.costs import Cost, costs
from multistream.ablation.photo_runner import PhotoRunner
from multistream.ablation.plan import AblationPlan, plan_ablation
from multistream.ablation.pooled_runner import PooledAblation, PooledRunner, probed_key
from multistream.ablation.results import Ablation, TapShapley, VariantResult, save_result
from multistream.ablation.scores import RowScores
from multistream.ablation.statistics import complement, tap_values
from multistream.ablation.variants import Variant
from multistream.console import Console
from multistream.errors import UsageError
from multistream.interfaces import Stream
from multistream.recipe import Recipe
from multistream.statistics import holm, pareto
from multistream.training.engines import Engine
from multistream.training.jobs import PlannedRun


def ablate(
    source: str | PathLike[str] | Recipe,
    *,
    run: str | PathLike[str] | None = None,
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
    """Retrains a network without stages, taps or streams, and measures the score and cost of each variant.

    The score is the accuracy or, if images may have several labels, the mean average precision.
    `source` is a run or a recipe; `run` is the run that a changed recipe comes from and that stores the result. `axis`:
    `depth` truncates each stream (paper fig. 4), `taps` trains all subsets of a stream's taps, `streams` all subsets of
    streams under each fusion. `seeds` and `splits` are numbers; the first of each is the recipe's. `cut` names the only
    stream to ablate. With frozen streams all rows are trained in one pass over pooled features; otherwise each row is
    an ordinary training run, on an `engine` if one is given. The result goes to `ablations/` of the run, or to `out`.
    Raises MultistreamError.
    """
    console = console or Console(quiet=True)
    started = time.perf_counter()
    recipe = source if isinstance(source, Recipe) else recipe_of(Path(source).expanduser())
    run = run if isinstance(source, Recipe) else source
    plan = plan_ablation(recipe, axis=axis, seeds=seeds, splits=splits, cut=cut, streams=streams, say=console.say)
    folder = _results_folder(run, out)
    result = _AblationRun(plan, streams, console, engine).run(folder, verify=verify)
    result = replace(result, run=fspath(run) if run else "", seconds=round(time.perf_counter() - started, 3))
    if folder is not None:
        console.say(f"ablate: saved to {save_result(result, folder, cut=cut)}")
    return result


def planned(
    recipe: Recipe,
    *,
    run: str | Path | None = None,
    axis: str = "depth",
    seeds: int = 1,
    splits: int = 1,
    cut: str = "",
    out: str | Path | None = None,
    console: Console | None = None,
) -> list[PlannedRun]:
    """Returns the training runs of `ablate` with the same arguments, in order and with their status; trains none.

    There is one for each row, seed and split. With frozen streams, its folder is the file of the common result.
    """
    folder = _results_folder(run, out)
    if folder is None:
        raise UsageError("--plan", "the runs have no folder yet.", do="Pass a RUN, or --out FOLDER.")
    console = console or Console(quiet=True)
    plan = plan_ablation(recipe, axis=axis, seeds=seeds, splits=splits, cut=cut, streams=None, say=console.say)
    console.say(plan.size)
    if plan.is_pooled:
        console.say("ablate: the streams are frozen, so all rows train in one pass over pooled features")
    return plan.trainings(folder)


@dataclass(frozen=True)
class _AblationRun:
    """One ablation with its plan and environment."""

    plan: AblationPlan
    streams: Mapping[str, Stream] | None
    console: Console
    engine: Engine | None

    def run(self, folder: Path | None, *, verify: bool) -> Ablation:
        """Trains and measures all rows, on pooled features if the streams are frozen, else on photos."""
        self._check(folder, verify=verify)
        self.console.say(self.plan.size)
        if self.plan.is_pooled:
            return self._pooled(verify=verify)
        if folder is not None:
            return self._retrained(folder)
        with TemporaryDirectory(prefix="multistream-ablate-") as temporary:
            return self._retrained(Path(temporary))

    def _check(self, folder: Path | None, *, verify: bool) -> None:
        """Raises UsageError for options that do not apply to this composition."""
        is_convex = self.plan.prepared.recipe.training.solver == "lbfgs"
        for option, is_given in {"--verify": verify, "--seeds": len(self.plan.seeds) > 1}.items():
            if is_convex and is_given:
                what = "lbfgs fits each row to its optimum, which does not depend on the seed."
                raise UsageError(option, what, do=f"Omit {option}; --splits tests on other photos.")
        if self.engine and self.plan.is_pooled:
            what = "its streams are frozen, so all rows are trained in one pass over pooled features in this process."
            raise UsageError("--engine", what, do="Leave it out.")
        if self.engine and folder is None:
            raise UsageError("--engine", "the runs need a folder.", do="Pass --out FOLDER.")
        if verify and not self.plan.is_pooled:
            right = (
                "--verify compares rows trained in one batch with rows trained alone; here each row is trained alone."
            )
            raise UsageError("--verify", "no rows are trained in a batch.", right=right)

    def _pooled(self, *, verify: bool) -> Ablation:
        plan, splits = self.plan, self.plan.splits
        work = PooledRunner(plan.prepared, plan.variants, seeds=plan.seeds, console=self.console)
        pooled = work.run(splits, ridge=plan.axis == "taps", check=verify)
        spent = costs(pooled.base, pooled.networks, runtime=plan.prepared.runtime)
        scores = pooled.tally.scores()
        values: tuple[TapShapley, ...] = ()
        if plan.axis == "taps":
            values = tap_values(plan.variants, scores, splits=splits, seeds=len(plan.seeds))
        return replace(
            self._result(scores, self._rows(scores, spent, pooled), pooled.seconds),
            stacked=pooled.batched,
            ridge=pooled.certificate,
            verified=pooled.verified,
            shapley=values,
        )

    def _retrained(self, folder: Path) -> Ablation:
        work = PhotoRunner(self.plan, streams=self.streams, folder=folder, console=self.console, engine=self.engine)
        work.tell_cost()
        tally, networks, seconds = work.run()
        runtime = self.plan.prepared.runtime
        spent = [costs(network, [network], runtime=runtime)[0] for network in map(runtime.place, networks)]
        result = self._result(tally.scores(), self._rows(tally.scores(), spent, None), seconds)
        return replace(result, trained_on="photos")

    def _rows(
        self, scores: RowScores, spent: Sequence[Cost], found: PooledAblation | None
    ) -> tuple[VariantResult, ...]:
        last = len(self.plan.variants) - 1
        tested = [scores.p_value(v, last) for v in range(last)]
        p_values, corrected = [*tested, None], [*holm(tested), None]  # no test for the complete network
        best = pareto(scores.score.tolist(), [cost.macs for cost in spent])
        masked, ridge = self._masked_scores(found), self._ridge_scores(found)
        classes = self.plan.prepared.table.classes
        return tuple(
            VariantResult(
                keep=variant.keep,
                fusion=variant.fusion if len(variant.keep) > 1 else "",
                label=variant.label(self.plan.variants[-1]),
                score=float(scores.score[v]),
                score_ci95=scores.interval(v),
                delta=float(scores.score[v] - scores.score[last]),
                p_value=p_values[v],
                p_holm=corrected[v],
                params=spent[v].params,
                macs=spent[v].macs,
                ms_p50=spent[v].ms,
                scores=tuple(scores.scores[v].tolist()),
                masked_score=masked.get(v),
                ridge_score=ridge.get(v),
                pareto=best[v],
                per_class=scores.per_class(v, last, classes),
            )
            for v, variant in enumerate(self.plan.variants)
        )

    def _masked_scores(self, found: PooledAblation | None) -> dict[int, float]:
        """Returns the score of the masked complete network, for each variant that it contains."""
        scores = found.masked.scores().score.tolist() if found else ()
        return {v: score for v, score in enumerate(scores) if self._can_mask(self.plan.variants[v])}

    def _ridge_scores(self, found: PooledAblation | None) -> dict[int, float]:
        """Returns the score of the ridge probe, for each variant that has one."""
        scores = found.ridge.scores().score.tolist() if found and found.ridge else ()
        return {v: score for v, score in enumerate(scores) if probed_key(self.plan.variants, v)}

    def _can_mask(self, variant: Variant) -> bool:
        """Returns whether the complete network has all taps of the variant, and the same fusion."""
        whole = self.plan.variants[-1]
        inside = all(set(stages) <= set(whole.keep[key]) for key, stages in variant.keep.items())
        return inside and variant.fusion == whole.fusion

    def _result(self, scores: RowScores, rows: tuple[VariantResult, ...], seconds: float) -> Ablation:
        return Ablation(
            axis=self.plan.axis,
            rows=rows,
            seconds=0.0,
            training_seconds=seconds,
            seeds=tuple(self.plan.seeds),
            split_seeds=tuple(self.plan.split_seeds),
            n=int((scores.tried > 0).sum()),
            trained_on="pooled features",
            stacked=0,
            data=self.plan.prepared.table.name,
            run="",
            metric=scores.metric,
            streams=complement(self.plan.variants, scores) if self.plan.axis == "streams" else None,
        )


def _results_folder(run: str | PathLike[str] | None, out: str | Path | None) -> Path | None:
    """Returns the folder of the result; None if the result is not saved."""
    if out is not None:
        return Path(out).expanduser()
    return runs.folder_of(Path(run).expanduser()) / "ablations" if run else None


def recipe_of(run: Path) -> Recipe:
    """Loads the recipe of a run, given its folder or its model file. Raises UsageError if there is none."""
    folder = runs.folder_of(run)
    if not (folder / runs.RECIPE).is_file():
        raise UsageError(run, f"it has no {runs.RECIPE}.", right="Every run folder has one.")
    return Recipe.load(folder)
