"""Model: a trained network that predicts; what `multistream.load` returns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from multistream.interfaces import Stream
from multistream.runs.model_file import LoadedModel, load_model

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from multistream.inference.predict import Prediction


class Model(LoadedModel):
    """A network in eval mode with the recipe that made it; it predicts, and can be pickled."""

    def predict(
        self,
        images: Iterable[str | Path | Picture],
        *,
        inputs: Mapping[str, str | Path] | None = None,
        device: str = "auto",
        precision: str = "auto",
    ) -> Iterator[Prediction]:
        """Class probabilities for files, folders or Pillow images, in their order; a bad image gets a status.

        `inputs` names the vectors' files and the maps' folders, by stream key or input name.
        """
        from multistream.inference.predict import predict  # predictions are made with models

        return predict(self, images, inputs=inputs or {}, device=device, precision=precision)


def load(path: str | Path, *, streams: Mapping[str, Stream] | None = None) -> Model:
    """Loads a run (its folder) or a model file, in eval mode on the CPU.

    `streams` gives again those that were composed as instances. Raises WeightsError (exit 69) for a file that is
    missing, damaged or of another version, PluginError (69) for a plugin that is not here.
    """
    loaded = load_model(path, streams=streams)
    return Model(loaded.network, loaded.recipe, loaded.path, loaded.sha256)
