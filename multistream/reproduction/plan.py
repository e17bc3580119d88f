"""The plan of a reproduction: its training runs, in an order in which branches are trained before they are fused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multistream.data.layouts.label_sets import LabelColumns
from multistream.errors import UsageError
from multistream.recipe import Recipe
from multistream.reproduction.paper import Paper, PaperCurve, PaperRow, the_paper
from multistream.spec import parse_specs
from multistream.training.jobs import PlannedRun

if TYPE_CHECKING:
    from multistream.training.engines import Engine

TARGETS = ("table1", "fig3", "fig4", "fig5")
FUSED = "early_all"
"""The key of the row of figures 3 and 5."""


@dataclass(frozen=True)
class Request:
    """A request to reproduce: data, streams that replace those of the paper, and the number of runs of each row."""

    recipe: Recipe
    """The settings of data, training and machine; each row defines its network."""
    streams: Mapping[str, str]
    """{key: spec} for the paper's keys object, places and anp; rows with a missing key are left out."""
    weights: Mapping[str, str]
    inputs: Mapping[str, str]
    out: Path
    splits: int = 1
    """The number of splits; 1 with folds, which are the splits."""
    seeds: int = 1
    engine: Engine | None = None
    """The engine that trains the runs; None trains one after the other in this process."""

    @property
    def label_sets(self) -> bool:
        """Whether the photos may have several labels."""
        return LabelColumns.parse(self.recipe.data.label) is not None

    @property
    def paper(self) -> Paper:
        """The paper's rows and curves that apply to these photos."""
        return the_paper().for_label_sets() if self.label_sets else the_paper()


def stream_places(text: str, paper: Paper) -> dict[str, str]:
    """Parses `object=object,places=scenes,anp=anp` to {key: spec}. Raises UsageError for a key not in the paper."""
    known = tuple(dict.fromkeys(stream for row in paper.rows.values() for stream in row.streams))
    specs = {spec.key: spec.part for spec in parse_specs(text)}
    if unknown := [key for key in specs if key not in known]:
        right = f"The paper's streams are {', '.join(known)}: write, for example, object={specs[unknown[0]]}."
        raise UsageError("--streams", f"{unknown[0]!r} is not a stream of the paper.", right=right)
    return specs


def rows_needed(targets: Sequence[str], paper: Paper, places: Mapping[str, str]) -> tuple[PaperRow, ...]:
    """Returns the rows of the targets whose streams are all given, single-stream rows first.

    Raises UsageError if there is none.
    """
    keys = {"table1": list(paper.rows), "fig3": [FUSED], "fig4": [each.row for each in paper.curves], "fig5": [FUSED]}
    wanted = [paper.rows[key] for target in targets for key in keys.get(target, ())]
    joined = [paper.rows[key] for row in wanted for key in row.branches]
    complete = [row for row in dict.fromkeys([*wanted, *joined]) if set(paper.streams_of(row)) <= set(places)]
    if not complete:
        what = f"no row of {', '.join(targets)} has all of its streams."
        raise UsageError("--streams", what, right="Write object=SPEC,places=SPEC,anp=SPEC.")
    return tuple(sorted(complete, key=lambda row: bool(row.fusion)))


def all_planned(request: Request, paper: Paper, targets: Sequence[str]) -> tuple[PlannedRun, ...]:
    """Returns all training runs of the targets: the rows, and for figure 4 the truncated networks."""
    runs = planned(request, paper, rows_needed(targets, paper, request.streams))
    for curve in curves_needed(request, paper) if "fig4" in targets else ():
        row = paper.rows[curve.row]
        for depth in range(1, len(stages_of(request, paper, row))):
            runs += planned(request, paper, [row], depth=depth)
    return runs


def curves_needed(request: Request, paper: Paper) -> list[PaperCurve]:
    """Returns the curves of figure 4 whose stream is given."""
    return [curve for curve in paper.curves if set(paper.rows[curve.row].streams) <= set(request.streams)]


def stages_of(request: Request, paper: Paper, row: PaperRow) -> tuple[str, ...]:
    """Returns the stages of a single-stream row, from shallow to deep; builds its stream without weights."""
    from multistream.data.layouts.data_source import open_table
    from multistream.runs.composition import compose_network  # imports torch, which --help avoids

    recipe = _recipe(request, paper, row, next(_units(request))).updated({"network": {"weights": {}}})
    table = open_table(recipe.data.source, label=recipe.data.label, allow_outside=recipe.data.allow_outside)
    (branch,) = compose_network(recipe, table, streams=None).branches.values()
    return tuple(branch.stream.stages)


def planned(request: Request, paper: Paper, rows: Sequence[PaperRow], *, depth: int = 0) -> tuple[PlannedRun, ...]:
    """Returns the training runs of these rows for each split and seed; `depth` keeps the first stages, 0 keeps all."""
    runs = []
    for row in rows:
        name, folder, network = row.name, request.out / "runs" / row.key, {}
        if depth:
            name += ", GAP 1" if depth == 1 else f", GAP 1-{depth}"  # the names of figure 4
            folder = folder.with_name(f"{row.key}_gap{depth}")
            network = {"depth": dict.fromkeys(row.streams, depth)}
        for unit in _units(request):
            recipe = _recipe(request, paper, row, unit).updated({"network": network})
            runs.append(PlannedRun(name, recipe, folder / unit.name))
    return tuple(runs)


@dataclass(frozen=True)
class _Unit:
    """One split and seed."""

    split_seed: int
    seed: int
    name: str


def _units(request: Request) -> Iterator[_Unit]:
    first, base = request.recipe.data.split_seed, request.recipe.training.seed
    for split in range(first, first + request.splits):
        for seed in range(base, base + request.seeds):
            yield _Unit(split, seed, f"split-{split}-seed-{seed}")


def _recipe(request: Request, paper: Paper, row: PaperRow, unit: _Unit) -> Recipe:
    network = _joined(request, paper, row, unit) if row.fusion else _alone(request, row)
    network["inputs"] = {key: path for key, path in request.inputs.items() if key in network["streams"]}
    own = {"data": {"split_seed": unit.split_seed}, "training": {"seed": unit.seed}, "network": network}
    return request.recipe.updated(own)


def _joined(request: Request, paper: Paper, row: PaperRow, unit: _Unit) -> dict[str, Any]:
    """Returns the network settings of a row that fuses the trained branches of other rows."""
    branches = {stream: key for key in row.branches for stream in paper.rows[key].streams}
    folders = {stream: request.out / "runs" / key / unit.name for stream, key in branches.items()}
    streams = {stream: str(folder.resolve()) for stream, folder in folders.items()}
    return {"fusion": row.fusion, "streams": streams, "freeze": ["branches"]}


def _alone(request: Request, row: PaperRow) -> dict[str, Any]:
    weights = {key: request.weights[key] for key in row.streams if key in request.weights}
    streams = {key: request.streams[key] for key in row.streams}
    return {"temporal": row.temporal, "streams": streams, "weights": weights}
