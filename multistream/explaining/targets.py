"""The explained score: a class's logit or probability, or the difference between two classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from multistream.errors import UsageError, check_choice, did_you_mean

Scale = Literal["logit", "probability"]
WORDS = ("predicted", "true")
"""Targets whose class depends on the photo."""


@dataclass(frozen=True)
class Target:
    """The explained class: a name, `predicted` or `true` (the photo's label); with `against`, the difference to that.

    >>> Target("fear", against="awe").check(["awe", "fear"])
    """

    name: str = "predicted"
    against: str = ""
    scale: str = "logit"

    def check(self, classes: Sequence[str]) -> None:
        """Raises UsageError for an unknown class or scale."""
        for option, value in (("--target", self.name), ("--against", self.against)):
            if value not in (*WORDS, *classes) and (value or option == "--target"):
                raise UsageError(option, f"{value!r} is not a class.", right=did_you_mean(value, [*classes, *WORDS]))
        if self.name == self.against:
            raise UsageError("--against", f"{self.against!r} is the target itself, so the difference is zero.")
        check_choice("--scale", self.scale, ("logit", "probability"))

    def check_label_sets(self) -> None:
        """Raises UsageError if the target needs photos with exactly one label."""
        if self.needs_labels:
            do = "Name a class."
            raise UsageError("--target", "true means the one label of a photo, which may have several here.", do=do)
        if self.scale == "probability":
            what = "probabilities of several labels do not sum to 1, so there is nothing to share out."
            raise UsageError("--scale", what, do="Leave it at logit.")

    @property
    def needs_labels(self) -> bool:
        """Whether the target or the class it is compared against is the photo's label."""
        return "true" in (self.name, self.against)

    def of(
        self, probabilities_BK: Tensor, labels_B: Tensor, classes: Sequence[str], *, temperature: float = 1.0
    ) -> TargetColumns:
        """Returns the columns of the target in each photo of a batch, from its probabilities and labels."""
        rows = self._column(self.name, probabilities_BK, labels_B, classes)
        against = self._column(self.against, probabilities_BK, labels_B, classes) if self.against else None
        return TargetColumns(rows, against, "probability" if self.scale == "probability" else "logit", temperature)

    @staticmethod
    def _column(name: str, probabilities_BK: Tensor, labels_B: Tensor, classes: Sequence[str]) -> Tensor:
        if name == "true":
            return labels_B.to(probabilities_BK.device)
        predicted = probabilities_BK.argmax(1)
        return predicted if name == "predicted" else torch.full_like(predicted, list(classes).index(name))


@dataclass(frozen=True)
class TargetColumns:
    """The target's column for each photo of a batch (B,), the column it is compared against or None, and the scale.

    Probabilities are those of the logits divided by `temperature`, as in `MultiStream.probabilities`.
    """

    rows: Tensor
    against: Tensor | None
    scale: Scale
    temperature: float = 1.0

    def pick(self, values: Tensor) -> Tensor:
        """Selects each photo's target, minus the class it is compared against: (B, K, ...) -> (B, ...)."""
        places = torch.arange(len(values), device=values.device)
        picked = values[places, self.rows.to(values.device)]
        return picked if self.against is None else picked - values[places, self.against.to(values.device)]

    def score(self, logits: Tensor) -> Tensor:
        """Returns the explained score (B,) of logits (B, K), or (n x B,) of logits (n x B, K) of n repeated batches."""
        times = len(logits) // len(self.rows)
        against = None if self.against is None else self.against.repeat(times)
        values = logits if self.scale == "logit" else (logits / self.temperature).softmax(1)
        return replace(self, rows=self.rows.repeat(times), against=against).pick(values)

    def of_class(self, column: int) -> TargetColumns:
        """Returns columns of the same class for every photo, without a comparison."""
        return replace(self, rows=torch.full_like(self.rows, column), against=None)
