"""Label sets: images that may have several labels, in several columns of 0 and 1 or all in one column.

`data.label` says where they are: `joy,fear,anger` names a column for each class, `tags[;]` one column whose classes are
separated by `;`, and `tags[]` one that holds a list, as JSON lines and parquet files can.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multistream.data.layouts.image_paths import BadPlace
from multistream.errors import UsageError, did_you_mean

_YES, _NO = ("1", "1.0", "true"), ("0", "0.0", "false")
_ONE_COLUMN = re.compile(r"(?P<column>.+)\[(?P<separator>.?)\]")


@dataclass(frozen=True)
class LabelColumns:
    """Where the label sets are: one column and its `separator` ("" for a list), or with None a column for each class.

    >>> LabelColumns.parse("tags[;]"), LabelColumns.parse("label")
    (LabelColumns(names=('tags',), separator=';'), None)
    """

    names: tuple[str, ...]
    separator: str | None = None

    @classmethod
    def parse(cls, label: str) -> LabelColumns | None:
        """What `data.label` says; None where it does not speak of sets."""
        if found := _ONE_COLUMN.fullmatch(label):
            return cls((found["column"],), found["separator"])
        names = tuple(name.strip() for name in label.split(","))
        return cls(names) if len(names) > 1 and all(names) else None

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that are known before any image is read."""
        return self.names if self.separator is None else ()

    def check(self, columns: Sequence[str]) -> None:
        """UsageError for a column that is not there."""
        for name in self.names:
            if name not in columns:
                what = f"there is no column {name!r}."
                raise UsageError("data.label", what, right=did_you_mean(name, columns))

    def of(self, cells: Mapping[str, Any], names: Sequence[str] = ()) -> tuple[str, ...]:
        """The classes of one image; `names` are what numbers in a list stand for. BadPlace where there is none."""
        if self.separator is None:
            found = [name for name in self.names if self._applies(name, cells[name])]
        elif self.separator:
            found = [part.strip() for part in str(cells[self.names[0]]).split(self.separator)]
        else:
            found = [_class(each, names) for each in self._listed(cells[self.names[0]])]
        classes = tuple(dict.fromkeys(name for name in found if name))
        if not classes:
            raise BadPlace("the image has no label.", "Every image needs at least one: leave the others out.")
        return classes

    def _applies(self, name: str, cell: Any) -> bool:
        text = str(cell).strip().lower()
        if text not in (*_YES, *_NO):
            raise BadPlace(f"{name} is {str(cell)[:80]!r}.", "Write 1 where the class applies, else 0.")
        return text in _YES

    def _listed(self, value: Any) -> Iterable[Any]:
        if not isinstance(value, list | tuple):
            do = f"Name the separator, as in data.label = {self.names[0]}[;]."
            raise BadPlace(f"{self.names[0]} holds no list but {str(value)[:80]!r}.", do)
        return value


def _class(value: Any, names: Sequence[str]) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and names:
        if not 0 <= value < len(names):
            raise BadPlace(f"label {value} is none of {len(names)} classes.", "Check the file.")
        return names[value]
    if isinstance(value, bool | float) or not isinstance(value, str | int):
        raise BadPlace(f"{value!r} is not a label.", "Labels are text or integers.")
    return str(value).strip()
