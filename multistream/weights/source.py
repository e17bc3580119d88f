"""Where pretrained weights can be had, and what a user should know of them before using them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """One set of pretrained weights: the `file` to look for, its `hub` name in timm's form, and what it was made of."""

    file: str = ""
    hub: str = ""
    trained_on: str = ""
    licence: str = ""
    sha256: str = ""
    preprocessing: str = ""
    size: str = ""
