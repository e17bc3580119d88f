"""Layouts: readers of the file structures of data sets (paper section 4); each returns a Table."""

from multistream.data.layouts.data_source import open_table

__all__ = ["open_table"]
