"""What `extract` works on: the streams of a run or of a recipe, and all photos of a set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from multistream.console import Say
from multistream.data.layouts.data_source import open_table
from multistream.data.loading import Photos
from multistream.data.photos import make_photos
from multistream.data.side_inputs import gather
from multistream.data.table import Table
from multistream.errors import UsageError
from multistream.features.key import why_not_cached
from multistream.interfaces import Stream
from multistream.network.branch import Branch
from multistream.network.network import MultiStream
from multistream.recipe import DataSettings, Recipe, RuntimeSettings
from multistream.runs.composition import compose_network, settle_weights, with_instances
from multistream.runs.model_file import load_model
from multistream.runtime.device import Runtime
from multistream.runtime.precision_check import settle


@dataclass(frozen=True)
class Subject:
    """A network whose streams stay as they are, on its device, and the photos that it is to look at."""

    network: MultiStream
    photos: Photos
    runtime: Runtime
    instances: frozenset[str] = frozenset()
    """Branches composed of an instance, whose features cannot be kept."""

    @property
    def pictures(self) -> dict[str, Branch]:
        """The branches that read photos or maps, and whose features can be kept."""
        named = self.network.branches.items()
        return {key: branch for key, branch in named if not branch.reads_vector and key not in self.instances}


def of_run(
    run: str | Path,
    *,
    data: str,
    label: str,
    inputs: Mapping[str, str],
    device: str,
    precision: str,
    say: Say,
    streams: Mapping[str, Stream] | None = None,
) -> Subject:
    """The streams of a run over its own photos, of all parts, or over `data`."""
    model = load_model(run, streams=streams)
    settings, runtime = model.recipe.data, model.recipe.runtime
    label = label or ("" if data else settings.label)
    table = open_table(data or settings.source, label=label, allow_outside=settings.allow_outside)
    sources = {**({} if data else model.recipe.network.inputs), **inputs}
    return _subject(model.network, table, settings, sources, _on(runtime, device, precision), say)


def of_recipe(
    recipe: Recipe,
    *,
    data: str,
    label: str,
    inputs: Mapping[str, str],
    device: str,
    precision: str,
    say: Say,
    streams: Mapping[str, Stream] | None = None,
) -> Subject:
    """The streams that a recipe composes, with its weights, over its photos or over `data`."""
    recipe = with_instances(recipe, streams or {})
    if not recipe.network.streams:
        raise UsageError("streams", "none is given.", right="At least one is needed, as in --streams object.")
    settings = recipe.data
    source = data or settings.source
    table = open_table(source, label=label or settings.label, allow_outside=settings.allow_outside)
    recipe = recipe.updated(
        {
            "data": {"image_size": settings.image_size or table.image_size},
            "network": {"inputs": {**recipe.network.inputs, **inputs}},
        }
    )
    network = compose_network(recipe, table, streams=streams)
    settle_weights(recipe, network, is_demo=not source)
    runtime = _on(recipe.runtime, device, precision)
    return _subject(network, table, recipe.data, recipe.network.inputs, runtime, say)


def _subject(
    network: MultiStream,
    table: Table,
    settings: DataSettings,
    sources: Mapping[str, str],
    runtime: RuntimeSettings,
    say: Say,
) -> Subject:
    say(f"data: {table.name}, {len(table):,} images")
    network.freeze("streams")
    pictures = {key: branch.stream.input for key, branch in network.branches.items() if not branch.reads_vector}
    if not pictures:
        raise UsageError("extract", "no stream reads images.", right="Vectors need no extraction.")
    for key in set(network.branches) - set(pictures):
        say(f"features: {key} is skipped: its vectors are already given")
    names = {*pictures, *(each.name for each in pictures.values())}
    own = {name: path for name, path in sources.items() if name in names}
    side_inputs = gather(table, pictures, own, resize=settings.resize)
    for note in side_inputs.notes:
        say(f"data: {note}")
    photos = make_photos(table, network.inputs, side_inputs, replace(settings, on_bad_image="report"))
    instances = frozenset(key for key in pictures if (plan := network.branches[key].plan) and plan.is_instance)
    if instances and instances != set(pictures):
        keys = ", ".join(sorted(instances))
        say(f"features: {keys} not extracted: given as a Python object, whose settings are unknown")
    else:
        instances = frozenset()
    subject = Subject(network, photos, settle(runtime, network, say=say), instances)
    for key, branch in subject.pictures.items():
        if why := why_not_cached(branch, photos):
            raise UsageError("extract", f"the features of {key} cannot be kept: {why}.")
    return subject


def _on(runtime: RuntimeSettings, device: str, precision: str) -> RuntimeSettings:
    return replace(runtime, device=device or runtime.device, precision=precision or runtime.precision)  # type: ignore[arg-type]  # checked inside
