"""Vectors of numbers by image id, such as ANP scores: reading, ordering by vocabulary, and joining with images."""

from multistream.data.vectors.files import read_vectors, write_vectors
from multistream.data.vectors.joining import Joined, align, first_rows, join, repeated_ids

__all__ = ["Joined", "align", "first_rows", "join", "read_vectors", "repeated_ids", "write_vectors"]
