"""Sources of pretrained weights, with the information that a user needs before using them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """One set of pretrained weights: the name of its `file`, its `hub` name in timm's form, and its origin."""

    file: str = ""
    hub: str = ""
    trained_on: str = ""
    licence: str = ""
    sha256: str = ""
    preprocessing: str = ""
    size: str = ""
