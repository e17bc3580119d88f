"""SHA256SUMS of a run: the hashes of its files at the end of training, in the format of `sha256sum --check`.

A file that was changed later is detected when it is read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from multistream.errors import DataError
from multistream.files import remove, sha256_file, write_atomic, writing
from multistream.system_errors import reason

SUMS: Final = "SHA256SUMS"
COVERED: Final = ("recipe.toml", "split.csv", "metrics.jsonl", "predictions.csv", "summary.json")
"""The files that SHA256SUMS lists. A model file contains its own digest, and a checkpoint has a manifest."""
KEPT_ON_RESUME: Final = ("recipe.toml", "split.csv")
"""The files that a resumed run keeps; the log of metrics is rewritten from the checkpoint."""

_LINE = re.compile(r"([0-9a-f]{64})  ([^/\\\0]{1,255})")


def write_checksums(run: Path) -> None:
    """Writes SHA256SUMS: the last step of training."""
    digests = [(sha256_file(run / name), name) for name in COVERED if (run / name).is_file()]
    write_atomic(run / SUMS, "".join(f"{digest}  {name}\n" for digest, name in digests))


def remove_checksums(run: Path) -> None:
    """Removes SHA256SUMS before a resumed run changes its files; the files that it keeps are checked first."""
    for name in KEPT_ON_RESUME:
        check_checksum(run / name)
    with writing(run):
        remove(run / SUMS)


def check_checksum(path: Path) -> None:
    """Raises DataError if a file of a run does not match SHA256SUMS; files that are not listed in it are not checked.

    A folder without SHA256SUMS is an unfinished run, or not a run.
    """
    recorded = _read(path.parent).get(path.name)
    if recorded is None:
        return
    try:
        digest = sha256_file(path)
    except OSError as error:
        raise DataError(path, f"it cannot be read: {reason(error)}.", do="Restore it.") from error
    if digest != recorded:
        right = f"Its sha256 must be the one in {SUMS}."
        do = f"Restore the file; if the change was intended, remove its line from {SUMS}."
        raise DataError(path, "it has changed since the training ended.", right=right, do=do)


def _read(run: Path) -> dict[str, str]:
    path = run / SUMS
    try:
        text = path.read_bytes().decode("ascii")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path) from error
    sums = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise _damaged(path)
        sums[match[2]] = match[1]
    return sums


def _damaged(path: Path) -> DataError:
    right = "Each line must be a sha256, two spaces and a file name."
    return DataError(path, "it is damaged.", right=right, do="Delete it if the run's files are correct.")
