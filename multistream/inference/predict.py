"""`predict`: class probabilities for photos, in their order; a photo that cannot be used gets a status."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream.data.decode_workers import Pool
from multistream.data.given_photos import GivenPhoto, PhotoLike, given_photos
from multistream.data.layouts.data_source import open_table
from multistream.data.loading import make_decoder
from multistream.data.prefetch import prefetch_for, read_groups
from multistream.data.side_lookup import Lookup, SideSource, side_lookups
from multistream.data.table import Table
from multistream.errors import MultistreamError
from multistream.inference.groups import GROUP, GroupPredictor, ReadPhoto
from multistream.inputs import side_inputs_of
from multistream.label_set_metrics import THRESHOLD
from multistream.network.network import MultiStream
from multistream.runs.model_file import LoadedModel, require_trained
from multistream.runs.predictions_file import SEPARATOR
from multistream.runtime.device import available_workers

NOT_FINITE = "prediction not finite"
"""The status of a photo with NaN probabilities: the weights are damaged, or its vector has extreme values."""

MAX_BYTES = 2**29
"""The maximum number of bytes read from an open file if no stream reads photos."""


@dataclass(frozen=True)
class Prediction:
    """The result for one photo: `status` is "ok" or the reason why the file cannot be used (then there is no label).

    If a photo may have several labels, `labels` lists all predicted ones, and `label` joins their names.
    """

    path: str
    status: str
    label: str | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns a line of `predict --json`."""
        return {
            "path": self.path,
            "status": self.status,
            "label": self.label,
            **({} if self.labels is None else {"labels": list(self.labels)}),
            "probabilities": dict(self.probabilities),
        }


def predict(
    model: LoadedModel,
    images: PhotoLike | Iterable[PhotoLike | GivenPhoto],
    *,
    inputs: Mapping[str, SideSource],
    device: str = "auto",
    precision: str = "auto",
    missing: str = "",
    without: Collection[str] = (),
    say: Callable[[str], object] | None = None,
    whole_groups: bool = False,
) -> Iterator[Prediction]:
    """Yields one Prediction per photo, in input order, for folders all their images. Never raises for a bad image.

    Photos are consumed lazily and decoded in threads; on a CPU the network runs at the same time only if that is
    faster. At most a few groups are held in memory. `missing` is error, drop or mean, for a photo without a vector or
    map ("" for the recipe's choice); `without` leaves streams out by key. `whole_groups` computes a whole group even
    for a shorter list, so that the results are bit-identical to those in a longer list.
    """
    require_trained(model, "predict")
    predictor = GroupPredictor(model, device=device, precision=precision, missing=missing, without=without)
    own = _own_table(model)
    lookups = _side_inputs(model, predictor, inputs, own)
    predictor.check_lookups(lookups)
    photos = as_photos(model, images, say=say, own=own)
    return _predictions(predictor, photos, lookups, whole_groups=whole_groups)


def as_photos(
    model: LoadedModel,
    images: PhotoLike | Iterable[PhotoLike | GivenPhoto],
    *,
    say: Callable[[str], object] | None = None,
    own: Table | None = None,
) -> Iterator[GivenPhoto]:
    """Yields the photos, with the ids that the run's own vectors and maps may have for them."""
    own = own or _own_table(model)
    decoder = make_decoder(model.inputs, model.recipe.data)
    limit = decoder.max_bytes if decoder else MAX_BYTES
    root = own.root.resolve() if own else None
    return given_photos(images, limit=limit, root=root, allow_outside=model.recipe.data.allow_outside, say=say)


def _side_inputs(
    model: LoadedModel, predictor: GroupPredictor, inputs: Mapping[str, SideSource], own: Table | None
) -> dict[str, Lookup]:
    """Returns the sources of vectors and maps: those passed, those of the recipe that exist, those of the data set."""
    named = {name: path for name, path in model.recipe.network.inputs.items() if Path(path).expanduser().exists()}
    sources: dict[str, SideSource] = {**named, **inputs}
    lookups = side_lookups(model.inputs, sources, resize=model.recipe.data.resize, own=own)
    return {key: lookup for key, lookup in lookups.items() if key in predictor.inputs}


def _own_table(model: LoadedModel) -> Table | None:
    """Opens the run's training data if a stream reads more than photos; None if they are not available."""
    settings = model.recipe.data
    if not side_inputs_of(model.inputs):
        return None
    try:
        return open_table(settings.source, label=settings.label, allow_outside=settings.allow_outside)
    except MultistreamError:  # a model may be used without its training photos
        return None


def _predictions(
    predictor: GroupPredictor,
    photos: Iterator[GivenPhoto],
    lookups: Mapping[str, Lookup],
    *,
    whole_groups: bool,
) -> Iterator[Prediction]:
    def read(numbered: tuple[int, GivenPhoto]) -> ReadPhoto | str:
        return predictor.read(numbered[1], lookups, numbered[0])

    numbered = enumerate(photos)
    groups = iter(lambda: list(itertools.islice(numbered, GROUP)), [])
    workers = available_workers()
    prefetch = prefetch_for(predictor.runtime.device, workers=workers)
    fill_up = whole_groups
    threads = predictor.decoder.threads(workers) if predictor.decoder else workers
    with Pool(threads) as pool:  # Pillow releases the GIL while it decodes
        for group in read_groups(pool, groups, read, prefetch=prefetch):
            # A single short group is not filled up. In a longer list every group is, so its last bits do not change.
            fill_up = fill_up or len(group) == GROUP
            outcomes = predictor.finish([future.result() for _, future in group])
            usable = [outcome for outcome in outcomes if isinstance(outcome, ReadPhoto)]
            rows = iter(predictor.probabilities(usable, fill_up=fill_up, prefetch=prefetch) if usable else ())
            for ((_, photo), _), outcome in zip(group, outcomes, strict=True):
                if isinstance(outcome, str):
                    yield Prediction(photo.path, outcome)
                else:
                    yield _prediction(photo.path, predictor.network, next(rows))


def _prediction(path: str, network: MultiStream, row: NDArray[np.float64]) -> Prediction:
    if not np.isfinite(row).all():
        return Prediction(path, NOT_FINITE)
    classes = network.classes
    probabilities = {name: float(p) for name, p in zip(classes, row, strict=True)}
    if network.label_sets:
        labels = tuple(name for name, p in probabilities.items() if p >= THRESHOLD)
        return Prediction(path, "ok", SEPARATOR.join(labels), probabilities, labels)
    return Prediction(path, "ok", classes[int(row.argmax())], probabilities)
