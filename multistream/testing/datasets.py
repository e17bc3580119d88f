"""The contract of data set layouts."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from multistream.data.layouts.data_source import open_table
from multistream.data.table import Table
from multistream.registry import Kind
from multistream.testing.base import Contract


class DatasetContract(Contract):
    """The requirements of a layout: it opens `path` as a Table with consistent columns.

    class TestPairs(DatasetContract):
        spec = "pairs"
        path = "tests/a_small_set"
    """

    kind: ClassVar[Kind] = "dataset"
    path: str = ""
    """A data set that the layout can open; empty for a layout without a path."""

    def make(self) -> Table:
        """Opens the table in the same way as `--data NAME:PATH`."""
        return open_table(f"{self.spec}:{self.path}" if self.path else self.spec)

    def test_opens_as_a_table(self) -> None:
        """it returns a Table with one label, part and map per image, and every label is one of its classes"""
        assert isinstance(self.make(), Table)

    def test_has_images_of_at_least_two_classes(self) -> None:
        """it has images of at least two classes"""
        table = self.make()
        seen = np.unique(table.labels).size
        assert seen >= 2, f"its {len(table)} images are of {seen} classes"

    def test_files_exist(self) -> None:
        """every id is the path of a file, relative to root"""
        table = self.make()
        missing = [name for i, name in enumerate(table.ids) if not table.path(i).is_file()]
        assert not missing, f"{len(missing)} of {len(table)} are not files, for example {missing[0]} in {table.root}"

    def test_opening_twice_gives_the_same_table(self) -> None:
        """it returns the same images in the same order each time"""
        first, second = self.make(), self.make()
        assert first.ids == second.ids, "the ids are in another order the second time"
        assert np.array_equal(first.labels, second.labels), "the labels differ the second time"
