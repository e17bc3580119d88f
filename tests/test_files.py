"""Files are whole or not there, one process has a folder, and a disk that refuses is never passed over."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from multistream import files
from multistream.errors import DataError, DiskFull, UsageError
from multistream.files import ABANDONED, clean, replacing, sha256_file, temporary, write_atomic
from multistream.local_processes import process_space


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def dead_pid() -> int:
    """The number of a process that has just ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_writes_text_and_bytes_and_nothing_else(tmp_path: Path) -> None:
    write_atomic(tmp_path / "new" / "text", "Gefühl\n")
    write_atomic(tmp_path / "new" / "bytes", b"\x00\xff")
    write_atomic(tmp_path / "new" / "bytes", b"\x01")
    assert (tmp_path / "new" / "text").read_bytes() == "Gefühl\n".encode()
    assert (tmp_path / "new" / "bytes").read_bytes() == b"\x01"
    assert names(tmp_path / "new") == ["bytes", "text"]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "atomic", "")
    (tmp_path / "plain").touch()
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_name_as_long_as_names_may_be(tmp_path: Path) -> None:
    write_atomic(tmp_path / ("n" * 255), "x")
    with pytest.raises(DiskFull, match="too long"):
        write_atomic(tmp_path / ("n" * 256), "x")


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("old")

    def fail() -> None:
        with replacing(tmp_path / "kept") as file:
            file.write(b"half")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        fail()
    assert (tmp_path / "kept").read_text() == "old"
    assert names(tmp_path) == ["kept"]


def test_the_old_file_stands_until_the_block_has_ended(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("old")
    with replacing(tmp_path / "kept") as file:
        file.write(b"new")
        file.flush()
        assert (tmp_path / "kept").read_text() == "old"
    assert (tmp_path / "kept").read_text() == "new"


def test_a_link_still_points_where_it_did(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_atomic(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_devices_and_folders_are_not_replaced(tmp_path: Path) -> None:
    """A pipe stands for /dev/null, which root could replace for all were the refusal broken."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="not a regular file"):
        write_atomic(tmp_path / "pipe", "x")
    with pytest.raises(UsageError, match="not a regular file"):
        write_atomic(tmp_path, "x")
    assert (tmp_path / "pipe").is_fifo()


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync, rename = os.fsync, Path.replace

    def synced(handle: int) -> None:
        order.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        sync(handle)

    def renamed(path: Path, target: Path) -> Path:
        order.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    write_atomic(tmp_path / "file", "x")
    assert order == ["file", "rename", "folder"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fails_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """File systems may refuse as late as when they sync."""

    def refuse(handle: int) -> None:
        del handle
        raise OSError(number, os.strerror(number))

    (tmp_path / "kept").write_text("old")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DiskFull, match=os.strerror(number)) as caught:
        write_atomic(tmp_path / "kept", "new")
    assert caught.value.exit_code == 74
    assert (tmp_path / "kept").read_text() == "old"
    assert names(tmp_path) == ["kept"]


def test_too_large_for_the_disk_says_needed_and_free(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(DiskFull, match=r"10\.0 kB \(10,000 bytes\) needed, .* bytes\) free"):
            write_atomic(tmp_path / "kept", b"x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "kept").read_text() == "old"
    assert names(tmp_path) == ["kept"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_writes_to_a_really_full_device() -> None:
    with pytest.raises(DiskFull, match="free"), files.writing(Path("/dev")):
        Path("/dev/full").write_bytes(b"x" * 10_000)


def read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the permission to write away, from root too."""
    if os.geteuid():
        folder.chmod(0o555)
        return
    original = Path.open

    def refuse(path: Path, mode: str = "r", *more: int, **options: object) -> object:
        if path.parent == folder and "r" not in mode:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return original(path, mode, *more, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)


def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kept").write_text("old")
    read_only(tmp_path, monkeypatch)
    with pytest.raises(DiskFull, match="Permission denied"):
        write_atomic(tmp_path / "kept", "new")
    tmp_path.chmod(0o755)
    assert (tmp_path / "kept").read_text() == "old"


def test_a_folder_under_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskFull, match="cannot be written"):
        write_atomic(tmp_path / "file" / "below", "x")


def test_what_is_not_the_disks_fault_is_not_blamed_on_it(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), replacing(tmp_path / "new"):
        raise PermissionError(errno.EACCES, "elsewhere", "/somewhere/else")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "new"):
        (tmp_path / "missing").read_bytes()


def test_sha256(tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "file").write_bytes(content)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_clean_removes_what_the_dead_left_and_no_more(tmp_path: Path) -> None:
    dead, end = dead_pid(), f"{process_space()}-0123abcd"
    stale = [
        tmp_path / f".tmp-{dead}-{end}",
        tmp_path / f".tmp-demo-{dead}-{end}",
        tmp_path / f".tmp-step-3-{dead}-{end}",
        tmp_path / f".tmp-{os.getpid()}-{end}",
    ]
    kept = [f".tmp-{os.getppid()}-{end}", ".tmp-step-3", ".tmp-mine", "step-3", f"x.tmp-{dead}-{end}"]
    for name in (*(path.name for path in stale), *kept):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").touch()
    (tmp_path / "outside").mkdir()
    link = tmp_path / f".tmp-{dead}-{process_space()}-aaaaaaaa"
    link.symlink_to("outside")
    assert sorted(clean(tmp_path)) == sorted([*stale, link])
    assert names(tmp_path) == sorted([*kept, "outside"])


def test_a_process_of_another_machine_is_not_judged_by_its_number(tmp_path: Path) -> None:
    """Its number is dead here, but the process may be writing: it goes when nothing has changed for a day."""
    name = f".tmp-{dead_pid()}-{'0' * 8}-0123abcd"
    for folder in ("new", "written", "old"):
        (tmp_path / folder / name).mkdir(parents=True)
        (tmp_path / folder / name / "content").touch()
    past = time.time() - ABANDONED - 60
    for old in ("written", "old", "old/content"):
        folder, _, inner = old.partition("/")
        os.utime(tmp_path / folder / name / inner, (past, past))
    (tmp_path / "old" / f"{name[:-1]}e").symlink_to(tmp_path / "new")
    os.utime(tmp_path / "old" / f"{name[:-1]}e", (past, past), follow_symlinks=False)
    assert clean(tmp_path / "new") == clean(tmp_path / "written") == ()
    assert len(clean(tmp_path / "old")) == 2
    assert names(tmp_path / "old") == []
    assert names(tmp_path / "new") == [name]


def test_under_a_lock_only_what_this_process_writes_stays(tmp_path: Path) -> None:
    (tmp_path / f".tmp-1-{'0' * 8}-0123abcd").touch()
    (tmp_path / f".tmp-1-{process_space()}-0123abcd").touch()
    with temporary(tmp_path) as own:
        own.touch()
        assert len(clean(tmp_path, locked=True)) == 2
        assert names(tmp_path) == [own.name]


def test_two_processes_clean_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process has just removed, or renamed to its place, is no error."""
    gone = tmp_path / f".tmp-1-{'0' * 8}-0123abcd"
    monkeypatch.setattr(Path, "glob", lambda _folder, _pattern: iter([gone]))
    assert clean(tmp_path) == ()
    assert clean(tmp_path, locked=True) == ()


def test_clean_leaves_what_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with replacing("file") as file, temporary(Path()):
        assert clean(tmp_path) == ()
        file.write(b"whole")
    assert (tmp_path / "file").read_text() == "whole"
    assert clean(tmp_path / "missing") == ()


def test_files_need_no_torch() -> None:
    assert run("import sys, multistream.files; sys.exit('torch' in sys.modules)").returncode == 0


def test_a_folder_that_was_removed_is_said_so(tmp_path: Path) -> None:
    gone = tmp_path / "run"
    with pytest.raises(DiskFull, match="no longer exists"), files.writing(gone):
        (gone / "metrics.jsonl").open("a")


def test_a_folder_of_text_files_is_whole_or_not_there(tmp_path: Path) -> None:
    texts = {"pyproject.toml": "a", "package/__init__.py": "b"}
    files.write_folder(tmp_path / "new", texts)
    assert (tmp_path / "new" / "package" / "__init__.py").read_text() == "b"
    with pytest.raises(DiskFull):
        files.write_folder(tmp_path / "other", {"good": "x", "n" * 300: "y"})
    assert names(tmp_path) == ["new"]


def test_reserved_space_is_real(tmp_path: Path) -> None:
    files.reserve(tmp_path / "map", size=3_000_000)
    status = (tmp_path / "map").stat()
    assert status.st_size == 3_000_000
    assert status.st_blocks * 512 >= 3_000_000
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(DiskFull, match=r"3\.0 MB"):
            files.reserve(tmp_path / "more", size=3_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("content", [b"{", b"[" * 100_000, b'{"a": "\xae"}', b"[1]", b"", b"nul"])
def test_what_is_no_json_object_is_one_error(content: bytes) -> None:
    with pytest.raises(DataError, match="summary"):
        files.json_object(content, where="summary")


def test_the_root_of_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """MULTISTREAM_CACHE, also relative; XDG_CACHE_HOME only where it is absolute, as its specification says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MULTISTREAM_CACHE", "here")
    assert files.cache_root() == tmp_path / "here"
    monkeypatch.delenv("MULTISTREAM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_root() == tmp_path / "xdg" / "multistream"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert files.cache_root().is_absolute()
    assert "relative" not in files.cache_root().parts
