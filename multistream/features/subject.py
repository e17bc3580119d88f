"""The streams of a run or recipe, and the photos whose features `extract` computes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from multistream.console import Say
from multistream.data.layouts.data_source import open_table
from multistream.data.loading import Photos, check_decoder, make_photos
from multistream.data.side_inputs import gather
from multistream.data.table import Table
from multistream.errors import UsageError
from multistream.features.key import why_not_cached
from multistream.inputs import names_of
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
    """A network with frozen streams on its device, and the photos whose features are computed."""

    network: MultiStream
    photos: Photos
    runtime: Runtime
    instances: frozenset[str] = frozenset()
    """Branches of streams that were passed as instances, whose features cannot be cached."""
    settings: RuntimeSettings = field(default_factory=RuntimeSettings)

    @property
    def pictures(self) -> dict[str, Branch]:
        """The branches that read photos or maps, and whose features can be cached."""
        return {key: each for key, each in self.network.picture_branches.items() if key not in self.instances}


@dataclass(frozen=True)
class ExtractionRequest:
    """Replacements for the photos, inputs and machine settings of a run or recipe; empty values change nothing."""

    data: str = ""
    label: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    precision: str = ""
    streams: Mapping[str, Stream] = field(default_factory=dict)
    """Streams that are passed as instances."""

    def runtime(self, settings: RuntimeSettings) -> RuntimeSettings:
        """Returns the runtime settings with this device and precision."""
        device, precision = self.device or settings.device, self.precision or settings.precision
        return replace(settings, device=device, precision=precision)  # type: ignore[arg-type]  # checked inside


def subject_of(source: str | Path | Recipe, request: ExtractionRequest, *, say: Say) -> Subject:
    """Prepares the streams of a run or recipe, for the request's photos or else its own photos of all splits."""
    return of_recipe(source, request, say=say) if isinstance(source, Recipe) else of_run(source, request, say=say)


def of_run(run: str | Path, request: ExtractionRequest, *, say: Say) -> Subject:
    """Prepares the streams of a run, for the request's photos or else its own photos of all splits."""
    model = load_model(run, streams=request.streams)
    settings = model.recipe.data
    label = request.label or ("" if request.data else settings.label)
    table = open_table(request.data or settings.source, label=label, allow_outside=settings.allow_outside)
    sources = {**({} if request.data else model.recipe.network.inputs), **request.inputs}
    return _subject(model.network, table, settings, sources, request.runtime(model.recipe.runtime), say)


def of_recipe(recipe: Recipe, request: ExtractionRequest, *, say: Say) -> Subject:
    """Prepares the streams of a recipe with its weights, for the request's photos or else its own."""
    recipe = with_instances(recipe, request.streams)
    if not recipe.network.streams:
        raise UsageError("streams", "none is given.", right="At least one is needed, as in --streams object.")
    settings = recipe.data
    check_decoder(settings)
    source = request.data or settings.source
    table = open_table(source, label=request.label or settings.label, allow_outside=settings.allow_outside)
    recipe = recipe.updated(
        {
            "data": {"image_size": settings.image_size or table.image_size},
            "network": {"inputs": {**recipe.network.inputs, **request.inputs}},
        }
    )
    network = compose_network(recipe, table, streams=request.streams)
    settle_weights(recipe, network, is_demo=not source)
    return _subject(network, table, recipe.data, recipe.network.inputs, request.runtime(recipe.runtime), say)


def _subject(
    network: MultiStream,
    table: Table,
    settings: DataSettings,
    sources: Mapping[str, str],
    runtime: RuntimeSettings,
    say: Say,
) -> Subject:
    """Freezes the streams, opens their inputs and resolves the device.

    Raises UsageError if a stream cannot be cached.
    """
    say(f"data: {table.name}, {len(table):,} images")
    network.freeze("streams")
    pictures = {key: branch.stream.input for key, branch in network.picture_branches.items()}
    if not pictures:
        raise UsageError("extract", "no stream reads images.", right="Vectors need no extraction.")
    for key in set(network.branches) - set(pictures):
        say(f"features: {key} is skipped: its vectors are already given")
    names = names_of(pictures)
    own = {name: path for name, path in sources.items() if name in names}
    side_inputs = gather(table, pictures, own, resize=settings.resize)
    for note in side_inputs.notes:
        say(f"data: {note}")
    photos = make_photos(table, network.inputs, side_inputs, replace(settings, on_bad_image="report"))
    instances = _instances_to_skip(network, pictures, say=say)
    subject = Subject(network, photos, settle(runtime, network, say=say), instances, runtime)
    for key, branch in subject.pictures.items():
        if why := why_not_cached(branch, photos):
            raise UsageError("extract", f"the features of {key} cannot be kept: {why}.")
    return subject


def _instances_to_skip(network: MultiStream, pictures: Collection[str], *, say: Say) -> frozenset[str]:
    """Returns the streams passed as instances, which are skipped if others remain.

    If there are no others, returns none, and the caller's error names the first instance.
    """
    instances = frozenset(key for key in pictures if (plan := network.branches[key].plan) and plan.is_instance)
    if not instances or instances == set(pictures):
        return frozenset()
    say(f"features: {', '.join(sorted(instances))} not extracted: given as a Python object, whose settings are unknown")
    return instances
