"""Layouts: how data sets lie on a disk (paper section 4), each read into a Table."""

from multistream.data.layouts.data_source import open_table

__all__ = ["open_table"]
