"""Loads plugin modules: imports them, validates the parts that they offer, and isolates errors in them."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pluggy

from multistream import hookspecs
from multistream.errors import nearest
from multistream.hookspecs import API_VERSION, Factory
from multistream.spec import NAME

Kind = Literal["stream", "tap", "temporal", "fusion", "loss", "dataset"]
KINDS: tuple[Kind, ...] = ("stream", "tap", "temporal", "fusion", "loss", "dataset")
PLURALS: Mapping[Kind, str] = {kind: "losses" if kind == "loss" else f"{kind}s" for kind in KINDS}
HOOKS: Mapping[str, Kind] = {hook: kind for kind, hook in PLURALS.items()}
"""The kind of part that each hook offers."""

_DOTTED = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_ATTRIBUTE = re.compile(f"{_DOTTED}:{_DOTTED}")
"""Matches `module:attribute`."""


@dataclass(frozen=True)
class Plugin:
    """A plugin's module after loading: the parts that it `offers`, by kind and name, or the `error` if it is broken."""

    module: str
    offers: Mapping[Kind, Mapping[str, Factory]] = field(default_factory=dict)
    error: str = ""
    cause: BaseException | None = None


class Refused(Exception):
    """A plugin's module is not valid; the message is for its author."""


def _require(condition: object, otherwise: str) -> None:
    if not condition:
        raise Refused(otherwise)


@functools.cache
def load(module: str) -> Plugin:
    """Imports a plugin's module and validates the parts that it offers; the result holds the error, if any."""
    try:
        return Plugin(module, offers=_offers(_imported(module)))
    except Refused as error:
        return Plugin(module, error=str(error), cause=error)
    # A plugin may raise anything, including sys.exit() at import, and must not stop other plugins. Ctrl-C still does.
    except (Exception, SystemExit) as error:
        return Plugin(module, error=one_line(error), cause=error)


def one_line(error: BaseException) -> str:
    """An exception as one line of text, with the file and line that raised it."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen") and frame.filename not in (__file__, importlib.__file__)
    ]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}{place}"


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Redirects a plugin's prints during import to stderr, because stdout is for results, often JSON."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _imported(module: str) -> ModuleType:
    is_module = re.fullmatch(_DOTTED, module)
    example = "write the module's name alone, as in sketch = 'sketch'"
    _require(is_module, f"the entry point {module!r} is not a module: {example}")
    with quiet_stdout():
        imported = importlib.import_module(module)
    version = getattr(imported, "MULTISTREAM_API", API_VERSION)
    older = "this multistream" if isinstance(version, int) and version > API_VERSION else "the plugin"
    _require(
        version == API_VERSION,
        f"written for version {version} of the hooks (MULTISTREAM_API); here it is {API_VERSION}: upgrade {older}",
    )
    return imported


def _offers(module: ModuleType) -> dict[Kind, dict[str, Factory]]:
    """Registers one module with a new plugin manager, and calls its hooks."""
    manager = pluggy.PluginManager("multistream")
    manager.add_hookspecs(hookspecs)
    _refuse_misspelt(manager, module)
    try:
        manager.register(module)
    except pluggy.PluginValidationError as error:
        raise Refused(" ".join(str(error).split())) from error
    offers: dict[Kind, dict[str, Factory]] = {}
    for hook, kind in HOOKS.items():
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            is_plain = not (implementation.hookwrapper or implementation.wrapper)
            _require(is_plain, f"{hook}() is a hook wrapper; a plain function returns the parts")
            offers[kind] = _checked(hook, implementation.function)
    _require(offers, f"it has no hook: a function named {' or '.join(HOOKS)} and marked @multistream.hookimpl")
    return offers


def _refuse_misspelt(manager: pluggy.PluginManager, module: ModuleType) -> None:
    """Raises Refused for an implementation of an unknown hook, which pluggy would silently ignore."""
    for name in dir(module):
        if options := manager.parse_hookimpl_opts(module, name):
            hook = options.get("specname") or name
            _require(
                hook in HOOKS, f"there is no hook {hook!r}. {nearest(hook, HOOKS)}The hooks are {', '.join(HOOKS)}"
            )


def _checked(hook: str, function: Callable[..., object]) -> dict[str, Factory]:
    """Calls one hook, and returns its parts after checking every name and factory."""
    with quiet_stdout():
        parts = function()
    if not isinstance(parts, Mapping):
        raise Refused(f"{hook}() returned {_called(parts)}; it must return a mapping {{name: factory}}")
    for name, factory in parts.items():
        is_name = isinstance(name, str) and NAME.fullmatch(name)
        _require(is_name, f"{hook}() provides the name {name!r}; a name is letters, digits, '_', '.', '+' and '-'")
        provides = f"{hook}() provides {name!r} as"
        if isinstance(factory, str):
            is_attribute = _ATTRIBUTE.fullmatch(factory)
            _require(is_attribute, f"{provides} {factory!r}; a text must read 'module:attribute'")
        else:
            what = _called(factory)
            _require(callable(factory), f"{provides} {what}; it must be callable, or 'module:attribute'")
    return dict(parts)


def _called(value: Any) -> str:
    return "None" if value is None else f"{type(value).__name__} {value!r}"


def fault_in_source(factory: str) -> str:
    """Why `module:attribute` cannot be imported; "" if the source shows no reason."""
    module, _, attribute = factory.partition(":")
    spec = _located(module)
    if spec is None:
        return f"ModuleNotFoundError: No module named {module!r}"
    if not str(spec.origin).endswith(".py"):
        return ""  # built in or compiled: only an import can check it
    try:
        tree = ast.parse(Path(str(spec.origin)).read_text(encoding="utf-8"))
    except SyntaxError as error:
        return f"SyntaxError: {error.msg} ({spec.origin}:{error.lineno})"
    except (OSError, UnicodeDecodeError) as error:
        return one_line(error)
    first = attribute.partition(".")[0]
    is_there = _names(tree) & {first, "*", "__getattr__"}
    return "" if is_there else f"AttributeError: {module} defines no {first!r}"


def _located(module: str) -> ModuleSpec | None:
    """The location of a module; unlike `importlib.util.find_spec`, does not import its parent packages."""
    first, *others = module.split(".")
    spec = importlib.util.find_spec(first)
    for name in others:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(f"{spec.name}.{name}", spec.submodule_search_locations)
    return spec


def _names(tree: ast.Module) -> set[str]:
    """The names that a module may define at its top level, also inside `if` and `try`; `*` for a star import."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name) | ast.Name(name, ast.Store()):
                found.add(name)
            case ast.Import(aliases) | ast.ImportFrom(_, aliases):
                found |= {alias.asname or alias.name.partition(".")[0] for alias in aliases}
    return found
