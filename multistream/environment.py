"""The environment of this process: versions, devices, plugins, folders and variables, and the faults in them."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement  # matplotlib brings it
from packaging.specifiers import SpecifierSet

from multistream.errors import DiskFull, MultistreamError, PluginError, said_by
from multistream.files import cache_root, temporary, writing
from multistream.recipe import RuntimeSettings
from multistream.records import JsonRecord
from multistream.registry import PartInfo, parts

PROJECT = "multistream"
SHOWN = (
    *("MULTISTREAM_CACHE", "MULTISTREAM_DISABLED_PLUGINS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"),
    *("CUDA_VISIBLE_DEVICES", "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("SLURM_JOB_ID", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "HF_HUB_OFFLINE", "HF_HOME", "XDG_CACHE_HOME", "TMPDIR"),
)
"""Variables that change the behaviour, and whose values are shown."""
HIDDEN = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT")
"""Variables that hold secrets, or addresses with passwords: only whether they are set is shown."""
PCI, DEVICES = Path("/sys/bus/pci/devices"), Path("/dev")


@dataclass(frozen=True)
class Version(JsonRecord):
    """A required program or distribution; `version` is None if it is not installed."""

    name: str
    version: str | None
    requirement: str
    satisfied: bool


@dataclass(frozen=True)
class CudaDevice(JsonRecord):
    """A CUDA device; `memory` is in bytes."""

    name: str
    memory: int
    capability: str


@dataclass(frozen=True)
class Devices(JsonRecord):
    """The devices that torch sees; `device` and `precision` are those that `auto` selects."""

    cores: int
    threads: int
    cuda_build: str | None
    driver: str | None
    cuda: tuple[CudaDevice, ...]
    mps: bool
    device: str
    precision: str


@dataclass(frozen=True)
class Folder(JsonRecord):
    """A folder, which need not exist yet; the bytes `free` on its disk are None if that is unknown."""

    path: Path
    writable: bool
    free: int | None


@dataclass(frozen=True)
class Environment(JsonRecord):
    """What `inspect_environment` found; `faults` are messages, one line each.

    `extras` maps each optional extra to the requirements that it lacks, `parts` each kind to the number of parts that
    work, and `variables` a name to None if it is not set. `devices` is None if torch cannot be imported.
    `exit_code` is 0 if there is no fault, 69 if a plugin is broken, else that of the first fault.
    """

    versions: tuple[Version, ...]
    extras: Mapping[str, tuple[str, ...]]
    devices: Devices | None
    parts: Mapping[str, int]
    broken: tuple[PartInfo, ...]
    disabled: tuple[PartInfo, ...]
    cache: Folder
    cache_bytes: int
    temporary: Folder
    variables: Mapping[str, str | None]
    warnings: tuple[str, ...]
    faults: tuple[str, ...]
    exit_code: int


def inspect_environment() -> Environment:
    """Inspects the environment of this process. Writes one temporary file per folder, and uses no network."""
    faults: list[MultistreamError] = []
    versions = _versions(faults)
    extras: list[str] = metadata.metadata(PROJECT).get_all("Provides-Extra", [])
    devices: Devices | None = None
    with _noted(faults):
        devices = _devices(faults)
    rows = parts(imported=devices is not None)  # without torch, no part can be imported
    for row in (broken := tuple(row for row in rows if row.status == "broken")):
        what = f"{row.name!r} of {row.distribution} {row.version} is broken: {row.error.rstrip('.')}."
        faults.append(PluginError("plugins", what, do=f"Fix, upgrade or uninstall {row.distribution}."))
    cache = _folder(cache_root(), faults)
    return Environment(
        versions=versions,
        extras={name: unmet(Requirement(f"{PROJECT}[{name}]")) for name in extras},
        devices=devices,
        parts=Counter(row.kind for row in rows if row.status == "ok" and row.kind),
        broken=broken,
        disabled=tuple(row for row in rows if row.status == "disabled"),
        cache=cache,
        cache_bytes=size_on_disk(cache.path),
        temporary=_temporary_folder(faults),
        variables=_variables(os.environ),
        warnings=tuple(_warnings(devices)),
        faults=tuple(map(str, faults)),
        exit_code=PluginError.exit_code if broken else next((fault.exit_code for fault in faults), 0),
    )


@contextmanager
def _noted(faults: list[MultistreamError]) -> Iterator[None]:
    """Adds the MultistreamError that ends the block to the faults."""
    try:
        yield
    except MultistreamError as error:
        faults.append(error)


def _versions(faults: list[MultistreamError]) -> tuple[Version, ...]:
    """Python, this project and its requirements; those that are not satisfied are faults."""
    python = ", ".join(metadata.metadata(PROJECT).get_all("Requires-Python", []))
    version = platform.python_version()
    found = [Version("python", version, python, SpecifierSet(python).contains(version, prereleases=True))]
    for each in (Requirement(PROJECT), *_requirements(PROJECT)):
        found.append(Version(each.name, _installed(each.name), str(each.specifier), not unmet(each)))
    for row in found:
        if not row.satisfied:
            what = f"version {row.version} is installed." if row.version else "it is not installed."
            needed = f"{row.name}{row.requirement}"
            do = "Use another Python." if row.name == "python" else f"Type pip install '{needed}'."
            faults.append(PluginError(row.name, what, right=f"{PROJECT} requires {needed}.", do=do))
    return tuple(found)


def unmet(requirement: Requirement) -> tuple[str, ...]:
    """What is missing for a requirement: its distribution, or what the extras that it names require."""
    version = _installed(requirement.name)
    if version is None or not requirement.specifier.contains(version, prereleases=True):
        return (f"{requirement.name}{requirement.specifier}",)
    added = (each for extra in sorted(requirement.extras) for each in _requirements(requirement.name, extra=extra))
    return tuple(missing for each in added for missing in unmet(each))


def _requirements(distribution: str, *, extra: str = "") -> list[Requirement]:
    """The requirements of a distribution on this machine; of an extra, those that it adds."""
    every = map(Requirement, metadata.requires(distribution) or ())
    return [each for each in every if _holds(each, extra) and not (extra and _holds(each, ""))]


def _holds(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _installed(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _devices(faults: list[MultistreamError]) -> Devices:
    try:
        import torch
        from torch.utils import collect_env

        from multistream.runtime.device import available_workers, resolve
        from multistream.runtime.distributed import ranks_of
    except (ImportError, OSError) as error:  # OSError: a shared library is missing or does not fit
        what = f"they are unknown, because a library cannot be imported: {said_by(error)}."
        raise PluginError("devices", what, do="Install that library again, or torch.") from error
    with _noted(faults):
        ranks_of(os.environ)
    runtime = resolve(RuntimeSettings())
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return Devices(
        cores=available_workers(),
        threads=torch.get_num_threads(),
        cuda_build=torch.version.cuda,
        driver=collect_env.get_nvidia_driver_version(collect_env.run) if found else None,
        cuda=tuple(CudaDevice(each.name, each.total_memory, f"{each.major}.{each.minor}") for each in found),
        mps=torch.backends.mps.is_available(),
        device=runtime.device.type,
        precision=runtime.precision,
    )


def _warnings(devices: Devices | None) -> Iterator[str]:
    if devices and devices.cuda_build and not devices.cuda and has_nvidia_hardware():
        yield (
            f"devices: this machine has an NVIDIA device, but torch (built for CUDA {devices.cuda_build}) sees none. "
            "Check the driver (nvidia-smi) and CUDA_VISIBLE_DEVICES."
        )


def has_nvidia_hardware() -> bool:
    """Whether the system lists an NVIDIA display or compute device (Linux), with or without a driver."""
    vendors = (path for path in PCI.glob("*/vendor") if path.read_text().strip() == "0x10de")
    displays = (path for path in vendors if path.with_name("class").read_text().startswith("0x03"))
    return any(DEVICES.glob("nvidia[0-9]*")) or any(displays)


def _folder(path: Path, faults: list[MultistreamError]) -> Folder:
    """Writes a file into the folder, or into its nearest parent if it does not exist yet."""
    writable, free = False, None
    with _noted(faults), writing(path):
        existing = next(each for each in (path, *path.parents) if each.exists())
        free = shutil.disk_usage(existing).free
        with temporary(existing) as name:
            name.write_bytes(b"written by multistream doctor")
        writable = True
    return Folder(path, writable, free)


def _temporary_folder(faults: list[MultistreamError]) -> Folder:
    try:
        return _folder(Path(tempfile.gettempdir()), faults)
    except FileNotFoundError as error:  # it has tried all of the system's folders
        faults.append(DiskFull("TMPDIR", f"no temporary folder can be written: {error.strerror}.", do="Set TMPDIR."))
        return Folder(Path(os.environ.get("TMPDIR", "")), False, None)


def size_on_disk(folder: Path) -> int:
    """The bytes that the files in a folder occupy; 0 if it does not exist."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(parent, name))
            except FileNotFoundError:  # another process has removed a temporary file
                continue
            total += status.st_blocks * 512 if hasattr(status, "st_blocks") else status.st_size
    return total


def _variables(environment: Mapping[str, str]) -> dict[str, str | None]:
    """The values of variables; "set" for those that may be secret, such as unknown ones of plugins."""
    shown = {name: environment.get(name) for name in SHOWN}
    others = [name for name in sorted(environment) if name.startswith("MULTISTREAM_") and name not in SHOWN]
    return shown | {name: "set" if environment.get(name) else None for name in (*HIDDEN, *others)}
