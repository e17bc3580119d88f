"""The cache key: all that a stream's pooled features depend on, except the file they are computed from."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.metadata import distribution as metadata
from itertools import chain
from pathlib import Path
from typing import Any

import PIL
import torch
from torch import nn

from multistream.data.loading import Photos
from multistream.data.side_inputs import MapReader
from multistream.features.pooled_groups import GROUP
from multistream.files import sha256_file
from multistream.inputs import Image, Map
from multistream.interfaces import Tap
from multistream.network.branch import Branch
from multistream.registry import Spec, discover, find
from multistream.runtime.device import Runtime

RULES = 1
"""Increase this if multistream's own code changes the features: decoding, cropping, pooling."""

OURS = "multistream"
CODE = (".py", ".pyx", ".so", ".pyd", ".toml", ".json", ".yaml", ".yml", ".txt")
"""Suffixes of a package's files that may change its results; weights have a separate hash."""


def identity(branch: Branch, photos: Photos, runtime: Runtime, *, view: str) -> dict[str, Any]:
    """Returns all that these features depend on, as JSON-able data. The branch must be cacheable."""
    assert branch.plan is not None
    spec = Spec.parse(branch.plan.stream, key="part")
    part = find("stream", spec.name, distribution=spec.distribution)
    read = {name: value for name, value in asdict(branch.stream.input).items() if name != "read"}
    return {
        "stream": branch.plan.stream,
        "options": dict(branch.plan.stream_options),
        "distribution": f"{part.distribution} {part.version}",
        "rules": RULES,
        "code": code_of(branch),
        "weights": weights_hash(branch.stream),
        "input": {"kind": type(branch.stream.input).__name__, "name": branch.stream.input.name, **read},
        "pooling": {stage: pooling_of(tap, branch) for stage, tap in branch.taps.items()},
        "view": view,
        "precision": runtime.precision,
        "device": device_kind(runtime.device),
        "channels_last": runtime.channels_last,
        **({"compiled": True} if runtime.compile else {}),
        "torch": torch.__version__,
        "decoder": decoder_of(branch, photos),
        "group": GROUP,
    }


def pooling_of(tap: Tap, branch: Branch) -> str:
    """Describes how a tap pools. The global average has no settings; another method may depend on the tap's options."""
    if type(tap).pool is Tap.pool:
        return "global average"
    assert branch.plan is not None
    options = json.dumps(dict(branch.plan.tap_options), sort_keys=True)
    return f"{type(tap).pool.__qualname__} of {branch.plan.tap} {options}"


def why_not_cached(branch: Branch, photos: Photos) -> str:
    """Returns the reason why a branch's features cannot be cached; empty if they can."""
    plan, wanted = branch.plan, branch.stream.input
    of_function = isinstance(wanted, Map) and map_reader(branch, photos) is None
    of_unknown = isinstance(wanted, Map) and not _is_known(wanted.read)
    checks = (
        (branch.reads_vector, "its vectors are already given"),
        (not branch.stream.is_frozen, "it is not frozen"),
        (plan is None or plan.is_instance, "it was given as a Python object, so its settings are unknown"),
        (not all(tap.cacheable for tap in branch.taps.values()), "its taps are not cacheable"),
        (None in map(_file_of, _modules_of(branch)), "its code is not in a file, so changes cannot be detected"),
        (of_function, "its maps come from a function, not from files"),
        (of_unknown, "its maps are read by a function whose changes cannot be detected"),
    )
    return next((why for holds, why in checks if holds), "")


def map_reader(branch: Branch, photos: Photos) -> MapReader | None:
    """Returns the reader of a branch's maps if they are files, else None."""
    readers = (reader for reader in photos.maps.values() if isinstance(reader, MapReader))
    return next((reader for reader in readers if reader.wanted is branch.stream.input), None)


def weights_hash(module: nn.Module) -> str:
    """Returns the sha256 over a module's tensors with names, shapes and types, including non-persistent buffers."""
    digest = hashlib.sha256()
    named = {**dict(module.named_buffers()), **dict(module.named_parameters()), **module.state_dict()}
    for name, tensor in sorted(named.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def code_of(branch: Branch) -> dict[str, str]:
    """Returns the identity of each package with code of a branch: a hash of a plugin's files, or a library's version.

    A version does not change when a plugin's author edits the code between two runs, and a class's own file does not
    include the modules next to it, so the whole package is hashed. multistream's own code is identified by RULES.
    """
    return {name: package_version(name) for name in sorted({_root(module) for module in _modules_of(branch)} - {OURS})}


def package_version(name: str) -> str:
    """Returns a library's version, or the hash of a package's files.

    A package is hashed if it depends on multistream or does not belong to an installed distribution.
    """
    is_plugin = name in {_root(claim.module) for claim in discover()}
    owners = set() if is_plugin else set(_distributions_of(name))
    if owners and not any(map(_is_plugin, owners)):
        return " ".join(f"{owner} {version(owner)}" for owner in sorted(owners))
    file = _file_of(name)
    if file is not None and file.name != "__init__.py":
        return sha256_file(file)
    return _hash_of_folders(map(Path, getattr(sys.modules.get(name), "__path__", ())))


def _hash_of_folders(folders: Iterable[Path]) -> str:
    """Returns the sha256 of the names and contents of a package's code files."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.suffix in CODE):
            digest.update(f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def _distributions_of(name: str) -> list[str]:
    """Returns the distributions that a package was installed from.

    Reading the file lists of all distributions takes most of a second, so the distribution with the package's name is
    tried first. It is the right one if the package is in the folder of its installation.
    """
    file = _file_of(name)
    with suppress(PackageNotFoundError):
        same = metadata(name)
        if file is not None and Path(str(same.locate_file(name))).resolve() == file.parent.resolve():
            return [same.name]
    return list(packages_distributions().get(name, []))


@cache
def _is_plugin(distribution: str) -> bool:
    """Returns whether a distribution registers parts, and is therefore developed with multistream."""
    return any(point.group == "multistream" for point in metadata(distribution).entry_points)


def device_kind(device: torch.device) -> str:
    """Returns the processor's kind: results differ in bits between CPU types too, not only between CPU and GPU."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"cpu {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type


def decoder_of(branch: Branch, photos: Photos) -> str:
    """Describes how a file is converted to the stream's input."""
    if isinstance(branch.stream.input, Image):
        assert photos.decoder is not None
        return photos.decoder.version
    reader = map_reader(branch, photos)
    assert reader is not None
    read = reader.wanted.read
    return (
        f"maps {reader.resize} pillow {PIL.__version__} read by {read.__module__}.{read.__qualname__} "
        f"{RULES if _root(read.__module__) == OURS else package_version(_root(read.__module__))}"
    )


def _modules_of(branch: Branch) -> set[str]:
    """Returns the names of the modules that define the classes of a stream and its taps, including base classes."""
    kinds = set(map(type, chain(branch.stream.modules(), branch.taps.modules())))
    named = {base.__module__ for kind in kinds for base in kind.__mro__}
    return {name for name in named if _root(name) not in ("torch", "builtins", "abc", "typing")}


def _file_of(module: str) -> Path | None:
    """Returns the file of a module's code; None for interactive or generated code."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file) if file and Path(file).is_file() and module != "__main__" else None


def _root(module: str) -> str:
    """Returns the top-level package or module."""
    return module.partition(".")[0]


def _is_known(function: Any) -> bool:
    """Returns whether a function can be found by name in a module with a file: not a lambda, closure or partial."""
    module, name = str(function.__module__), getattr(function, "__qualname__", "<none>")
    return getattr(sys.modules.get(module), name, None) is function and _file_of(module) is not None
