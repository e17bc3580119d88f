"""Recipes: all settings of a run, as a frozen dataclass and as a TOML file."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import tomli_w

from multistream.checksums import check_checksum
from multistream.errors import UsageError, check_known, did_you_mean
from multistream.files import write_atomic
from multistream.recipe.sections import (
    DataSettings,
    NetworkSettings,
    OptionSettings,
    RuntimeSettings,
    Section,
    TrainingSettings,
    is_table,
)
from multistream.spec import expanded

__all__ = [
    "DataSettings",
    "NetworkSettings",
    "OptionSettings",
    "Recipe",
    "RuntimeSettings",
    "TrainingSettings",
    "differences",
]

SHIPPED = ("default", "paper", "paper-code")
FILE = "recipe.toml"
"""The name of the recipe in a run folder."""

Tree = dict[str, dict[str, Any]]
"""{section: {setting: value}}, as in TOML."""


@dataclass(frozen=True)
class Recipe:
    """All settings of a run. Missing settings have their default; an unknown setting raises UsageError.

    >>> recipe = Recipe().with_settings(["training.learning_rate=0.01", "network.streams.object=object"])
    >>> recipe.training.learning_rate, recipe.network.streams
    (0.01, {'object': 'object'})
    >>> Recipe.loads(recipe.dumps()) == recipe
    True
    """

    data: DataSettings = field(default_factory=DataSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    options: OptionSettings = field(default_factory=OptionSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)

    def __post_init__(self) -> None:
        streams = self.network.streams
        if not streams:  # keys cannot be checked before --streams is applied
            return
        for where, keys in self._keyed():
            check_known(keys, streams, where=where, what="no stream has the key {name!r}.")
        if "none" in self.network.freeze and len(self.network.freeze) > 1:
            what = f"{', '.join(self.network.freeze)} contradict each other."
            raise UsageError("network.freeze", what, right="none cannot be combined with other entries.")

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> Self:
        """Reads a file, a run folder's recipe, or (as a str) a built-in one: default, paper, paper-code."""
        if source in SHIPPED:
            shipped = files("multistream").joinpath("recipe", f"{source}.toml")
            return cls.loads(shipped.read_text(encoding="utf-8"), where=str(source))
        path = expanded(source, where="recipe")
        if path.is_dir():
            path = path / FILE
            check_checksum(path)
        try:
            return cls.loads(path.read_text(encoding="utf-8-sig"), where=str(path))
        except FileNotFoundError as error:
            right = did_you_mean(str(source), SHIPPED)
            raise UsageError(
                "recipe", f"{str(source)!r} is not a file, a run or a built-in recipe.", right=right
            ) from error
        except UnicodeDecodeError as error:
            raise UsageError(path, "the file is not UTF-8.", right="A recipe must be a TOML file.") from error
        except OSError as error:
            raise UsageError(path, f"it cannot be read: {error.strerror}.") from error

    @classmethod
    def loads(cls, toml: str, *, where: str = "recipe") -> Self:
        """Parses the text of a recipe; `where` names its source in the error if it is not valid TOML."""
        try:
            return cls.from_dict(_parsed(toml))
        except ValueError as error:
            raise UsageError(where, f"this is not valid TOML: {error}.") from error

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Self:
        """Makes a recipe from `{section: {setting: value}}`; missing settings have their default."""
        _check_names(tree)
        sections: dict[str, Any] = {name: SECTIONS[name](**values) for name, values in tree.items()}
        return cls(**sections)

    def to_dict(self) -> Tree:
        """All settings, defaults included, as `{section: {setting: value}}` of plain dicts and lists."""
        return {
            name: {each.name: _plain(getattr(getattr(self, name), each.name)) for each in fields(section)}  # type: ignore[arg-type]
            for name, section in SECTIONS.items()
        }

    def dumps(self) -> str:
        """The recipe as TOML, with all settings."""
        return tomli_w.dumps(self.to_dict())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the recipe as TOML."""
        write_atomic(Path(path), self.dumps())

    def updated(self, changes: Mapping[str, Mapping[str, Any]]) -> Self:
        """A new recipe with these settings replaced; removing a stream removes its settings in other tables."""
        _check_names(changes)
        tree = self.to_dict()
        for name, values in changes.items():
            tree[name] |= values
        return self._rebuilt(tree)

    def with_settings(self, settings: Iterable[str]) -> Self:
        """A new recipe with `KEY=VALUE` settings, as in `--set`; VALUE is a TOML value or a bare word."""
        tree = self.to_dict()
        for text in settings:
            dotted, equals, value = text.partition("=")
            if not equals:
                raise UsageError(
                    "--set", f"{text!r} has no value.", right="Write KEY=VALUE, for example training.epochs=10."
                )
            _set(tree, dotted.strip().split("."), _value(value.strip()))
        return self._rebuilt(tree)

    def _rebuilt(self, tree: Tree) -> Self:
        """The recipe of a changed tree, without the entries of streams that were removed."""
        streams = tree["network"]["streams"]
        gone = set(self.network.streams) - set(streams if isinstance(streams, Mapping) else ())
        for section, name in KEYED:
            if isinstance(entries := tree[section][name], Mapping):
                tree[section][name] = {key: value for key, value in entries.items() if key not in gone}
        freeze = tree["network"]["freeze"]
        if isinstance(freeze, list | tuple):
            tree["network"]["freeze"] = [entry for entry in freeze if str(entry).partition(":")[0] not in gone]
        return type(self).from_dict(tree)

    def _keyed(self) -> Iterable[tuple[str, Iterable[str]]]:
        """Pairs of a setting's name and the stream keys in it."""
        for section, name in KEYED:
            yield f"{section}.{name}", getattr(getattr(self, section), name)
        named = [entry.partition(":")[0] for entry in self.network.freeze]
        yield "network.freeze", [key for key in named if key not in ("none", "streams", "branches")]


SECTIONS: Mapping[str, type[Section]] = {
    section.section: section
    for section in (DataSettings, NetworkSettings, OptionSettings, TrainingSettings, RuntimeSettings)
}
KEYED = (
    ("network", "depth"),
    ("network", "weights"),
    ("options", "streams"),
    ("training", "rates"),
    ("training", "decays"),
)
"""The tables with one entry per stream."""


def differences(a: Recipe, b: Recipe) -> list[tuple[str, Any, Any]]:
    """The settings that differ: (dotted name, a's value, b's value), None if a table has no such entry.

    >>> differences(Recipe(), Recipe().with_settings(["training.seed=1", "options.fusion.dropout=0.2"]))
    [('options.fusion.dropout', None, 0.2), ('training.seed', 0, 1)]
    """
    left, right = _flat(a.to_dict()), _flat(b.to_dict())
    names = [*left, *(name for name in right if name not in left)]
    return sorted((name, left.get(name), right.get(name)) for name in names if left.get(name) != right.get(name))


def _check_names(tree: Mapping[str, Any]) -> None:
    for section, values in tree.items():
        if section not in SECTIONS:
            raise _unknown(section)
        if not isinstance(values, Mapping):
            raise UsageError("recipe", f"{section} is {values!r}.", right=f"It must be a table: [{section}].")
        for name in values:
            if name not in _names(section):
                raise _unknown(f"{section}.{name}")


def _unknown(dotted: str) -> UsageError:
    """The error for an unknown name, with the nearest known name of any section."""
    section, _, name = dotted.rpartition(".")
    everywhere = [f"{section}.{name}" for section in SECTIONS for name in _names(section)]
    same_name = [known for known in everywhere if known.partition(".")[2] == name]
    near = same_name or get_close_matches(dotted, everywhere, n=1) or get_close_matches(dotted, SECTIONS, n=1)
    guess = f"Did you mean {near[0]!r}? " if near else ""
    known = f"[{section}] has {', '.join(_names(section))}" if section in SECTIONS else f"Known: {', '.join(SECTIONS)}"
    return UsageError("recipe", f"{dotted} is unknown.", right=f"{guess}{known}.")


def _names(section: str) -> list[str]:
    return [each.name for each in fields(SECTIONS[section])]  # type: ignore[arg-type]


def _set(tree: Tree, path: list[str], value: Any) -> None:
    """Sets the entry at `path`, which ends at a setting or at an entry of a table."""
    if path[0] in SECTIONS and len(path) == 1:
        raise UsageError("recipe", f"{path[0]} is a section.", right=f"It has {', '.join(_names(path[0]))}.")
    section, name, *inner = path if len(path) > 1 else ("", path[0])
    if section not in SECTIONS or name not in _names(section):
        raise _unknown(".".join(path[:2]))
    if inner and not is_table(name, SECTIONS[section]):
        raise UsageError("recipe", f"{'.'.join(path)} is unknown.", right=f"{section}.{name} is not a table.")
    place: dict[str, Any] = tree[section]
    for step in (name, *inner)[:-1]:
        place = place.setdefault(step, {})
        if not isinstance(place, dict):
            raise UsageError("recipe", f"{'.'.join(path)} cannot be set.", right=f"{step!r} is not a table.")
    place[path[-1]] = value


def _value(text: str) -> Any:
    """Parses a TOML value; other text is returned as a string."""
    try:
        tree = _parsed(f"value = {text}")
    except ValueError:
        return text
    return tree["value"] if len(tree) == 1 else text


def _parsed(toml: str) -> dict[str, Any]:
    """Parses TOML; ValueError if it is not valid, has a number of too many digits, or is nested too deeply."""
    try:
        return tomllib.loads(toml)
    except RecursionError as error:
        raise ValueError("its tables are nested too deeply") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
