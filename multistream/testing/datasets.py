"""What a data set's layout promises."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from multistream.data.layouts.data_source import open_table
from multistream.data.table import Table
from multistream.registry import Kind
from multistream.testing.base import Contract


class DatasetContract(Contract):
    """Promises of a layout: what it makes of `path` is a Table whose columns belong together.

    class TestPairs(DatasetContract):
        spec = "pairs"
        path = "tests/a_small_set"
    """

    kind: ClassVar[Kind] = "dataset"
    path: str = ""
    """A data set that the layout can open; empty for a layout that does not take a path."""

    def make(self) -> Table:
        """The table, opened as `--data NAME:PATH` opens it."""
        return open_table(f"{self.spec}:{self.path}" if self.path else self.spec)

    def test_opens_as_a_table(self) -> None:
        """it gives a Table: one label, part and map an image, every label among its classes"""
        assert isinstance(self.make(), Table)

    def test_holds_images_of_two_classes_or_more(self) -> None:
        """it holds images of at least two classes"""
        table = self.make()
        seen = np.unique(table.labels).size
        assert seen >= 2, f"its {len(table)} images are of {seen} classes"

    def test_files_are_there(self) -> None:
        """every id is the path of a file, relative to root"""
        table = self.make()
        missing = [name for i, name in enumerate(table.ids) if not table.path(i).is_file()]
        assert not missing, f"{len(missing)} of {len(table)} are not files, for example {missing[0]} in {table.root}"

    def test_opens_the_same_twice(self) -> None:
        """it gives the same images in the same order each time"""
        first, second = self.make(), self.make()
        assert first.ids == second.ids, "the ids are in another order the second time"
        assert np.array_equal(first.labels, second.labels), "the labels differ the second time"
