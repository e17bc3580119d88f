"""The settings in which runs differ, and groups of runs that differ only in seeds."""

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
"""Settings of the machine, which are not compared. Precision is compared, because it changes the rounding."""
RUN_VALUED = ("network.streams.", "network.weights.")
KEYED = (
    *RUN_VALUED,
    *("network.depth.", "network.inputs.", "options.streams.", "training.rates.", "training.decays."),
)
"""Tables by stream key, which do not apply to rows without the stream."""

Groups = tuple[tuple[Result, ...], ...]


def grouped(results: Sequence[Result]) -> Groups:
    """Groups runs that differ only in seeds, in the given order; runs with equal seeds are in different groups."""
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
    """Returns {setting: its value in each group} of the settings in which groups differ; several seeds are a tuple.

    If groups have different streams, `streams` names them. Settings of a stream are compared only between the groups
    that have it.
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
    """Returns {setting: its value in each recipe} of the settings in which some recipe differs from the first."""
    changes = [{name: (left, right) for name, left, right in _meant(recipes[0], recipe)} for recipe in recipes]
    of_first = {name: left for each in changes for name, (left, _) in each.items()}
    return {name: tuple(each.get(name, (left, left))[1] for each in changes) for name, left in sorted(of_first.items())}


def _meant(a: Recipe, b: Recipe) -> list[tuple[str, Any, Any]]:
    """Returns the differing settings of two recipes, without seeds, machine settings, and branches of equal runs."""
    return [
        (name, left, right)
        for name, left, right in differences(a, b)
        if name not in SEEDS and name not in MACHINE and not _same_run(name, left, right)
    ]


def _same_run(name: str, left: Any, right: Any) -> bool:
    """Returns whether both values of a stream or its weights are runs that differ only in seeds."""
    if not name.startswith(RUN_VALUED):
        return False
    folders = [Path(str(value)).expanduser() for value in (left, right)]
    if not all((folder / runs.RECIPE).is_file() for folder in folders):
        return False
    return not _meant(*(Recipe.load(folder) for folder in folders))


def _concerns(name: str, keys: Sequence[str]) -> bool:
    """Returns whether a setting applies to a composition with these streams."""
    prefix = next((prefix for prefix in KEYED if name.startswith(prefix)), None)
    return prefix is None or name.removeprefix(prefix).split(".")[0] in keys


def _seeds(groups: Groups) -> dict[str, tuple[Any, ...]]:
    """Returns the seeds of each group, for each kind of seed with more than one value in total."""
    columns = {}
    for index, name in enumerate(SEEDS):
        values = [list(dict.fromkeys(result.seeds[index] for result in group)) for group in groups]
        if len(set().union(*values)) > 1:
            columns[name] = tuple(map(_one_or_all, values))
    return columns


def _one_or_all(seeds: Sequence[int]) -> int | tuple[int, ...]:
    return seeds[0] if len(seeds) == 1 else tuple(seeds)
