"""Vectors: numbers known for each image id (ANP scores, say), read, brought to one order of names, joined to images."""

from multistream.data.vectors.files import read_vectors, write_vectors
from multistream.data.vectors.joining import Joined, align, first_rows, join, repeated_ids

__all__ = ["Joined", "align", "first_rows", "join", "read_vectors", "repeated_ids", "write_vectors"]
