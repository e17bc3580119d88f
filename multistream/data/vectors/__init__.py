"""Vectors: numbers known for each image id (ANP scores, say), read, brought to one order of names, joined to images."""

from multistream.data.vectors.aligning import align
from multistream.data.vectors.joining import Joined, MissingPolicy, join
from multistream.data.vectors.reading import read_vectors, write_vectors

__all__ = ["Joined", "MissingPolicy", "align", "join", "read_vectors", "write_vectors"]
