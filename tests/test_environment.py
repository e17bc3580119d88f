from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from multistream import environment
from multistream.cli.doctor import as_text
from multistream.environment import CudaDevice, has_nvidia_hardware, inspect_environment, size_on_disk, unmet


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTISTREAM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def requires(monkeypatch: pytest.MonkeyPatch):
    """`requires(name, requirements)`: that distribution has these requirements; all others keep theirs."""

    def replace(name: str, *requirements: str) -> None:
        before = metadata.requires
        monkeypatch.setattr(metadata, "requires", lambda asked: list(requirements) if asked == name else before(asked))

    return replace


def test_a_sound_environment_has_no_faults(tmp_path: Path) -> None:
    found = inspect_environment()
    assert (found.faults, found.exit_code) == ((), 0)
    assert found.parts["stream"] >= 3
    assert found.devices is not None
    assert not (tmp_path / "cache").exists()  # only an inspection


def test_requirements_that_are_not_met_are_faults(requires) -> None:
    requires("multistream", "numpy>=99", "no-such-library>=1", "not-here>=1; python_version < '3'")
    found = inspect_environment()
    old, missing = found.faults
    assert old == (
        f"numpy: version {metadata.version('numpy')} is installed. multistream requires numpy>=99. "
        "Type pip install 'numpy>=99'."
    )
    assert missing.startswith("no-such-library: it is not installed.")
    assert found.exit_code == 69
    assert {row.name: row.satisfied for row in found.versions}["numpy"] is False


def test_an_extra_is_installed_with_the_extras_that_it_names(requires) -> None:
    requires("multistream", "numpy>=1", "pluggy[more]>=1; extra == 'fast'")
    assert unmet(Requirement("multistream[fast]")) == ()
    requires("pluggy", "no-such-library>=1; extra == 'more'", "another; extra == 'other'")
    assert unmet(Requirement("multistream[fast]")) == ("no-such-library>=1",)
    assert unmet(Requirement("multistream")) == ()


def test_a_broken_plugin_is_a_fault_with_its_cause(installed) -> None:
    installed("sketch", "broken")
    found = inspect_environment()
    (fault,) = found.faults
    assert fault.startswith("plugins: 'broken' of multistream-broken 0.3 is broken: ModuleNotFoundError: ")
    assert [row.name for row in found.broken] == ["broken"]
    assert found.exit_code == 69


def test_a_cache_that_cannot_be_written_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("MULTISTREAM_CACHE", str(file / "cache"))
    found = inspect_environment()
    assert not found.cache.writable
    (fault,) = found.faults
    assert fault.startswith(f"{file}: it cannot be written")
    assert found.exit_code == 74


def test_no_temporary_folder_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(environment.tempfile, "gettempdir", refuse)
    found = inspect_environment()
    (fault,) = found.faults
    assert "No usable temporary directory" in fault
    assert found.exit_code == 74


def test_a_torch_that_cannot_be_imported_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = inspect_environment()
    assert found.devices is None
    assert found.faults[0].startswith(
        "devices: they are unknown, because a library cannot be imported: import of torch"
    )
    assert found.exit_code == 69


def test_variables_of_half_a_launcher_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    found = inspect_environment()
    (fault,) = found.faults
    assert fault.startswith("WORLD_SIZE: it is 2, and RANK is not set.")
    assert found.devices is not None
    assert found.exit_code == 2


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HF_ENDPOINT", "MULTISTREAM_SKETCH_PASSWORD"):
        monkeypatch.setenv(name, "s3cret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    found = inspect_environment()
    assert "s3cret" not in str(found.to_dict())
    assert found.variables["HF_TOKEN"] == found.variables["MULTISTREAM_SKETCH_PASSWORD"] == "set"
    assert (found.variables["OMP_NUM_THREADS"], found.variables["HF_HUB_OFFLINE"]) == ("1", None)


def test_nvidia_hardware_is_found_without_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PCI", tmp_path)
    monkeypatch.setattr(environment, "DEVICES", tmp_path)
    device = tmp_path / "0000:01:00.0"
    device.mkdir()
    (device / "class").write_text("0x020700\n")  # an InfiniBand adapter
    (device / "vendor").write_text("0x10de\n")
    assert not has_nvidia_hardware()
    (device / "class").write_text("0x030200\n")
    assert has_nvidia_hardware()


@pytest.mark.parametrize("hardware", [True, False])
def test_a_gpu_that_torch_does_not_see_is_a_warning(hardware: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(environment, "has_nvidia_hardware", lambda: hardware)
    found = inspect_environment()
    assert [warning.startswith("devices: ") for warning in found.warnings] == [True] * hardware
    assert found.exit_code == 0


def test_the_size_of_a_folder_counts_all_levels(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(bytes(range(256)) * 400)
    assert 102_400 <= size_on_disk(tmp_path) < 200_000
    assert size_on_disk(tmp_path / "missing") == 0


def test_cuda_devices_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torch.utils import collect_env

    device = SimpleNamespace(name="NVIDIA H200", total_memory=150 * 10**9, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: device)
    monkeypatch.setattr(collect_env, "run", lambda _: (0, "| NVIDIA-SMI 570.1  Driver Version: 570.1  CUDA |", ""))
    found = inspect_environment()
    assert found.devices is not None
    assert found.devices.cuda == (CudaDevice("NVIDIA H200", 150 * 10**9, "9.0"),)
    assert (found.devices.driver, found.devices.device, found.devices.precision) == ("570.1", "cuda", "bf16")
    assert "cuda:0         NVIDIA H200, 150 GB, compute capability 9.0, driver 570.1" in as_text(found)
    assert not found.warnings
