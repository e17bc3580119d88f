"""Checks from the source whether "module:attribute" can be imported; executes nothing, so torch is not imported."""

from __future__ import annotations

import ast
import importlib.util
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from multistream.registry.loading import one_line


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
