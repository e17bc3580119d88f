"""What the recipes of runs differ in, and which runs are equal but for seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multistream import runs
from multistream.comparison.run_results import Result
from multistream.recipe import Recipe, differences

SEEDS = ("training.seed", "data.split_seed")
MACHINE = frozenset(
    (
        *("runtime.device", "runtime.compile", "runtime.channels_last", "runtime.workers", "runtime.threads"),
        "training.checkpoint_minutes",
    )
)
"""Where and how fast, which is not what was meant. Precision is not among them: it rounds."""
RUN_VALUED = ("network.streams.", "network.weights.")
KEYED = (
    *RUN_VALUED,
    *("network.depth.", "network.inputs.", "options.streams.", "training.rates.", "training.decays."),
)
"""Tables by stream key: a row without the stream says nothing there."""

Groups = tuple[tuple[Result, ...], ...]


def grouped(results: Sequence[Result]) -> Groups:
    """Runs equal but for their seeds together, in the order given; the same seeds twice are two groups."""
    groups: list[list[Result]] = []
    for result in results:
        for group in groups:
            known = {other.seeds for other in group}
            if result.seeds not in known and not _meant(group[0].recipe, result.recipe):
                group.append(result)
                break
        else:
            groups.append([result])
    return tuple(map(tuple, groups))


def what_differs(groups: Groups) -> dict[str, tuple[Any, ...]]:
    """{setting: its value in every group}, for settings in which groups differ; a tuple of seeds for several runs.

    Where groups have other streams, `streams` names them, and settings of a stream that some lack do not count.
    """
    recipes = [group[0].recipe for group in groups]
    streams = [tuple(recipe.network.streams) for recipe in recipes]
    columns: dict[str, tuple[Any, ...]] = {}
    if len(set(streams)) > 1:
        columns["streams"] = tuple(map("+".join, streams))
    for name, values in _differing_values(recipes).items():
        having = [value for value, keys in zip(values, streams, strict=True) if _concerns(name, keys)]
        if having.count(having[0]) < len(having):
            columns[name] = values
    return columns | _seeds(groups)


def _differing_values(recipes: Sequence[Recipe]) -> dict[str, tuple[Any, ...]]:
    """{setting: its value in every recipe}, for settings that some recipe means differently than the first."""
    found = [{name: (left, right) for name, left, right in _meant(recipes[0], recipe)} for recipe in recipes]
    of_first = {name: left for each in found for name, (left, _) in each.items()}
    return {name: tuple(each.get(name, (left, left))[1] for each in found) for name, left in sorted(of_first.items())}


def _meant(a: Recipe, b: Recipe) -> list[tuple[str, Any, Any]]:
    """What two recipes mean differently: neither seeds, nor the machine, nor branches that differ in seeds alone."""
    return [
        (name, left, right)
        for name, left, right in differences(a, b)
        if name not in SEEDS and name not in MACHINE and not _same_run(name, left, right)
    ]


def _same_run(name: str, left: Any, right: Any) -> bool:
    """Whether both are runs, of which one branch comes, and equal but for seeds."""
    if not name.startswith(RUN_VALUED):
        return False
    folders = [Path(str(value)).expanduser() for value in (left, right)]
    if not all((folder / runs.RECIPE).is_file() for folder in folders):
        return False
    return not _meant(*(Recipe.load(folder) for folder in folders))


def _concerns(name: str, keys: Sequence[str]) -> bool:
    """Whether a setting says something of a composition with these streams."""
    prefix = next((prefix for prefix in KEYED if name.startswith(prefix)), None)
    return prefix is None or name.removeprefix(prefix).split(".")[0] in keys


def _seeds(groups: Groups) -> dict[str, tuple[Any, ...]]:
    """The seeds of each group, where there is more than one seed in all."""
    columns = {}
    for index, name in enumerate(SEEDS):
        values = [list(dict.fromkeys(result.seeds[index] for result in group)) for group in groups]
        if len(set().union(*values)) > 1:
            columns[name] = tuple(map(_one_or_all, values))
    return columns


def _one_or_all(seeds: Sequence[int]) -> int | tuple[int, ...]:
    return seeds[0] if len(seeds) == 1 else tuple(seeds)
