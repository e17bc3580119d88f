"""Model: a trained network that predicts; what `multistream.load` returns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from multistream.interfaces import Stream
from multistream.runs.model_file import LoadedModel, load_model

if TYPE_CHECKING:
    from multistream.data.given_photos import GivenPhoto, PhotoLike
    from multistream.data.side_lookup import SideSource
    from multistream.inference.predict import Prediction


class Model(LoadedModel):
    """A trained network in eval mode, with its recipe. It predicts, and can be pickled."""

    def predict(
        self,
        images: PhotoLike | Iterable[PhotoLike | GivenPhoto],
        *,
        inputs: Mapping[str, SideSource] | None = None,
        missing: str = "",
        without: Collection[str] = (),
        device: str = "auto",
        precision: str = "auto",
        say: Callable[[str], object] | None = None,
    ) -> Iterator[Prediction]:
        """Class probabilities for one photo or many, in order; a photo that cannot be used gets a status.

        A photo is a path (a folder stands for all images in it), bytes, an open file, a Pillow picture or a uint8 array
        (H, W, 3). `inputs` gives vectors and maps by stream key or input name: a file or folder, {id: array}, or
        arrays in the order of the photos. `missing` says what becomes of a photo that lacks one: error (a status),
        drop (use the other streams) or mean (use the training mean instead); `without` leaves streams out by key.
        `say` receives messages about files in folders that are skipped.
        """
        from multistream.inference.predict import predict  # predictions are made with models

        return predict(
            self,
            images,
            inputs=inputs or {},
            missing=missing,
            without=without,
            device=device,
            precision=precision,
            say=say,
        )


def load(path: str | Path, *, streams: Mapping[str, Stream] | None = None) -> Model:
    """Loads a run (its folder) or a model file, in eval mode on the CPU.

    `streams` supplies the streams that were given as instances. Raises WeightsError (exit 69) for a file that is
    missing, damaged or of another version, and PluginError (69) for a plugin that is not installed.
    """
    loaded = load_model(path, streams=streams)
    return Model(loaded.network, loaded.recipe, loaded.path, loaded.sha256)
