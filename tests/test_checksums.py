"""A run's files are what they were when the training ended, or it is said."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from multistream.checksums import SUMS, check_checksum, remove_checksums, write_checksums
from multistream.errors import DataError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "summary.json").write_text('{"a": 1}')
    (tmp_path / "split.csv").write_text("path,label,part,sha256\n")
    (tmp_path / "report.html").write_text("free to change")
    write_checksums(tmp_path)
    return tmp_path


def test_sha256sum_reads_it(run: Path) -> None:
    done = subprocess.run(["sha256sum", "--check", SUMS], cwd=run, capture_output=True, text=True)
    assert done.stdout == "split.csv: OK\nsummary.json: OK\n"


def test_every_flip_is_noticed(run: Path) -> None:
    whole = (run / "summary.json").read_bytes()
    check_checksum(run / "summary.json")
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        (run / "summary.json").write_bytes(flipped)
        with pytest.raises(DataError, match="has changed since the training ended"):
            check_checksum(run / "summary.json")


def test_a_file_that_went_is_noticed_and_others_are_free(run: Path) -> None:
    (run / "report.html").write_text("changed")
    check_checksum(run / "report.html")
    (run / "split.csv").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        check_checksum(run / "split.csv")


@pytest.mark.parametrize("damage", [b"\xff", b"12  summary.json\n", b"0" * 64 + b" ../x\n"])
def test_damaged_sums(run: Path, damage: bytes) -> None:
    (run / SUMS).write_bytes(damage)
    with pytest.raises(DataError, match=SUMS):
        check_checksum(run / "summary.json")


def test_a_resumed_run_may_change_its_files_after_a_check(run: Path) -> None:
    (run / "split.csv").write_text("other")
    with pytest.raises(DataError, match=r"split\.csv"):
        remove_checksums(run)
    assert (run / SUMS).exists()
    (run / "split.csv").write_text("path,label,part,sha256\n")
    remove_checksums(run)
    (run / "summary.json").write_text("other")
    check_checksum(run / "summary.json")
