"""Checkpoints: the complete state of a training, in folders that are either complete or absent.

    checkpoints/step-N/   model.safetensors, optimizer.safetensors, ...   one file for each group of tensors
                          state.json                                      the training progress
                          manifest.json, manifest.sha256                  size and sha256 of each file, and its origin

A checkpoint is written under a temporary name, flushed to disk, then renamed. After a crash at any time, the newest
complete folder is the newest checkpoint. It is found by listing the folder, so there is no pointer that can be wrong.
"""

from multistream.runs.checkpoint.loading import Checkpoint as Checkpoint
from multistream.runs.checkpoint.loading import latest as latest
from multistream.runs.checkpoint.loading import load as load
from multistream.runs.checkpoint.loading import understood as understood
from multistream.runs.checkpoint.manifest import JSON as JSON
from multistream.runs.checkpoint.saving import clean as clean
from multistream.runs.checkpoint.saving import save as save
from multistream.runs.checkpoint.state import optimizer_tensors as optimizer_tensors
from multistream.runs.checkpoint.state import restore_optimizer as restore_optimizer
from multistream.runs.checkpoint.state import restore_rng as restore_rng
from multistream.runs.checkpoint.state import rng_tensors as rng_tensors
