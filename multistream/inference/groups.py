"""Groups: photos are read into arrays and run through a network in groups of a fixed size."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.data.decoding import BadImage, Encoded, Photo
from multistream.data.given_photos import GivenPhoto
from multistream.data.loading import make_decoder
from multistream.data.prefetch import Prefetch
from multistream.data.side_lookup import Lookup
from multistream.errors import DataError
from multistream.features.pooled_groups import GROUP
from multistream.inference.missing import MissingPolicy, absent_pooled, noun_of
from multistream.inputs import Input, Vector, side_inputs_of
from multistream.network.network import MultiStream
from multistream.nn.threads import threads
from multistream.recipe import Recipe
from multistream.runs.model_file import LoadedModel
from multistream.runtime.cuda_graphs import PooledGroups
from multistream.runtime.device import resolve_again
from multistream.runtime.memory import exhausted

__all__ = ["GROUP", "GroupPredictor", "GroupReader", "ReadPhoto"]

REFUSE = MissingPolicy()
"""The policy that refuses a photo without a required input."""


@dataclass(frozen=True)
class ReadPhoto:
    """One photo: "image" uint8 (3, S, S), vectors (D,) and maps (C, S, S) by key, and the keys of the inputs it lacks.

    Until `GroupReader.finish`, its picture is the partly decoded `begun`.
    """

    arrays: Mapping[str, NDArray[np.generic]]
    lacking: frozenset[str] = field(default_factory=frozenset)
    begun: Photo | Encoded | None = None


class GroupReader:
    """Reads photos, and computes pooled features of the streams that read `inputs`, up to GROUP photos at a time."""

    def __init__(
        self,
        network: MultiStream,
        recipe: Recipe,
        *,
        device: str,
        precision: str,
        inputs: Mapping[str, Input],
        missing: MissingPolicy = REFUSE,
    ) -> None:
        self.missing, self.inputs = missing, dict(inputs)
        self.side_inputs = side_inputs_of(inputs)
        self.runtime = resolve_again(recipe, device=device, precision=precision)
        self.network = self.runtime.place(network).eval()
        self.groups = PooledGroups(self.runtime, size=GROUP)
        self.decoder = make_decoder(self.inputs, recipe.data)
        self.zeros = {key: np.zeros(each.shape, dtype=np.float32) for key, each in self.side_inputs.items()}
        fillings = {"mean": self.network.raw_means, "zero": self.zeros}.get(missing.policy, {})
        vectors = [key for key, each in self.side_inputs.items() if isinstance(each, Vector)]
        self.filling: dict[str, NDArray[np.generic]] = {key: fillings[key] for key in vectors if key in fillings}
        """The vectors that replace missing ones, by key, if the policy fills them."""

    def check_lookups(self, lookups: Mapping[str, Lookup]) -> None:
        """Raises DataError for a stream without a source of vectors or maps, unless the policy continues without it."""
        unknown = [key for key in self.side_inputs if key not in lookups]
        for key in unknown if not self.missing.fills else ():
            kind, place = ("vectors", "FILE") if isinstance(self.inputs[key], Vector) else ("maps", "FOLDER")
            do = f"Pass --input {key}={place}, or continue without them: --missing drop."
            raise DataError(f"input.{key}", f"this stream needs {kind}, but none were given.", do=do)

    def read(self, photo: GivenPhoto, lookups: Mapping[str, Lookup], index: int) -> ReadPhoto | str:
        """Reads one photo in a decoding thread; returns a short reason if it cannot be used.

        `index` is its number in the list.
        """
        try:
            arrays = self._side_arrays(photo, lookups, index)
        except BadImage as error:
            return f"map {error.reason}"
        lacking = [key for key in self.side_inputs if key not in arrays]
        is_refused = not self.missing.fills_maps or (self.missing.policy == "drop" and len(lacking) == len(self.inputs))
        if lacking and is_refused:
            return f"no {noun_of(self.network, lacking[0])}"
        try:
            return ReadPhoto(arrays, frozenset(lacking), photo.begin(self.decoder) if self.decoder else None)
        except BadImage as error:
            return error.reason

    def finish(self, read: Sequence[ReadPhoto | str]) -> list[ReadPhoto | str]:
        """Decodes the pictures that are not decoded yet, all in one call."""
        if self.decoder is None:
            return list(read)
        begun = [each.begun for each in read if isinstance(each, ReadPhoto) and each.begun is not None]
        decoded = iter(self.decoder.finish(begun))
        return [each if isinstance(each, str) else _with_picture(each, next(decoded)) for each in read]

    def _side_arrays(
        self, photo: GivenPhoto, lookups: Mapping[str, Lookup], index: int
    ) -> dict[str, NDArray[np.generic]]:
        """Returns a photo's vectors and maps, with those the policy fills in. Raises BadImage for a damaged map."""
        found = {key: lookups[key](photo.ids, index) for key in self.side_inputs if key in lookups}
        return {**self.filling, **{key: array for key, array in found.items() if array is not None}}

    @torch.no_grad()
    def pooled(
        self, photos: Sequence[ReadPhoto], *, fill_up: bool = True, prefetch: Prefetch | None = None
    ) -> dict[str, dict[str, Tensor]]:
        """Returns {key: {stage: (n, P)}} of n <= GROUP photos.

        With `fill_up` a whole group is computed, so that results are bit-identical. `prefetch` computes the features
        while it decodes further photos.
        """
        rows = filled_up(photos) if fill_up else photos
        what = f"{len(rows)} photos do not fit at once into the memory of {self.runtime}."
        with exhausted("photos", what, do="Free memory, or use a device with more: --device cpu."):
            return (prefetch or Prefetch()).compute(partial(self._pooled, rows))

    def _pooled(self, rows: Sequence[ReadPhoto]) -> dict[str, dict[str, Tensor]]:
        batch = self._batch(rows)
        branches = {key: self.network.branches[key] for key in self.inputs}
        return {key: self.groups.pool(branch, batch[branch.entry(key, batch)]) for key, branch in branches.items()}

    def _batch(self, rows: Sequence[ReadPhoto]) -> dict[str, Tensor]:
        """Returns the streams' inputs by name, with zeros if a photo has none."""
        arrays = {key: np.stack([row.arrays.get(key, self.zeros[key]) for row in rows]) for key in self.side_inputs}
        if self.decoder:
            arrays["image"] = np.stack([row.arrays["image"] for row in rows])
        return self.runtime.send({name: torch.from_numpy(array) for name, array in arrays.items()})


class GroupPredictor(GroupReader):
    """Reads photos, and returns their class probabilities (n, K), for up to GROUP photos at a time."""

    def __init__(
        self,
        model: LoadedModel,
        *,
        device: str = "auto",
        precision: str = "auto",
        missing: str = "",
        without: Collection[str] = (),
    ) -> None:
        policy = MissingPolicy.settle(model.network, model.recipe.data, missing=missing, without=without)
        inputs = {key: each for key, each in model.inputs.items() if key not in policy.without}
        super().__init__(model.network, model.recipe, device=device, precision=precision, inputs=inputs, missing=policy)

    @torch.no_grad()
    def probabilities(
        self, photos: Sequence[ReadPhoto], *, fill_up: bool = True, prefetch: Prefetch | None = None
    ) -> NDArray[np.float64]:
        """Returns probabilities (n, K) of n <= GROUP photos; `fill_up` and `prefetch` as in `pooled`.

        Heads and the fusion run in one thread: they are small, and the number of threads would change the last bits.
        """
        rows = filled_up(photos) if fill_up else photos
        absent = absent_pooled(self.network, self.missing.without, len(rows))
        pooled = {**self.pooled(photos, fill_up=fill_up, prefetch=prefetch), **absent}
        with threads(1):
            logits = self.missing.logits(self.network, pooled, self._present(rows))
            probabilities: NDArray[np.float64] = self.network.probabilities(logits).cpu().numpy()
        return probabilities[: len(photos)]

    def _present(self, rows: Sequence[ReadPhoto]) -> dict[str, Tensor]:
        """Returns {key: (n,) bool} for the streams that some photos lack."""
        without, device = self.missing.without, self.runtime.device
        lacking = without.union(*(row.lacking for row in rows))
        return {key: torch.tensor([key not in row.lacking | without for row in rows], device=device) for key in lacking}


def _with_picture(read: ReadPhoto, photo: Photo | BadImage) -> ReadPhoto | str:
    if isinstance(photo, BadImage):
        return photo.reason
    return ReadPhoto({**read.arrays, "image": photo.pixels}, read.lacking)


def filled_up(photos: Sequence[ReadPhoto]) -> list[ReadPhoto]:
    """Fills a group by repeating the last photo."""
    return [*photos, *([photos[-1]] * (GROUP - len(photos)))]
