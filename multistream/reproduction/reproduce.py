"""reproduce: the paper's table and figures on a data set, from runs that are trained once and kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from multistream import runs
from multistream.comparison.compare import compared_row, with_holm
from multistream.comparison.run_results import Result, default_measure, read_result
from multistream.comparison.run_scores import RunScores, difference, score_photos
from multistream.console import Console
from multistream.errors import UsageError
from multistream.files import write_atomic
from multistream.folder_lock import FolderLock
from multistream.recipe import Recipe, differences
from multistream.reproduction.paper import Paper, PaperRow
from multistream.reproduction.plan import (
    FUSED,
    TARGETS,
    Request,
    all_planned,
    curves_needed,
    planned,
    rows_needed,
    stages_of,
)
from multistream.reproduction.results import (
    ReproducedConfusion,
    ReproducedCurve,
    ReproducedGallery,
    ReproducedRow,
    Reproduction,
)
from multistream.training.jobs import PlannedRun

if TYPE_CHECKING:
    from multistream.training.engines import Engine

SEVERAL_LABELS = (
    "photos may have several labels: late fusion, which gives each photo one label, and the published accuracies are "
    "left out"
)
WRONGLY_ADDED = "predicted\n(off the diagonal: wrongly, of the photos without this label)"
GALLERY = "fig5"
"""The folder of figure 5."""


def reproduce(targets: Sequence[str], request: Request, *, console: Console | None = None) -> Reproduction:
    """Trains the missing runs of the targets (table1, fig3, fig4, fig5), and computes their tables and figures.

    Raises UsageError for targets or streams that the paper does not have, and the errors of `train`.
    """
    console = console or Console(quiet=True)
    started = time.monotonic()
    if unknown := set(targets) - set(TARGETS):
        raise UsageError("reproduce", f"{min(unknown)!r} is unknown.", right=f"Known: all, {', '.join(TARGETS)}.")
    paper = request.paper
    rows = rows_needed(targets, paper, request.streams)
    request.out.mkdir(parents=True, exist_ok=True)
    with FolderLock(request.out):
        _check_same_request(request)
        work = _Work(request, paper, console)
        work.train(all_planned(request, paper, targets))
        wanted = set(targets) if paper.rows[FUSED] in rows else set(targets) - {"fig3", "fig5"}
        table, reference = work.table(rows) if "table1" in wanted else ((), "")
        tested = work.results(rows[0])
        return Reproduction(
            data=tested[0].data,
            n=len(set().union(*(result.predictions.paths for result in tested))),
            reference=reference,
            rows=table,
            curves=work.curves() if "fig4" in wanted else (),
            confusion=work.confusion() if "fig3" in wanted else None,
            gallery=work.gallery() if "fig5" in wanted else None,
            trained=work.trained,
            seconds=round(time.monotonic() - started, 1),
            notes=_notes(request, paper, rows, targets),
        )


class _Work:
    """One reproduction with its request, and the number of runs that it trained."""

    def __init__(self, request: Request, paper: Paper, console: Console) -> None:
        self.request, self.paper, self.console = request, paper, console
        self.trained = 0

    def train(self, plan: Sequence[PlannedRun]) -> None:
        """Trains the runs that are not finished; prints their number, and after each run the estimated time left."""
        from multistream.training.folds import train_planned  # imports torch, which reading results avoids

        missing = [each for each in plan if each.state != "finished"]
        self.trained = sum(each.trainings for each in missing)
        finished = sum(each.trainings for each in plan) - self.trained
        self.console.say(f"reproduce: {self.trained:,} training runs to do, {finished:,} already finished")
        if self.request.engine:
            self._train_on_engine(missing, self.request.engine)
        started, done = time.monotonic(), 0
        for each in missing:
            self.console.say(f"reproduce: {each.name}: {each.folder}")
            train_planned(each, console=self.console)
            done += each.trainings
            left = (time.monotonic() - started) / done * (self.trained - done)
            self.console.say(
                f"reproduce: {done:,} of {self.trained:,} training runs done; about {left / 60:.0f} min left"
            )

    def _train_on_engine(self, missing: Sequence[PlannedRun], engine: Engine) -> None:
        """Trains the runs, or their folds, on an engine; rows that fuse other rows are trained after those."""
        from multistream.training.engines import run_all  # torch, as above

        for joins in (False, True):
            chosen = [each for each in missing if ("branches" in each.recipe.network.freeze) is joins]
            single = [run for each in chosen for run in self._single_runs(each)]
            if single:
                run_all(single, engine, place=self.request.out, console=self.console)

    def _single_runs(self, training: PlannedRun) -> list[PlannedRun]:
        """Returns the single run of a training or, with folds, the folds; writes the recipe so that it can resume."""
        from multistream.training.folds import fold_runs  # torch, as above

        name = training.folder.relative_to(self.request.out / "runs").as_posix()
        if not training.recipe.data.folds:
            return [replace(training, name=name)]
        write_atomic(training.folder / runs.RECIPE, training.recipe.dumps())
        return [replace(run, name=f"{name}/{run.name}") for run in fold_runs(training.recipe, training.folder)]

    def results(self, row: PaperRow, depth: int = 0) -> list[Result]:
        """Reads the results of a row's runs."""
        return [read_result(each.folder) for each in planned(self.request, self.paper, [row], depth=depth)]

    def scores(self, row: PaperRow, depth: int = 0) -> RunScores:
        """Scores a row's runs by accuracy or, if photos may have several labels, by mean average precision."""
        results = self.results(row, depth)
        return score_photos(results, default_measure(results))

    def table(self, rows: Sequence[PaperRow]) -> tuple[tuple[ReproducedRow, ...], str]:
        """Returns the rows of table 1 in the paper's order, compared with the best single stream, and its name."""
        ordered = [row for row in self.paper.rows.values() if row in rows]
        scores = {row.key: self.scores(row) for row in ordered}
        singles = [row for row in ordered if not row.fusion]
        best = max(singles, key=lambda row: scores[row.key].mean)
        differences = with_holm(
            [difference(scores[best.key], scores[row.key]) if row is not best else None for row in ordered]
        )
        reproduced = []
        for row, each in zip(ordered, differences, strict=True):
            measured = compared_row(scores[row.key], name=row.name, settings={}, difference=each)
            published = None if row.published is None else row.published / 100
            reproduced.append(ReproducedRow(row.key, measured, published))
        return tuple(reproduced), best.name

    def confusion(self) -> ReproducedConfusion:
        """Computes figure 3: the confusion matrix of the early fusion, over all of its runs."""
        results = self.results(self.paper.rows[FUSED])
        counts, totals = np.sum([result.cells for result in results], axis=0).tolist()
        classes, recalls = results[0].predictions.classes, self.paper.recalls
        known = recalls if set(recalls) <= set(classes) else {}
        return ReproducedConfusion(
            classes,
            tuple(map(tuple, counts)),
            tuple(map(tuple, totals)),
            predicted=WRONGLY_ADDED if self.request.label_sets else "predicted",
            published_recalls=dict(known),
        )

    def gallery(self) -> ReproducedGallery:
        """Draws figure 5: the gallery of the early fusion's first run."""
        from multistream.reproduction.gallery import reproduce_gallery

        run = Path(self.results(self.paper.rows[FUSED])[0].name)
        return reproduce_gallery(run, self.request.out / GALLERY, console=self.console)

    def curves(self) -> tuple[ReproducedCurve, ...]:
        """Computes figure 4: the curves of the given streams."""
        curves = []
        for curve in curves_needed(self.request, self.paper):
            row = self.paper.rows[curve.row]
            stages = stages_of(self.request, self.paper, row)
            measured = [self.scores(row, depth) for depth in (*range(1, len(stages)), 0)]
            curves.append(
                ReproducedCurve(
                    curve.name,
                    stages,
                    measured[0].measure,
                    tuple(each.mean for each in measured),
                    tuple(each.ci95 for each in measured),
                    tuple(value / 100 for value in curve.published),
                )
            )
        return tuple(curves)


def _check_same_request(request: Request) -> None:
    """Stores the settings of a reproduction in its folder. Raises UsageError if the folder has other settings."""
    file = request.out / runs.RECIPE
    requested = request.recipe.updated(
        {"network": {"streams": request.streams, "weights": request.weights, "inputs": request.inputs}}
    )
    if not file.is_file():
        write_atomic(file, requested.dumps())
        return
    changed = [name for name, *_ in differences(Recipe.load(file), requested) if not name.startswith("runtime.")]
    if changed:
        what = f"{request.out} holds a reproduction with other settings: {', '.join(changed[:4])}."
        raise UsageError("--out", what, do="Pass another folder, or the same settings.")


def _notes(request: Request, paper: Paper, rows: Sequence[PaperRow], targets: Sequence[str]) -> tuple[str, ...]:
    fused = paper.rows[FUSED]
    left_out = ", ".join(row.name for row in paper.rows.values() if row not in rows)
    figures = " and ".join(name for name in ("fig3", "fig5") if name in targets)
    notes = [
        (True, _trainings(request)),
        *((spec.partition(":")[0] != place, f"{spec} replaces {place}") for place, spec in request.streams.items()),
        (
            figures and fused not in rows,
            f"{figures} are left out: {fused.name} needs {', '.join(paper.streams_of(fused))}",
        ),
        ("table1" in targets and left_out, f"rows omitted because a stream is missing: {left_out}"),
        (request.label_sets, SEVERAL_LABELS),
        (not request.label_sets, "published numbers: on FI (22,260 photos), not on these photos, unless noted"),
    ]
    return tuple(note for holds, note in notes if holds)


def _trainings(request: Request) -> str:
    data, seeds = request.recipe.data, f"{request.seeds} training seed{'s' if request.seeds > 1 else ''}"
    if not data.folds:
        return f"{request.splits} splits of {data.split}, {seeds}"
    repeats = f", drawn {data.repeats} times" if data.repeats > 1 else ""
    return f"{data.folds} folds{repeats}, {seeds}"
