"""A trained network as a file, and back: `model.safetensors` holds the weights and, in its metadata, all else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from multistream.errors import UsageError, WeightsError
from multistream.files import sha256_file, write_atomic
from multistream.inputs import Input
from multistream.interfaces import Stream
from multistream.network.compose import plan_of, recompose
from multistream.network.network import MultiStream
from multistream.network.plan import NetworkPlan
from multistream.recipe import Recipe
from multistream.registry import find
from multistream.spec import Spec

FORMAT = 1
MODEL_FILE = "model.safetensors"


@dataclass(frozen=True)
class LoadedModel:
    """What a model file holds: a network, in eval mode on the CPU, and the recipe that made it."""

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
        """What each stream reads, by key."""
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
        "distributions": distributions_of(plan),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_atomic(path, save(tensors, metadata={"multistream": json.dumps(about)}))


def load_model(path: str | Path, *, streams: Mapping[str, Stream] | None = None) -> LoadedModel:
    """Loads a run (its folder) or a model file, in eval mode on the CPU.

    `streams` gives again those that were composed as instances. Raises WeightsError (exit 69) for a file that is
    missing, damaged or of another version, PluginError (69) for a plugin that is not here.
    """
    file = model_file(Path(path).expanduser())
    about = read_about(file)
    plan = NetworkPlan.from_dict(about["plan"])
    _check_distributions(about["distributions"], file)
    network = recompose(plan, streams=streams, trained=bool(about["trained"]))
    with safe_open(file, framework="pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  it is no mapping
    own = network.state_dict()
    wrong = [n for n in {**own, **tensors} if n not in own or n not in tensors or own[n].shape != tensors[n].shape]
    if wrong:
        raise WeightsError(str(file), f"{len(wrong)} tensors do not fit its own plan: {', '.join(wrong[:4])}, ...")
    network.load_state_dict(tensors)
    return LoadedModel(network.eval(), Recipe.from_dict(about["recipe"]), file, sha256_file(file))


def model_file(path: Path) -> Path:
    """The model file of a run's folder, or the file itself."""
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise WeightsError(str(path), "no model is there.", right=f"A run's folder with a {MODEL_FILE}, or that file.")
    return file


def read_about(file: Path) -> dict[str, Any]:
    """The metadata of a model file, without its tensors."""
    try:
        with safe_open(file, framework="numpy") as stored:
            metadata = stored.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(str(file), f"it cannot be read: {error}.", do="Train again, or copy it again.") from error
    if "multistream" not in metadata:
        raise WeightsError(str(file), "it is no model of multistream's.", do="For a stream's weights use --weights.")
    about: dict[str, Any] = json.loads(metadata["multistream"])
    if about.get("format") != FORMAT:
        raise WeightsError(str(file), f"its format is {about.get('format')}.", right=f"This version reads {FORMAT}.")
    return about


def distributions_of(plan: NetworkPlan) -> dict[str, str]:
    """{distribution: version} of the plugins that a plan's parts come from."""
    named = [("stream", b.stream) for b in plan.branches.values() if b.stream]
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
    missing = [f"{name} {version}" for name, version in wanted.items() if not _is_installed(name)]
    if missing:
        raise WeightsError(str(file), f"it needs {', '.join(missing)}, not installed here.", do="Install it with pip.")


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def require_trained(model: LoadedModel, what: str) -> None:
    """Refuses a network whose fusion has never been trained."""
    if not model.network.trained:
        raise UsageError(what, f"{model.path} is untrained: its fusion is as it was initialised.", do="Train it first.")


__all__ = ["MODEL_FILE", "LoadedModel", "load_model", "require_trained", "save_model"]
