"""reproduce: the paper's table and figures on a data set, from what is trained once and kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from multistream import runs
from multistream.comparison.compare import compared_row, with_holm
from multistream.comparison.paired_tests import difference
from multistream.comparison.run_results import Result, read_result
from multistream.console import Console
from multistream.errors import UsageError
from multistream.files import write_atomic
from multistream.folder_lock import FolderLock
from multistream.recipe import Recipe, differences
from multistream.reproduction.paper import Paper, PaperRow, the_paper
from multistream.reproduction.plan import (
    FUSED,
    TARGETS,
    Request,
    all_planned,
    curves_needed,
    planned,
    planned_depths,
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
from multistream.training.planned_run import PlannedRun

GALLERY = "fig5"
"""The folder of figure 5."""


def reproduce(targets: Sequence[str], request: Request, *, console: Console | None = None) -> Reproduction:
    """Trains what the targets (table1, fig3, fig4, fig5) need and is not there yet, and reads all of it.

    Raises UsageError for targets or streams that the paper does not have, and what `train` raises.
    """
    console = console or Console(quiet=True)
    started = time.monotonic()
    if unknown := set(targets) - set(TARGETS):
        raise UsageError("reproduce", f"{min(unknown)!r} is unknown.", right=f"Known: all, {', '.join(TARGETS)}.")
    paper = the_paper()
    rows = rows_needed(targets, paper, request.streams)
    request.out.mkdir(parents=True, exist_ok=True)
    with FolderLock(request.out):
        _check_same_request(request)
        work = _Work(request, paper, console)
        work.train(all_planned(request, paper, targets))
        curves = work.curves() if "fig4" in targets else ()
        table = work.table([row for row in rows if row in paper.rows.values()]) if "table1" in targets else ((), "")
        fused = next((row for row in rows if row.key == FUSED), None)
        shown = work.results(fused) if fused and "fig3" in targets else []
        any_result = work.results(rows[0])[0]
        return Reproduction(
            data=any_result.data,
            n=len({path for result in work.results(rows[0]) for path in result.predictions.paths}),
            rows=table[0],
            reference=table[1],
            curves=curves,
            confusion=_confusion(shown, paper) if shown else None,
            gallery=work.gallery(fused) if fused and "fig5" in targets else None,
            trained=work.trained,
            seconds=round(time.monotonic() - started, 1),
            notes=_notes(request, paper, rows, targets),
        )


class _Work:
    """One reproduction on its way."""

    def __init__(self, request: Request, paper: Paper, console: Console) -> None:
        self.request, self.paper, self.console = request, paper, console
        self.trained = 0

    def train(self, plan: Sequence[PlannedRun]) -> None:
        """Trains what is not there; says before how much that is, and after each training how long the rest takes."""
        from multistream.training.folds import train  # torch: not for what only reads

        missing = [each for each in plan if each.state != "finished"]
        count = sum(each.trainings for each in missing)
        there = sum(each.trainings for each in plan) - count
        self.console.say(f"reproduce: {count:,} trainings to run, {there:,} already finished")
        if self.request.engine:
            from multistream.reproduction.side_by_side import train_side_by_side  # torch, as above

            train_side_by_side(missing, self.request.engine, request=self.request, console=self.console)
        started, done = time.monotonic(), 0
        for each in missing:
            began = each.state == "stopped"
            self.console.say(f"reproduce: {each.name}: {each.folder}")
            train(
                Recipe() if began and not each.recipe.data.folds else each.recipe,
                out=None if began else each.folder,
                resume=each.folder if began else None,
                console=self.console,
            )
            done += each.trainings
            left = (time.monotonic() - started) / done * (count - done)
            self.console.say(f"reproduce: {done:,} of {count:,} trainings done; about {left / 60:.0f} min left")
        self.trained += count

    def results(self, row: PaperRow, depth: int = 0) -> list[Result]:
        """The runs of a row, read."""
        plan = planned(self.request, self.paper, [row])
        if depth:
            plan = planned_depths(self.request, self.paper, row, depth + 1)[-len(plan) :]
        return [read_result(each.folder) for each in plan]

    def table(self, rows: Sequence[PaperRow]) -> tuple[tuple[ReproducedRow, ...], str]:
        """The rows of table 1 in the paper's order, compared with the best single stream; and that one's name."""
        ordered = [row for row in self.paper.rows.values() if row in rows]
        results = {row.key: self.results(row) for row in ordered}
        singles = [row for row in ordered if not row.fusion]
        best = max(singles, key=lambda row: float(np.mean([result.accuracy for result in results[row.key]])))
        found = with_holm(
            [difference(results[best.key], results[row.key]) if row is not best else None for row in ordered]
        )
        return tuple(
            ReproducedRow(
                row.key,
                compared_row(results[row.key], name=row.name, settings={}, difference=found[i]),
                None if row.published is None else row.published / 100,
            )
            for i, row in enumerate(ordered)
        ), best.name

    def gallery(self, row: PaperRow) -> ReproducedGallery:
        """Figure 5 of a row's first run."""
        from multistream.reproduction.gallery import reproduce_gallery

        run = Path(self.results(row)[0].name)
        return reproduce_gallery(run, self.request.out / GALLERY, console=self.console)

    def curves(self) -> tuple[ReproducedCurve, ...]:
        """Figure 4 of the available streams."""
        found = []
        for curve in curves_needed(self.request, self.paper):
            row = self.paper.rows[curve.row]
            stages = stages_of(self.request, self.paper, row)
            levels = [*range(1, len(stages)), 0]
            measured = [
                compared_row(self.results(row, depth), name=curve.name, settings={}, difference=None)
                for depth in levels
            ]
            found.append(
                ReproducedCurve(
                    curve.name,
                    stages,
                    tuple(each.accuracy for each in measured),
                    tuple(each.accuracy_ci95 for each in measured),
                    tuple(value / 100 for value in curve.published),
                )
            )
        return tuple(found)


def _check_same_request(request: Request) -> None:
    """The settings of a reproduction stay in its folder; another one needs another folder."""
    file = request.out / runs.RECIPE
    asked = request.recipe.updated(
        {"network": {"streams": request.streams, "weights": request.weights, "inputs": request.inputs}}
    )
    if file.is_file():
        changed = [name for name, *_ in differences(Recipe.load(file), asked) if not name.startswith("runtime.")]
        if changed:
            what = f"{request.out} holds a reproduction with other settings: {', '.join(changed[:4])}."
            raise UsageError("--out", what, do="Give another folder, or the same settings.")
    else:
        write_atomic(file, asked.dumps())


def _confusion(results: Sequence[Result], paper: Paper) -> ReproducedConfusion:
    counts = np.sum([result.confusion for result in results], axis=0)
    classes = results[0].predictions.classes
    known = {name: paper.recalls[name] for name in classes if name in paper.recalls}
    return ReproducedConfusion(
        classes, tuple(tuple(row) for row in counts.tolist()), known if len(known) == len(paper.recalls) else {}
    )


def _notes(request: Request, paper: Paper, rows: Sequence[PaperRow], targets: Sequence[str]) -> tuple[str, ...]:
    data = request.recipe.data
    cut = f"{data.folds} folds" if data.folds else f"{request.splits} splits of {data.split}"
    repeats = f", drawn {data.repeats} times" if data.folds and data.repeats > 1 else ""
    notes = [f"{cut}{repeats}, {request.seeds} training seed{'s' if request.seeds > 1 else ''}"]
    for place, spec in request.streams.items():
        if spec.partition(":")[0] != place:
            notes.append(f"{spec} replaces {place}")
    left_out = [row.name for row in paper.rows.values() if row not in rows]
    figures = [name for name in ("fig3", "fig5") if name in targets]
    if figures and paper.rows[FUSED] not in rows:
        needed = ", ".join(paper.streams_of(paper.rows[FUSED]))
        notes.append(f"{' and '.join(figures)} are left out: {paper.rows[FUSED].name} needs {needed}")
    if "table1" in targets and left_out:
        notes.append(f"rows omitted because a stream is missing: {', '.join(left_out)}")
    notes.append("published numbers: on FI (22,260 photos), not on these photos, unless noted")
    return tuple(notes)
