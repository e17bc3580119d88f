"""Model: a trained network for prediction. `multistream.load` returns it, `Model.of` wraps a network in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from multistream import runs
from multistream.errors import UsageError
from multistream.files import writing
from multistream.interfaces import Stream
from multistream.network.network import MultiStream
from multistream.recipe import Recipe
from multistream.runs.composition import recipe_of
from multistream.runs.model_file import MODEL_FILE, LoadedModel, load_model, save_model

if TYPE_CHECKING:
    from torch import Tensor

    from multistream.data.given_photos import GivenPhoto, PhotoLike
    from multistream.data.side_lookup import SideSource
    from multistream.inference.predict import Prediction

AnyModel = TypeVar("AnyModel", bound="Model")


class Model(LoadedModel):
    """A trained network in eval mode, with its recipe. It predicts, and can be saved and pickled."""

    @classmethod
    def of(cls, network: MultiStream, *, recipe: Recipe | None = None, prior: Tensor | None = None) -> Self:
        """Wraps a network that was trained outside this library: marks it as trained and sets eval mode.

        `recipe` defines how photos are decoded (`data`), by default as in `Recipe()`. `prior` (K,) are the class
        fractions of the training data, which an explanation uses as the prediction without any stream.

        >>> from multistream import compose, streams
        >>> model = Model.of(compose({"anp": streams["anp"](width=3)}, classes=["awe", "fear"]))
        >>> model.classes
        ('awe', 'fear')
        """
        if not isinstance(network, MultiStream):
            right = "It must be the multistream.MultiStream that compose returned."
            raise UsageError("Model.of", f"a {type(network).__name__} was given.", right=right)
        return _in_memory(cls, network.mark_trained(prior), recipe)

    def save(self, path: str | Path) -> Path:
        """Writes the model to `model.safetensors` in a folder, or to a file with that suffix; returns the file.

        `multistream.load` reads both. An existing model is replaced. Raises UsageError if the folder is a run.
        """
        path = Path(path).expanduser()
        file = path if path.suffix == Path(MODEL_FILE).suffix else path / MODEL_FILE
        if any((file.parent / name).exists() for name in (runs.SUMMARY, runs.METRICS, runs.CHECKPOINTS)):
            right = "A run keeps the model of its own training."
            raise UsageError("save", f"{file.parent} is a run.", right=right, do="Choose another folder.")
        with writing(file.parent):
            file.parent.mkdir(parents=True, exist_ok=True)
        save_model(self.network, file, recipe=self.recipe)
        return file

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
        """Yields class probabilities for one or many photos, in order; a photo that cannot be used gets a status.

        A photo is a path (of a folder: all images in it), bytes, an open file, a Pillow picture or a uint8 array (H, W,
        3). `inputs` supplies vectors and maps by stream key or input name: a file or folder, {id: array}, or arrays in
        the order of the photos. `missing` is the policy for a photo that lacks one: error (a status), drop (use the
        other streams) or mean (use the training mean). `without` leaves streams out by key. `say` receives messages
        about skipped files in folders.
        """
        from multistream.inference.predict import predict  # only prediction needs these modules

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


def _in_memory(kind: type[AnyModel], network: MultiStream, recipe: Recipe | None = None) -> AnyModel:
    return kind(network.eval(), recipe or recipe_of(network), Path("<network>", MODEL_FILE), "")


def as_model(
    source: Model | MultiStream | str | PathLike[str], *, streams: Mapping[str, Stream] | None = None
) -> Model:
    """Returns the model of a run, of a file, or of a network in memory, trained or not."""
    if isinstance(source, Model):
        return source
    return _in_memory(Model, source) if isinstance(source, MultiStream) else load(source, streams=streams)


def load(path: str | PathLike[str], *, streams: Mapping[str, Stream] | None = None) -> Model:
    """Loads a run (its folder) or a model file, in eval mode on the CPU.

    `streams` supplies the streams that were passed as instances. Raises WeightsError (exit 69) if the file is missing,
    damaged or of another version, and PluginError (exit 69) if a plugin is not installed.
    """
    loaded = load_model(path, streams=streams)
    return Model(loaded.network, loaded.recipe, loaded.path, loaded.sha256)
