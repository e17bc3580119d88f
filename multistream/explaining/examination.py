"""Examining explanations of many photos in one pass: galleries, faithfulness, and evidence in known places."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multistream.data.loading import loaded
from multistream.data.photos import make_photos
from multistream.data.side_inputs import gather
from multistream.data.table import Table
from multistream.errors import DataError
from multistream.explaining.attribution import attribute
from multistream.explaining.evidence import Evidence, Method, evidence_of
from multistream.explaining.faithfulness import Faithfulness, FaithfulnessMeter, answering, photo_streams
from multistream.explaining.gallery import Collector, Entry, Outcome, Shown, decisions_of, together
from multistream.explaining.gradients import Score
from multistream.explaining.masks import ReadMask
from multistream.explaining.observing import observe
from multistream.explaining.places import Place, Places
from multistream.inference.model import Model
from multistream.inputs import Image, Vector
from multistream.runtime.device import Runtime, available_workers

CHUNK = 16
TOP = 8
"""Entries of a vector that a gallery names: those with the highest scores."""

Choose = Callable[[Tensor, Tensor], Tensor]
"""Probabilities (B, K) and labels (B,) -> the class to explain of each photo, (B,)."""


@dataclass(frozen=True)
class Examined:
    """A batch with the evidence for `targets` (B,); `rows` are the photos' places in the table."""

    rows: list[int]
    batch: Mapping[str, Tensor]
    targets: Tensor
    fused: Tensor
    """(B, K) probabilities."""
    found: Evidence
    decisions: list[dict[str, str]]
    """What each stream says of each photo by itself."""


class Examination:
    """Photos of a model, batch by batch in constant memory, with their evidence for a class chosen by `choose`."""

    def __init__(
        self, model: Model, table: Table, *, sources: Mapping[str, str], choose: Choose, runtime: Runtime
    ) -> None:
        self.model, self.table, self.choose, self.runtime = model, table, choose, runtime
        settings = replace(model.recipe.data, on_bad_image="report")
        side_inputs = gather(
            table, model.inputs, dict(sources), missing=settings.missing_vectors, resize=settings.resize
        )
        self.network = runtime.place(model.network)
        self.photos = make_photos(table, self.network.inputs, side_inputs, settings)
        self.usable = np.flatnonzero(side_inputs.usable)
        self.vocabularies = {k: each.vocabulary for k, each in model.inputs.items() if isinstance(each, Vector)}

    @property
    def size(self) -> int:
        """The side of the square that the photo streams see."""
        return max((each.size for each in self.model.inputs.values() if isinstance(each, Image)), default=0)

    def batches(self) -> Iterator[Examined]:
        """All photos that can be used, in their order."""
        for batch in loaded(self.photos, self.usable, batch_size=CHUNK, workers=available_workers()):
            rows = batch.pop("index").tolist()
            if rows:
                yield self._examined(rows, self.runtime.send(batch))

    def _examined(self, rows: list[int], batch: dict[str, Tensor]) -> Examined:
        seen = observe(self.network, batch, runtime=self.runtime)
        fused = seen.fused
        targets = self.choose(fused, torch.from_numpy(self.table.labels[rows])).to(self.runtime.device)
        shapley = attribute(self.network, seen.pooled, stages=False).streams.cpu()
        keys = list(self.network.branches)
        own = {key: logits.cpu() for key, logits in seen.output.streams.items()}
        decisions = [
            decisions_of(
                self.model.classes,
                probabilities={key: logits[b] for key, logits in own.items()},
                shapley_KS=shapley[b],
                keys=keys,
            )
            for b in range(len(rows))
        ]
        found = evidence_of(self.network, seen, targets=targets)
        return Examined(rows, batch, targets, fused, found, decisions)

    def shown(self, examined: Examined) -> Iterator[Shown]:
        """The batch's photos as a gallery shows them; those without a label are left out."""
        classes = self.model.classes
        for b, row in enumerate(examined.rows):
            label = int(self.table.labels[row])
            if label < 0:
                continue
            image = examined.batch.get("image")
            yield Shown(
                name=self.table.ids[row],
                label=classes[label],
                predicted=classes[int(examined.fused[b].argmax())],
                target=classes[int(examined.targets[b])],
                image=None if image is None else image[b].cpu(),
                maps={k: together({s: m[b] for s, m in stages.items()}) for k, stages in examined.found.maps.items()},
                decisions=examined.decisions[b],
                entries={key: self._entries(examined, key, b) for key in examined.found.vectors},
            )

    def _entries(self, examined: Examined, key: str, b: int) -> list[Entry]:
        """The entries of a vector with the highest scores."""
        branch = self.network.branches[key]
        scores, given = examined.batch[branch.entry(key, examined.batch)][b].cpu(), examined.found.vectors[key][b].cpu()
        names = self.vocabularies.get(key) or tuple(f"entry {i}" for i in range(len(scores)))
        top = scores.topk(min(TOP, len(scores))).indices.tolist()
        return [Entry(names[i], float(scores[i]), float(given[i])) for i in top]

    def measure(self, meter: FaithfulnessMeter, examined: Examined) -> None:
        """Adds the batch to a meter: the maps of all photo streams together, and of each by itself if they are more."""
        keys = photo_streams(self.network)
        if not keys:
            raise DataError("--faithfulness", "no stream looks at photos.", right="It takes pixels of photos away.")
        densities = examined.found.densities(self.size)
        maps = {"all photo streams" if len(keys) > 1 else keys[0]: torch.stack([densities[k] for k in keys]).sum(0)}
        if len(keys) > 1:
            maps |= {f"{key} alone": densities[key] for key in keys}
        image = examined.batch["image"]
        answer = answering(
            self.network, examined.batch, keys=keys, score=_probability(examined.targets), runtime=self.runtime
        )
        meter.add(answer, image, maps)

    def places(self, found: Places, examined: Examined, masks: ReadMask) -> None:
        """Adds the batch to what is known of places."""
        inside = torch.from_numpy(np.stack([masks(row) for row in examined.rows]))
        for key in photo_streams(self.network):
            found.add(key, examined.found.densities(self.size)[key], inside)


def _probability(targets: Tensor) -> Callable[[Tensor], Score]:
    def score(rows: Tensor) -> Score:
        return lambda logits: logits.softmax(1)[torch.arange(len(rows), device=logits.device), targets[rows]]

    return score


def how_told(method: Method, *, own_heads: bool) -> str:
    """What a gallery's maps are and how its streams decide by themselves, in a line."""
    maps = "the exact decomposition" if method == "exact" else "integrated gradients from the average photo"
    by = "its own classifier" if own_heads else "its largest Shapley value (early fusion has no classifier a stream)"
    return f"Maps: {maps}, all stages together, by area; orange for, violet against. A stream says: by {by}."


@dataclass(frozen=True)
class Results:
    """What an examination found of `n` photos, of which `left_out` could not be used."""

    n: int
    left_out: int
    method: Method
    how: str
    """What the maps are, and how streams decide by themselves."""
    faithfulness: tuple[Faithfulness, ...]
    places: tuple[Place, ...]
    outcomes: Mapping[Outcome, int]
    """Photos that all, some or none of the streams get right by themselves; empty without a gallery."""

    def to_dict(self) -> dict[str, Any]:
        """The object that `explain --faithfulness`, `--masks` and `--gallery` print with --json."""
        return {
            "n": self.n,
            "left_out": self.left_out,
            "method": self.method,
            "faithfulness": [each.to_dict() for each in self.faithfulness],
            "places": [each.to_dict() for each in self.places],
            "outcomes": dict(self.outcomes),
        }


def examine(
    examination: Examination,
    *,
    meter: FaithfulnessMeter | None = None,
    masks: ReadMask | None = None,
    gallery: Collector | None = None,
    tick: Callable[[int], None] = lambda _: None,
) -> Results:
    """One pass over the photos for all that is asked. DataError where no photo can be used."""
    found, n = Places(), 0
    method: Method = "exact"
    for examined in examination.batches():
        n += len(examined.rows)
        method = examined.found.method
        if meter:
            examination.measure(meter, examined)
        if masks:
            examination.places(found, examined, masks)
        if gallery:
            for shown in examination.shown(examined):
                gallery.add(shown)
        tick(len(examined.rows))
    if not n:
        raise DataError("explain", "no photo can be used.", do="multistream data scan says why.")
    own_heads = bool(examination.network.fusion.heads)
    return Results(
        n=n,
        left_out=len(examination.table) - n,
        method=method,
        how=how_told(method, own_heads=own_heads),
        faithfulness=meter.results() if meter else (),
        places=found.results() if masks else (),
        outcomes=gallery.counts if gallery else {},
    )
