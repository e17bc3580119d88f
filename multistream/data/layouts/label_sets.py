"""Labels in columns: one label per image, or label sets in several columns of 0 and 1 or in one column.

`data.label` names them: `joy,fear,anger` a column for each class, `tags[;]` one column whose classes are separated by
`;`, and `tags[]` one that holds a list, in JSON lines and parquet files. Any other text names a column with one label
per image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from multistream.data.layouts.assemble import choose
from multistream.errors import DataError, check_known

_YES, _NO = ("1", "1.0", "true"), ("0", "0.0", "false")
_ONE_COLUMN = re.compile(r"(?P<column>.+)\[(?P<separator>.?)\]")

Labels = tuple[str, tuple[str, ...]]
"""The label of an image, and its label set: () if images have one label each."""

Names = Mapping[str, Sequence[str]]
"""The class names of a column of numbers, by column; number i is the name at position i."""


@dataclass(frozen=True)
class LabelColumn:
    """The column that holds the one label of each image."""

    name: str
    classes: ClassVar[tuple[str, ...]] = ()

    def of(self, cells: Mapping[str, Any], where: str, numbered: Names) -> Labels:
        """The label of one image."""
        return class_name(cells[self.name], where, numbered.get(self.name, ())), ()


@dataclass(frozen=True)
class LabelColumns:
    """The columns of label sets: one column with its `separator` ("" for a list), or, if None, a column per class.

    >>> LabelColumns.parse("tags[;]"), LabelColumns.parse("label")
    (LabelColumns(names=('tags',), separator=';'), None)
    """

    names: tuple[str, ...]
    separator: str | None = None

    @classmethod
    def parse(cls, label: str) -> LabelColumns | None:
        """Parses `data.label`; None if it does not name label sets."""
        if found := _ONE_COLUMN.fullmatch(label):
            return cls((found["column"],), found["separator"])
        names = tuple(name.strip() for name in label.split(","))
        return cls(names) if len(names) > 1 and all(names) else None

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that are known before reading images: the columns, if there is one per class."""
        return self.names if self.separator is None else ()

    def check(self, columns: Sequence[str]) -> None:
        """Raises UsageError for a column that does not exist."""
        check_known(self.names, columns, where="data.label", what="there is no column {name!r}.")

    def of(self, cells: Mapping[str, Any], where: str, numbered: Names) -> Labels:
        """The first class of one image, and all its classes. DataError if there is none."""
        first = self.names[0]
        match self.separator:
            case None:
                found = [name for name in self.names if _applies(name, cells[name], where)]
            case "":
                listed = self._listed(cells[first], where)
                found = [class_name(each, where, numbered.get(first, ())) for each in listed]
            case separator:
                found = [*map(str.strip, str(cells[first]).split(separator))]
        classes = tuple(dict.fromkeys(filter(None, found)))
        if not classes:
            do = "Every image needs at least one: leave the others out."
            raise DataError(where, "the image has no label.", do=do)
        return classes[0], classes

    def _listed(self, value: Any, where: str) -> Sequence[Any]:
        if not isinstance(value, list | tuple):
            do = f"Name the separator, as in data.label = {self.names[0]}[;]."
            raise DataError(where, f"{self.names[0]} holds {str(value)[:80]!r}, not a list.", do=do)
        return value


def label_column(label: str, columns: Sequence[str], layout: str) -> LabelColumn | LabelColumns:
    """The column or columns that `data.label` names, or the first of these if it is "". UsageError if unknown."""
    if sets := LabelColumns.parse(label):
        sets.check(columns)
        return sets
    return LabelColumn(choose(layout, label, columns))


def class_name(value: Any, where: str, names: Sequence[str] = ()) -> str:
    """The class of a value: text, or an integer, which is a position in `names` if there are any."""
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise DataError(where, f"{value!r} is not a label.", right="It must be text or an integer.")
    if isinstance(value, str) or not names:
        return str(value).strip()
    if not 0 <= value < len(names):
        raise DataError(where, f"label {value} is none of {len(names)} classes.", do="Check the file.")
    return names[value]


def _applies(name: str, cell: Any, where: str) -> bool:
    text = str(cell).strip().lower()
    if text not in (*_YES, *_NO):
        raise DataError(where, f"{name} is {str(cell)[:80]!r}.", do="Write 1 where the class applies, else 0.")
    return text in _YES
