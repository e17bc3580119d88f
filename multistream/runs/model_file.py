"""Saves and loads a trained network: `model.safetensors` has the weights and, in its metadata, plan and recipe."""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from multistream.commands import command_line
from multistream.errors import MultistreamError, MultistreamWarning, PluginError, UsageError, WeightsError
from multistream.files import json_object, sha256_file, write_atomic
from multistream.inputs import Input
from multistream.interfaces import Stream
from multistream.network.compose import plan_of, recompose
from multistream.network.network import MultiStream
from multistream.network.plan import NetworkPlan
from multistream.recipe import Recipe
from multistream.registry import find
from multistream.runs.folder import FOLDS, RECIPE
from multistream.runs.largest_tensor import MOST_NUMBERS, LargestTensor
from multistream.spec import Spec

FORMAT = 2
"""Increased when the file format changes: format 2 has a digest of the tensors."""
MODEL_FILE = "model.safetensors"
ABOUT, DIGEST = "multistream", "multistream.sha256"
"""Keys of the safetensors metadata: the description of the model as JSON, and the sha256 over it and all tensors."""

RETRAIN = "Copy it again, or train it again."


@dataclass(frozen=True)
class LoadedModel:
    """The content of a model file: a network, in eval mode on the CPU, and its recipe."""

    network: MultiStream
    recipe: Recipe
    path: Path
    sha256: str

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the K classes, in the order of the logits."""
        return self.network.classes

    @property
    def inputs(self) -> Mapping[str, Input]:
        """The input of each stream, by key."""
        return self.network.inputs


def save_model(network: MultiStream, path: Path, *, recipe: Recipe) -> None:
    """Writes a network with its plan and recipe to one file, atomically."""
    plan = plan_of(network)
    about = {
        "format": FORMAT,
        "plan": plan.to_dict(),
        "recipe": recipe.to_dict(),
        "classes": list(network.classes),
        "trained": network.trained,
        "temperature": network.temperature,
        "distributions": distributions_of(plan),
    }
    text = json.dumps(about)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_atomic(path, save(tensors, metadata={ABOUT: text, DIGEST: digest_of(text, tensors)}))


def digest_of(about: str, tensors: Mapping[str, Tensor]) -> str:
    """Returns the sha256 over a model's metadata and its tensors: names, types, shapes and bytes, sorted by name."""
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_model(path: str | os.PathLike[str], *, streams: Mapping[str, Stream] | None = None) -> LoadedModel:
    """Loads a run (its folder) or a model file, in eval mode on the CPU.

    `streams` supplies the streams that were passed as instances. Raises WeightsError (exit 69) if the file is missing,
    damaged or of another version, PluginError (69) if a plugin is not installed. Warns (MultistreamWarning) if a
    plugin's version differs from that of the training.
    """
    if not isinstance(path, str | os.PathLike):
        what = f"a {type(path).__name__} was given."
        do = "Save a network in memory first: multistream.Model.of(network).save(folder)."
        raise UsageError("run", what, right="It must be the path of a run or of a model file.", do=do)
    file = model_file(Path(path).expanduser())
    metadata = read_metadata(file)
    _check_distributions(metadata.distributions, file)
    tensors = _read_tensors(file)
    if digest_of(metadata.text, tensors) != metadata.digest:
        raise WeightsError(file, "it is damaged: its sha256 differs from the one it was saved with.", do=RETRAIN)
    _check_finite(tensors, file)
    network = _recomposed(metadata, tensors, file, streams)
    network.load_state_dict(tensors)
    network.calibrate(metadata.temperature)
    return LoadedModel(network.eval(), metadata.recipe, file, sha256_file(file))


@dataclass(frozen=True)
class ModelMetadata:
    """The checked metadata of a model file: `text` is the JSON, `digest` the sha256 over it and the tensors."""

    plan: NetworkPlan
    recipe: Recipe
    trained: bool
    temperature: float
    distributions: Mapping[str, str]
    text: str = field(repr=False)
    digest: str


def model_file(path: Path) -> Path:
    """Returns the model file of a run's folder, or the file itself."""
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file() and (path / FOLDS).is_dir():
        right = f"Each fold has a model, for example {path / FOLDS / '1-1'}."
        raise WeightsError(path, "it is a cross-validation run, which has no single model.", right=right)
    if not file.is_file() and (path / RECIPE).is_file():
        do = f"Resume it: {command_line('train', '--resume', path)}"
        raise WeightsError(path, "its training is not finished, so it has no model yet.", do=do)
    if not file.is_file():
        raise WeightsError(
            path, "no model found.", right=f"Pass a run folder that contains {MODEL_FILE}, or the file itself."
        )
    return file


def read_metadata(file: Path) -> ModelMetadata:
    """Reads a model file's metadata, without its tensors. Raises WeightsError if it is malformed."""
    metadata = _header(file)
    if ABOUT not in metadata:
        raise WeightsError(
            file, "it is not a multistream model.", do="For pretrained weights of a stream use --weights."
        )
    about = json_object(metadata[ABOUT], where=str(file), error=WeightsError)
    if about.get("format") != FORMAT:
        raise WeightsError(
            file,
            f"its format is {str(about.get('format'))[:20]!r}.",
            right=f"This version reads {FORMAT}.",
            do="Train again.",
        )
    try:
        plan = NetworkPlan.from_dict(about["plan"])
        recipe = Recipe.from_dict(about["recipe"])
        trained, distributions = about["trained"], about["distributions"]
        temperature = float(about.get("temperature", 1.0))  # older files have none
        if not 0 < temperature < math.inf:
            raise ValueError(f"'temperature' is {temperature}, it must be above 0")
        if not isinstance(trained, bool) or not _is_texts(distributions):
            raise TypeError("'trained' is true or false, 'distributions' holds versions")
    # A file may contain any data, and the parsers of recipe and plan raise their own errors.
    except (MultistreamError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        detail = f"{type(error).__name__}: {str(error)[:200]}"
        raise WeightsError(file, f"its metadata is malformed ({detail}).", do=RETRAIN) from error
    return ModelMetadata(plan, recipe, trained, temperature, distributions, metadata[ABOUT], metadata.get(DIGEST, ""))


def _is_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair)


def _header(file: Path) -> dict[str, str]:
    try:
        with safe_open(file, framework="numpy") as stored:
            return dict(stored.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(file, f"it cannot be read: {error}.", do=RETRAIN) from error


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as stored:
            # Copies: the library's tensors may be in the mapped file, which may be truncated meanwhile.
            return {name: stored.get_tensor(name).clone() for name in stored.keys()}  # noqa: SIM118  it is not a mapping
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        raise WeightsError(file, f"it cannot be read: {error}.", do=RETRAIN) from error


def _check_finite(tensors: Mapping[str, Tensor], file: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise WeightsError(file, f"{name} holds a NaN or an infinity.", right="All weights must be finite.")


def _recomposed(
    metadata: ModelMetadata, tensors: Mapping[str, Tensor], file: Path, streams: Mapping[str, Stream] | None
) -> MultiStream:
    """Composes the network of the plan and checks its shapes; limits allocations to about the file's tensors."""
    largest = max((tensor.numel() for tensor in tensors.values()), default=0)
    try:
        with LargestTensor(max(largest, MOST_NUMBERS)):
            network = recompose(metadata.plan, streams=streams, trained=metadata.trained)
    except (PluginError, WeightsError):
        raise
    except MultistreamError as error:  # includes options that a part refuses
        if streams is not None or any(branch.is_instance for branch in metadata.plan.branches.values()):
            raise  # about instances, which the caller passes
        raise WeightsError(file, f"its network cannot be rebuilt: {error}", do=RETRAIN) from error
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        detail = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
        raise WeightsError(file, f"its network cannot be rebuilt ({detail}).", do=RETRAIN) from error
    _check_shapes(network, tensors, file)
    return network


def _check_shapes(network: MultiStream, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Raises WeightsError for tensors that are missing, unexpected or of another shape."""
    own = network.state_dict()
    wrong = [n for n in {**own, **tensors} if n not in own or n not in tensors or own[n].shape != tensors[n].shape]
    if wrong:
        names = ", ".join(wrong[:4])
        raise WeightsError(file, f"{len(wrong)} tensors do not fit its network: {names}.", do=RETRAIN)


def distributions_of(plan: NetworkPlan) -> dict[str, str]:
    """Returns {distribution: version} of the plugins that a plan's parts come from."""
    named = [("stream", b.stream) for b in plan.branches.values() if not b.is_instance]
    named += [("tap", b.tap) for b in plan.branches.values()] + [
        ("temporal", b.temporal) for b in plan.branches.values()
    ]
    found = {}
    for kind, text in [*named, ("fusion", plan.fusion)]:
        spec = Spec.parse(text, key="part")
        part = find(kind, spec.name, distribution=spec.distribution)  # type: ignore[arg-type]
        found[part.distribution] = part.version
    return found


def _check_distributions(wanted: Mapping[str, str], file: Path) -> None:
    """Raises WeightsError if a plugin is missing; warns if its version differs from that of the training."""
    here = {name: _version(name) for name in wanted}
    missing = [f"{name} {wanted[name]}" for name, installed in here.items() if installed is None]
    if missing:
        raise WeightsError(file, f"it needs {', '.join(missing)}, which is not installed.", do="Install it with pip.")
    others = [f"{name} {wanted[name]} (installed: {here[name]})" for name in wanted if here[name] != wanted[name]]
    if others:
        text = f"{file}: it was trained with {', '.join(others)}; results may differ"
        warnings.warn(text, MultistreamWarning, stacklevel=3)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except (PackageNotFoundError, ValueError):  # ValueError for an empty name
        return None


def require_trained(model: LoadedModel, what: str) -> None:
    """Raises UsageError for a network that was never trained."""
    if not model.network.trained:
        right = "Its fusion may still have its initial weights."
        do = "Train it with multistream.train or, after training it yourself, wrap it: multistream.Model.of(network)."
        raise UsageError(what, f"{model.path} is not marked as trained.", right=right, do=do)
