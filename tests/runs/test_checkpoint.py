"""Checkpoints survive what happens to processes and disks: being killed, full, damaged, interrupted in any instant."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from multistream.errors import CannotResume, DiskFull
from multistream.runs import checkpoint
from multistream.runs.checkpoint import Checkpoint, manifest

Bits = bytes


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def groups(seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """Tensors of every kind that a training may hold."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 3, generator=draw)
    return {
        "model": {
            "weight": weight,
            "transposed": weight.T,
            "part": weight[1:3],
            "same": weight,
            "half": weight.bfloat16(),
            "double": weight.double(),
            "count": torch.tensor(2**53 + 1),
            "mask": weight > 0,
            "empty": torch.empty(0, 4),
            "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
            "last": torch.randn(2, 3, 4, 5, generator=draw).to(memory_format=torch.channels_last),
        },
        "rng": {"torch": torch.get_rng_state()},
        "best": {},
    }


def bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, Bits]:
    """All that makes two tensors the same, NaN and signed zeros as well."""
    plain = tensor.detach().cpu().contiguous()
    return plain.dtype, plain.shape, plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def save(folder: Path, step: int, **options: Any) -> Path:
    state = {"epoch": step, "best": float("inf"), "names": ["Gefühl", "\udcff"], "none": None}
    given = {"tensors": groups(step), "state": state, "about": {"world_size": 1, "classes": ["awe", "fear"]}, **options}
    return checkpoint.save(folder, step=step, **given)


def quiet(line: str) -> None:
    del line


def latest(folder: Path) -> Checkpoint:
    found = checkpoint.latest(folder, warn=quiet)
    assert found is not None
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What goes in comes out.


def test_all_comes_back_bit_by_bit(tmp_path: Path) -> None:
    path = save(tmp_path / "checkpoints", 7)
    found = latest(tmp_path / "checkpoints")
    assert (found.path, found.step, found.skipped) == (path, 7, ())
    assert path.name == "step-7"
    assert found.state == {"epoch": 7, "best": float("inf"), "names": ["Gefühl", "\udcff"], "none": None}
    assert found.about == {"world_size": 1, "classes": ["awe", "fear"]}
    given = groups(7)
    assert found.tensors.keys() == given.keys()
    for group, tensors in given.items():
        assert {name: bits(t) for name, t in found.tensors[group].items()} == {
            name: bits(t) for name, t in tensors.items()
        }


def test_the_files_are_what_their_formats_say(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    assert names(path) == [
        "best.safetensors",
        "manifest.json",
        "manifest.sha256",
        "model.safetensors",
        "rng.safetensors",
        "state.json",
    ]
    told = json.loads((path / "manifest.json").read_text())
    assert told["format"] == 1
    for name, entry in told["files"].items():
        content = (path / name).read_bytes()
        assert entry == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    subprocess.run(["sha256sum", "--check", "--quiet", "manifest.sha256"], cwd=path, check=True)


def test_what_was_loaded_is_no_part_of_the_file(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    found = latest(tmp_path)
    for name in names(path):
        (path / name).write_bytes(b"")
    shutil.rmtree(path)
    assert bits(found.tensors["model"]["weight"]) == bits(groups(1)["model"]["weight"])
    found.tensors["model"]["weight"].add_(1)


def test_none_is_there(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "missing", warn=quiet) is None
    (tmp_path / "step-x").mkdir()
    (tmp_path / "step-03").mkdir()
    assert checkpoint.latest(tmp_path, warn=pytest.fail) is None


@pytest.mark.parametrize("group", ["../model", "Model", "", "model.bin", "a" * 65])
def test_groups_cannot_leave_the_folder(tmp_path: Path, group: str) -> None:
    with pytest.raises(ValueError, match="group of tensors"):
        save(tmp_path, 1, tensors={group: {}})
    assert names(tmp_path) == []


def test_what_is_too_large_to_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "JSON_LIMIT", 1000)
    with pytest.raises(ValueError, match="more than 1,000"):
        save(tmp_path, 1, state={"long": "x" * 1000})
    assert names(tmp_path) == []


# Which ones stay.


def test_the_newest_two_stay_and_those_to_keep(tmp_path: Path) -> None:
    for step in (1, 2, 9, 10, 11, 100):
        save(tmp_path, step, keep=[2])
    assert names(tmp_path) == ["step-100", "step-11", "step-2"]
    assert latest(tmp_path).step == 100


def test_a_step_saved_again_never_leaves_an_instant_without(tmp_path: Path) -> None:
    paths = [save(tmp_path, 5, state={"again": again}) for again in range(12)]
    assert [path.name for path in paths[:3]] == ["step-5", "step-5-1", "step-5-2"]
    assert latest(tmp_path).state == {"again": 11}
    assert names(tmp_path) == ["step-5-10", "step-5-11"]


def test_damaged_ones_do_not_push_out_good_ones(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, keep=range(4))
    for step in (2, 3):
        (tmp_path / f"step-{step}" / "state.json").write_text("")
    save(tmp_path, 4)
    assert names(tmp_path) == ["step-1", "step-2", "step-3", "step-4"]
    save(tmp_path, 5)
    assert names(tmp_path) == ["step-4", "step-5"]


def test_one_that_is_half_removed_looks_like_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        save(tmp_path, step)

    def die(path: Path) -> None:
        (path / "state.json").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 3)
    monkeypatch.undo()
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ["step-2", "step-3"]
    checkpoint.clean(tmp_path)
    assert names(tmp_path) == ["step-2", "step-3"]


def test_clean_removes_the_stale(tmp_path: Path) -> None:
    """The run's lock is held: what another machine's process left half written is removed at once, however new."""
    (tmp_path / f".tmp-step-9-{os.getpid()}-0123abcd-0123abcd").mkdir()
    save(tmp_path, 1)
    checkpoint.clean(tmp_path)
    assert names(tmp_path) == ["step-1"]


# Damage is noticed, and told.


def damage_bit(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]


def damage_end(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


@pytest.mark.parametrize("damage", [damage_bit, damage_end])
def test_one_bit_or_a_cut_is_always_noticed(tmp_path: Path, damage: Callable[[bytes, random.Random], bytes]) -> None:
    draw = random.Random(1)
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    whole = {path: path.read_bytes() for path in newest.iterdir()}
    for trial in range(300):
        path = draw.choice(sorted(whole)) if trial % 2 else newest / "model.safetensors"
        path.write_bytes(damage(whole[path], draw))
        told: list[str] = []
        found = checkpoint.latest(tmp_path, warn=told.append)
        assert found is not None
        assert found.step == 1, path.name
        assert told == [found.skipped[0][1]]
        assert str(newest) in told[0]
        assert "damaged" in told[0]
        path.write_bytes(whole[path])
    assert latest(tmp_path).step == 2


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json", "manifest.sha256"])
def test_a_file_that_is_gone_or_is_none(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1)
    (path / name).rename(tmp_path / "elsewhere")
    with pytest.raises(CannotResume, match=f"{name} is missing"):
        checkpoint.load(path)
    (path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CannotResume, match="not a regular file"):
        checkpoint.load(path)
    (path / name).unlink()
    os.mkfifo(path / name)
    with pytest.raises(CannotResume, match="not a regular file"):
        checkpoint.load(path)


def test_all_damaged_is_none_told_twice(tmp_path: Path) -> None:
    told: list[str] = []
    for step in (1, 2):
        (save(tmp_path, step) / "state.json").unlink()
    assert checkpoint.latest(tmp_path, warn=told.append) is None
    assert ["step-2" in told[0], "step-1" in told[1]] == [True, True]
    assert CannotResume.exit_code == 78


# Files that somebody made, seals and all.


def seal(path: Path) -> None:
    """Makes manifest and seal fit what lies there, so that the parsers behind them are reached."""
    told = json.loads((path / "manifest.json").read_text())
    for name in told["files"]:
        content = (path / name).read_bytes()
        told["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    seal_manifest(path, json.dumps(told).encode())


def seal_manifest(path: Path, content: bytes) -> None:
    (path / "manifest.json").write_bytes(content)
    (path / "manifest.sha256").write_bytes(manifest.seal_of(content))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 2}, "its format is 2"),
        ({"step": -1}, "lacks its step"),
        ({"step": True}, "lacks its step"),
        ({"step": "1"}, "lacks its step"),
        ({"about": []}, "lacks its step, files or about"),
        ({"files": {}}, "does not name state.json"),
        ({"files": {"state.json": 3}}, "no size and sha256 of state.json"),
        ({"files": {"state.json": {"size": 1.5, "sha256": "x"}}}, "no size and sha256"),
        ({"files": {"state.json": {"size": True, "sha256": "x"}}}, "no size and sha256"),
        ({"files": {"state.json": {"size": 10**30, "sha256": "x"}}}, "bytes, not 1,000,000"),
        *(
            (
                {"files": {"state.json": {"size": 1, "sha256": "x"}, name: {"size": 1, "sha256": "x"}}},
                "not a file of a checkpoint",
            )
            for name in ("/etc/passwd", "../state.json", "a/b.safetensors", "model.pt", "\0", "..", "x" * 10_000)
        ),
    ],
)
def test_manifests_that_cannot_be(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    path = save(tmp_path, 1)
    seal_manifest(path, json.dumps({**json.loads((path / "manifest.json").read_text()), **change}).encode())
    with pytest.raises(CannotResume, match=told) as caught:
        checkpoint.load(path)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"\xff\xfe", b"[" * 100_000, b"9" * 10_000, b'{"a": ' * 50_000, b"null"]
)
@pytest.mark.parametrize("name", ["manifest.json", "state.json"])
def test_json_that_is_none(tmp_path: Path, name: str, content: bytes) -> None:
    path = save(tmp_path, 1)
    (path / name).write_bytes(content)
    if name == "state.json":
        seal(path)
    else:
        seal_manifest(path, content)
    with pytest.raises(CannotResume, match=name):
        checkpoint.load(path)


def test_json_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    with (path / "manifest.json").open("wb") as file:
        file.truncate(10**12)  # holes cost no disk
    with pytest.raises(CannotResume, match="more than 67,108,864"):
        checkpoint.load(path)


def header(told: object, *, length: int | None = None, data: bytes = b"") -> bytes:
    content = told if isinstance(told, bytes) else json.dumps(told).encode()
    return struct.pack("<Q", len(content) if length is None else length) + content + data


def tensor(shape: list[Any], begin: int, end: int, kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01",
        header({}, length=2**63),
        header({}, length=10**9),
        header(b"{" * 1000),
        header(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        header({"a": tensor([2**40], 0, 2**42)}),
        header({"a": tensor([2**62, 4], 0, 0)}),
        header({"a": tensor([2**32, 2**32], 0, 0)}),
        header({"a": tensor([2], 0, 4)}, data=bytes(4)),
        header({"a": tensor([1], 4, 0)}, data=bytes(4)),
        header({"a": tensor([1], 0, 4), "b": tensor([1], 0, 4)}, data=bytes(4)),
        header({"a": tensor([1], 0, 4), "b": tensor([1], 2, 6)}, data=bytes(6)),
        header({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, data=bytes(12)),
        header({"a": tensor([1], 0, 4)}, data=bytes(8)),
        header({"a": tensor([-1], 0, 4)}, data=bytes(4)),
        header({"a": tensor([1.0], 0, 4)}, data=bytes(4)),
        header({"a": tensor([1], 0, 4, "F1000")}, data=bytes(4)),
        header({"a": 3}),
        header({"__metadata__": {"a": 3}}),
    ],
)
def test_tensor_files_that_cannot_be(tmp_path: Path, content: bytes) -> None:
    path = save(tmp_path, 1)
    (path / "model.safetensors").write_bytes(content)
    seal(path)
    with pytest.raises(CannotResume, match=r"model\.safetensors cannot be read"):
        checkpoint.load(path)


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Bytes with a few of them changed, cut out, put in twice, or told larger."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(min(len(changed), draw.choice([16, 400, len(changed) + 1]))) if changed else 0
        size = draw.randint(1, 12)
        match draw.randrange(5):
            case 0:
                changed[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                del changed[at : at + size]
            case 2:
                changed[at:at] = changed[at : at + size]
            case 3:
                changed[at : at + size] = draw.choice([b"9" * size, b"\xff" * size, b"-1", b"1e9", b"[", b'"', b"{}"])
            case _:
                changed[at:at] = draw.randbytes(size)
    return bytes(changed)


def mutate_often(tmp_path: Path, trials: int) -> None:
    """Loads mutated checkpoints: only CannotResume, or a state with tensors no larger than the files."""
    resource_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = save(tmp_path, 1)
    whole = {file: file.read_bytes() for file in path.iterdir()}
    draw = random.Random(trials)
    refused = 0
    for trial in range(trials):
        file = draw.choice(sorted(whole))
        file.write_bytes(mutated(whole[file], draw))
        if trial % 4:  # most are sealed again: the hash would refuse them all alike
            (seal if file.suffix == ".safetensors" or file.name == "state.json" else _reseal)(path)
        try:
            found = checkpoint.load(path)
        except CannotResume:
            refused += 1
        else:
            assert sum(t.nbytes for group in found.tensors.values() for t in group.values()) < 100_000
        for each, content in whole.items():
            each.write_bytes(content)
    assert refused > trials / 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resource_before < 300_000, "kB"


def _reseal(path: Path) -> None:
    seal_manifest(path, (path / "manifest.json").read_bytes())


def test_mutations_give_only_our_error(tmp_path: Path) -> None:
    mutate_often(tmp_path, 600)


@pytest.mark.slow
def test_ten_thousand_mutations_give_only_our_error(tmp_path: Path) -> None:
    mutate_often(tmp_path, 10_000)


# Disks that refuse.


def test_a_full_disk_leaves_the_old_one(tmp_path: Path) -> None:
    save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DiskFull, match=r"400\.0 kB \(400,000 bytes\) needed, .* free") as caught:
            save(tmp_path, 2, tensors={"model": {"large": torch.zeros(100_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.exit_code == 74
    assert names(tmp_path) == ["step-1"]
    assert latest(tmp_path).step == 1


def test_a_disk_that_fills_at_any_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, every call that brings something to the disk is refused."""
    save(tmp_path, 1)
    sync, calls, refused = os.fsync, 0, 0

    def refuse_one(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == refused:
            raise OSError(28, os.strerror(28))
        sync(handle)

    monkeypatch.setattr(os, "fsync", refuse_one)
    for refused in range(1, 20):
        calls = 0
        try:
            save(tmp_path, 1 + refused, keep=range(30))
        except DiskFull:
            assert latest(tmp_path).step in (1, 1 + refused), "either not there, or whole"
            assert not [name for name in names(tmp_path) if name.startswith(".")]
            shutil.rmtree(tmp_path / f"step-{1 + refused}", ignore_errors=True)
        else:
            break
    assert refused == calls + 1 == 9, "six files, the folder, the parent"


def test_a_tmpfs_that_is_really_full(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    try:
        save(tmp_path, 1)
        with pytest.raises(DiskFull, match=r"4\.0 MB \(4,000,000 bytes\) needed, .* free \(No space left on device\)"):
            save(tmp_path, 2, tensors={"model": {"large": torch.zeros(1_000_000)}})
        assert names(tmp_path) == ["step-1"]
        assert latest(tmp_path).step == 1
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        with pytest.raises(DiskFull, match="Read-only file system"):
            save(tmp_path, 2)
        assert latest(tmp_path).step == 1
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_saving_is_quick(tmp_path: Path) -> None:
    """What it costs beside writing the bytes is a number of syncs that does not grow."""
    started = time.perf_counter()
    for step in range(10):
        save(tmp_path, step)
    assert (time.perf_counter() - started) / 10 < 1.0


# Processes that die.

SAVE_FOR_EVER = textwrap.dedent("""
    import itertools, os, sys
    from pathlib import Path
    import torch
    from multistream.runs import checkpoint

    torch.set_num_threads(1)
    folder = Path(sys.argv[1])

    def save_for_ever():
        checkpoint.clean(folder)
        found = checkpoint.latest(folder, warn=lambda line: sys.exit(f"damaged: {line}"))
        for step in itertools.count(found.step + 1 if found else 0):
            values = {f"p{i}": torch.full((50, 50), float(step)) for i in range(8)}
            checkpoint.save(folder, step=step, tensors={"model": values, "rng": values}, state={"step": step}, about={})
            os.write(1, f"{step}\\n".encode())

    for line in sys.stdin:  # a process each, without importing torch each time
        child = os.fork()
        if child == 0:
            save_for_ever()
        os.write(1, f"child {child}\\n".encode())
        os.write(1, f"ended {os.waitpid(child, 0)[1]}\\n".encode())
""")


def kill_often(folder: Path, *, trials: int, temporary: str) -> None:
    """Kills a process that saves and saves, in random instants; what it has told as saved is always found."""
    draw = random.Random(trials)
    environment = {**os.environ, "TMPDIR": temporary, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SAVE_FOR_EVER, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as launcher:
        half_way = sum(kill_once(launcher, folder, after=draw.uniform(0, 0.03)) for _ in range(trials))
    assert half_way, "no kill came while a checkpoint was being written: the test tests nothing"
    checkpoint.clean(folder)
    assert not [name for name in names(folder) if name.startswith(".")]


def kill_once(launcher: subprocess.Popen[str], folder: Path, *, after: float) -> bool:
    """Starts, kills, looks; whether the kill left something half-written."""
    assert launcher.stdin is not None
    assert launcher.stdout is not None
    launcher.stdin.write("go\n")
    launcher.stdin.flush()
    child, steps = 0, list[int]()
    while not (child and steps):
        told = launcher.stdout.readline()
        if told.startswith("child "):
            child = int(told.split()[1])
        else:
            steps.append(int(told))
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    while (told := launcher.stdout.readline()) and not told.startswith("ended"):
        steps.append(int(told))
    assert told == f"ended {int(signal.SIGKILL)}\n"
    left = names(folder)
    found = checkpoint.latest(folder, warn=pytest.fail)
    assert found is not None
    assert found.step in (steps[-1], steps[-1] + 1), "the one told last, or one that was saved and not yet told"
    assert all(bool((t == found.step).all()) for t in found.tensors["model"].values())
    assert len([name for name in left if name.startswith("step-")]) in (1, 2, 3)
    return any(name.startswith(".tmp-") for name in left)


def elsewhere() -> str:
    """A folder for temporary files on another file system, where there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else "/"


def test_a_kill_at_any_instant(tmp_path: Path) -> None:
    kill_often(tmp_path, trials=20, temporary=elsewhere())


@pytest.mark.slow
def test_a_hundred_kills(tmp_path: Path) -> None:
    kill_often(tmp_path, trials=100, temporary=elsewhere())


# Optimizers.

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "momentum-fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adam-amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, betas=(0.8, 0.99)),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
}


class Toy(nn.Module):
    """A network whose last layer is used from a step on: its parameters have no optimizer state before."""

    def __init__(self, *, late_from: int = 5) -> None:
        super().__init__()
        self.late_from = late_from
        self.first = nn.Conv2d(3, 7, 3).to(memory_format=torch.channels_last)
        self.second = nn.Linear(7, 5)
        self.late = nn.Linear(5, 5)

    def forward(self, images_BCHW: Tensor, *, step: int) -> Tensor:
        features: Tensor = self.second(self.first(images_BCHW).mean((2, 3)))
        return self.late.forward(features) if step >= self.late_from else features


def make(kind: str, network: Toy) -> torch.optim.Optimizer:
    weights = [p for n, p in network.named_parameters() if n.endswith("weight")]
    biases = [p for n, p in network.named_parameters() if n.endswith("bias")]
    return OPTIMIZERS[kind]([{"params": weights, "base": 0.3}, {"params": biases, "base": 0.1, "weight_decay": 0.0}])


def train(network: Toy, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step), device="cpu")
        for group in optimizer.param_groups:
            group["lr"] = group["base"] / (step + 3)
        optimizer.zero_grad()
        network(images.to(network.late.weight.device), step=step).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("stop", [0, 1, 4, 7])
def test_training_goes_on_as_if_nothing_had_been(tmp_path: Path, kind: str, stop: int) -> None:
    go_on(tmp_path, kind, stop, device="cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_on_a_gpu(tmp_path: Path, kind: str) -> None:
    go_on(tmp_path, kind, 4, device="cuda")


def go_on(tmp_path: Path, kind: str, stop: int, *, device: str) -> None:
    """Trains 10 steps at once, and in two processes' worth of objects with a checkpoint between."""
    torch.manual_seed(0)
    late_from = 0 if kind == "momentum-fused" else 5  # torch's own cannot step parameters that join later
    whole, halved, fresh = (Toy(late_from=late_from).to(device) for _ in range(3))
    halved.load_state_dict(whole.state_dict())
    before, after = make(kind, whole), make(kind, halved)
    train(whole, before, range(10))
    train(halved, after, range(stop))
    tensors, json_state = checkpoint.optimizer_tensors(after, dict(halved.named_parameters()))
    written = {"model": halved.state_dict(), "optimizer": tensors}
    checkpoint.save(tmp_path, step=stop, tensors=written, state={"optimizer": json_state}, about={})

    found = latest(tmp_path)
    fresh.load_state_dict(dict(found.tensors["model"]))
    resumed, parameters = make(kind, fresh), dict(fresh.named_parameters())
    checkpoint.restore_optimizer(resumed, parameters, found.tensors["optimizer"], found.state["optimizer"])
    same_state(after, halved, resumed, fresh)
    train(fresh, resumed, range(stop, 10))
    same_state(before, whole, resumed, fresh)
    assert {n: bits(t) for n, t in fresh.state_dict().items()} == {n: bits(t) for n, t in whole.state_dict().items()}


def same_state(one: torch.optim.Optimizer, its: Toy, other: torch.optim.Optimizer, others: Toy) -> None:
    """Both optimizers hold the same, where and how the parameters lie as well."""
    for (name, mine), theirs in zip(its.named_parameters(), others.parameters(), strict=True):
        assert one.state[mine].keys() == other.state[theirs].keys()
        for slot, value in one.state[mine].items():
            copy = other.state[theirs][slot]
            assert (type(value), value is None) == (type(copy), copy is None), (name, slot)
            if isinstance(value, Tensor):
                assert bits(value) == bits(copy), (name, slot)
                assert (value.stride(), value.device) == (copy.stride(), copy.device), (name, slot)
    for mine_group, their_group in zip(one.param_groups, other.param_groups, strict=True):
        mine_rest, their_rest = ({k: v for k, v in g.items() if k != "params"} for g in (mine_group, their_group))
        assert mine_rest == their_rest


def test_slots_are_named_after_parameters() -> None:
    network = Toy()
    optimizer = make("adam", network)
    train(network, optimizer, range(1))
    tensors, _ = checkpoint.optimizer_tensors(optimizer, dict(network.named_parameters()))
    slots = ("step", "exp_avg", "exp_avg_sq")
    assert set(tensors) == {
        f"{layer}.{kind}/{slot}" for layer in ("first", "second") for kind in ("weight", "bias") for slot in slots
    }


def saved_adam() -> tuple[dict[str, Tensor], Any]:
    network = Toy()
    optimizer = make("adam", network)
    train(network, optimizer, range(6))
    return checkpoint.optimizer_tensors(optimizer, dict(network.named_parameters()))


def test_another_optimizer_or_network_is_refused() -> None:
    tensors, told = saved_adam()
    network = Toy()
    parameters = dict(network.named_parameters())
    with pytest.raises(CannotResume, match="of Adam, not of SGD"):
        checkpoint.restore_optimizer(make("sgd", network), parameters, tensors, told)
    fewer = [p for n, p in parameters.items() if n != "late.bias"]
    with pytest.raises(CannotResume, match=r"differ from the current ones: late\.bias"):
        checkpoint.restore_optimizer(torch.optim.Adam(fewer), parameters, tensors, told)
    with pytest.raises(CannotResume, match="different groups"):
        checkpoint.restore_optimizer(torch.optim.Adam(parameters.values()), parameters, tensors, told)
    optimizer = make("adam", network)
    optimizer.param_groups[0]["invented"] = 3
    with pytest.raises(CannotResume, match="groups have different settings: invented"):
        checkpoint.restore_optimizer(optimizer, parameters, tensors, told)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("first.weight/exp_avg", torch.zeros(3), "has the shape"),
        ("strange/exp_avg", torch.zeros(3), "no parameter"),
        ("exp_avg", torch.zeros(3), "no parameter"),
    ],
)
def test_state_that_fits_no_parameter_is_refused(name: str, value: Tensor, reason: str) -> None:
    tensors, told = saved_adam()
    network = Toy()
    optimizer = make("adam", network)
    with pytest.raises(CannotResume, match=reason):
        checkpoint.restore_optimizer(optimizer, dict(network.named_parameters()), {**tensors, name: value}, told)
    assert not optimizer.state, "a refusal changes nothing"


@pytest.mark.parametrize(
    "told",
    [
        None,
        [],
        {},
        {"kind": "Adam"},
        {"kind": "Adam", "groups": 3, "values": {}},
        {"kind": "Adam", "groups": [], "values": []},
    ],
)
def test_json_that_is_no_optimizers_is_refused(told: Any) -> None:
    network = Toy()
    with pytest.raises(CannotResume, match="optimizer"):
        checkpoint.restore_optimizer(make("adam", network), dict(network.named_parameters()), {}, told)


# Random generators.


def draws() -> list[Any]:
    return [torch.rand(3).tolist(), np.random.normal(size=3).tolist(), [random.gauss(0, 1), random.random()]]


@pytest.mark.parametrize("odd", [0, 1])
def test_generators_go_on_where_they_were(tmp_path: Path, odd: int) -> None:
    """An odd number of normal draws leaves one over in numpy and Python."""
    mine = (torch.get_rng_state(), np.random.get_state(), random.getstate())
    for _ in range(odd):
        np.random.normal()
        random.gauss(0, 1)
    checkpoint.save(tmp_path, step=1, tensors={"rng": checkpoint.rng_tensors()}, state={}, about={})
    expected = draws()
    draws()
    checkpoint.restore_rng(latest(tmp_path).tensors["rng"])
    assert draws() == expected
    torch.set_rng_state(mine[0])
    np.random.set_state(mine[1])
    random.setstate(mine[2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_the_generator_of_a_gpu_goes_on() -> None:
    torch.rand(3, device="cuda")
    state = checkpoint.rng_tensors()
    expected = torch.rand(3, device="cuda")
    checkpoint.restore_rng(state)
    assert torch.equal(torch.rand(3, device="cuda"), expected)


@pytest.mark.parametrize("name", ["torch", "numpy", "numpy_at", "numpy_normal", "python", "python_normal"])
@pytest.mark.parametrize("value", [None, torch.zeros(0), torch.zeros(3, 3), torch.tensor([2**40] * 3)])
def test_states_that_are_none_are_refused(name: str, value: Tensor | None) -> None:
    states = checkpoint.rng_tensors()
    before = [bits(t) for t in states.values()]
    changed = {n: t for n, t in {**states, name: value}.items() if t is not None}
    if name == "python_normal" and value is not None and not value.numel():
        checkpoint.restore_rng(changed)  # no normal draw is left over: that is a state
        return
    with pytest.raises(CannotResume, match="random generator states"):
        checkpoint.restore_rng(changed)
    assert [bits(t) for t in checkpoint.rng_tensors().values()] == before, "a refusal changes nothing"
