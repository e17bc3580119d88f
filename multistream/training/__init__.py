"""train: a recipe becomes a run."""

from multistream.training.stopping import Interrupted
from multistream.training.training import Run, train

__all__ = ["Interrupted", "Run", "train"]
