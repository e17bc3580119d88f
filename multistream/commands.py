"""Shell commands for messages; every command line that is built from values is built here."""

from __future__ import annotations

import shlex
from pathlib import Path


def command_line(*words: str | Path) -> str:
    """`multistream WORDS`, quoted for a shell; a path that begins with a hyphen is not read as an option.

    >>> command_line("train", "--resume", Path("Läufe 2"))
    "multistream train --resume 'Läufe 2'"
    >>> command_line("evaluate", Path("-1"))
    'multistream evaluate ./-1'
    """
    return f"multistream {quoted(*words)}"


def quoted(*words: str | Path) -> str:
    """Words of a command line, quoted for a shell.

    >>> quoted("--out", Path("my run"))
    "--out 'my run'"
    """
    return shlex.join(map(_word, words))


def _word(word: str | Path) -> str:
    """The word as the command line must read it, not yet quoted."""
    text = str(word)
    return f"./{text}" if isinstance(word, Path) and text.startswith("-") else text
