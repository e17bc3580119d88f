"""Writes a new plugin: small, complete, with a test that passes; its author replaces the body of the part."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Literal

from multistream.errors import UsageError
from multistream.files import write_folder
from multistream.registry import PLURALS
from multistream.registry.catalogue import claims_of
from multistream.spec import check_key

NewKind = Literal["stream", "tap", "temporal", "fusion", "loss", "dataset"]

TEMPLATES: Mapping[str, str] = {
    "pyproject.toml": "pyproject.toml.in",
    "README.md": "README.md.in",
    "$package/__init__.py": "init.py.in",
    "$package/$kind.py": "$kind.py.in",
    "tests/test_$name.py": "test_$contract.py.in",
}
"""The files of a plugin, and the template of each in multistream/registry/templates."""


def new_plugin(name: str, *, kind: NewKind = "stream", out: Path | None = None) -> tuple[Path, ...]:
    """Writes a plugin that offers one part of this kind, by default in ./multistream-NAME; returns the files' paths."""
    check_key(name, where="plugins new", noun="name")
    if claims := claims_of(name):
        what = f"{name!r} is a component of {claims[0].owner}."
        raise UsageError("plugins new", what, right="Choose another name.")
    package = f"multistream_{name}"
    distribution = package.replace("_", "-")
    folder = Path(distribution) if out is None else out
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("plugins new", f"{folder} already exists.", right="Pass a new or empty folder with --out.")
    words = {"name": name, "kind": kind, "package": package, "distribution": distribution, "Name": _camel(name)}
    words |= {"contract": "dataset" if kind == "dataset" else "part", "factory": _factory(name, kind)}
    words |= {"hook": PLURALS[kind]}
    texts = {}
    for path, template in TEMPLATES.items():
        source = files("multistream.registry").joinpath("templates", Template(template).substitute(words))
        texts[Template(path).substitute(words)] = Template(source.read_text(encoding="utf-8")).substitute(words)
    write_folder(folder, texts)
    return tuple(folder / path for path in texts)


def _factory(name: str, kind: NewKind) -> str:
    """The name of the factory in the new module: a layout is a function, all others are classes."""
    return name if kind == "dataset" else _camel(name)


def _camel(name: str) -> str:
    """The class name for a part: `line_art` -> `LineArt`."""
    return "".join(word.capitalize() for word in name.split("_"))
