"""The page: sections in a template, with style and script inside and a policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from string import Template

from multistream.reporting.markup import Safe, join, tag

TITLES = {
    "trained": "Training",
    "results": "Results",
    "learning": "Learning",
    "evidence": "Evidence",
    "cues": "Planted cues",
    "ablation": "Ablation",
    "cost": "Cost",
    "checks": "Checks",
    "repeat": "Repeat",
}
"""The sections' short names, in the order of the page."""


def assemble(*, title: str, name: str, summary: Safe, sections: Mapping[str, Safe]) -> str:
    """The whole page as HTML; `sections` by identity, in any order."""
    style, script = read("page.css"), read("page.js")
    present = [identity for identity in TITLES if identity in sections]
    contents = [tag("a", TITLES[identity], attributes={"href": f"#{identity}"}) for identity in present]
    return Template(read("page.html")).substitute(
        title=join([title]),
        name=join([name]),
        summary=summary,
        contents=join(contents),
        sections="\n".join(sections[identity] for identity in present),
        style=style,
        style_hash=digest(style),
        script=script,
        script_hash=digest(script),
    )


def read(name: str) -> str:
    """A file of this package."""
    return (files("multistream.reporting") / name).read_text(encoding="utf-8")


def digest(text: str) -> str:
    """What a Content-Security-Policy knows an inline script or style by."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
