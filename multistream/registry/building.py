"""Builds a part from its spec: a factory gets its variant, what the composition gives, and the user's options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from multistream.errors import PluginError, UsageError, check_known
from multistream.registry.catalogue import Part, find
from multistream.registry.discovery import OURS, normalised
from multistream.registry.failures import owner_of
from multistream.registry.loading import PLURALS, Kind, one_line
from multistream.spec import Spec

VARIANT = "variant"
NOTHING: Mapping[str, Any] = MappingProxyType({})


def build(
    kind: Kind, spec: Spec | str, /, *, options: Mapping[str, Any] = NOTHING, given: Mapping[str, Any] = NOTHING
) -> Any:
    """Calls the factory that `spec` names, by keyword.

    Of `given`, what the composition knows (a tap's channels, say), the factory gets what its signature names;
    of `options`, what the user asks, every one must be named there. `variant` goes to a factory that declares it.
    """
    if isinstance(spec, str):
        # Only a stream has a key; bigru+att, for example, could not be one.
        spec = Spec.parse(spec, key=None if kind == "stream" else kind, where=PLURALS[kind])
    if spec.run is not None:
        what = f"{spec.part!r} is a branch of a run, not a {kind}."
        raise UsageError(PLURALS[kind], what, right="Pass the name of a component.")
    part = find(kind, spec.name, distribution=spec.distribution)
    factory = part.resolve()
    parameters = signature(part, factory).parameters
    known = set(parameters) - set(given) - {VARIANT}
    check_known(options, known, where=_where(kind, spec))
    arguments = {name: value for name, value in given.items() if name in parameters}
    arguments |= {**options, **_variant(kind, spec, factory, declared=VARIANT in parameters)}
    _check_complete(kind, spec, factory, parameters, arguments)
    return _called(factory, arguments, kind, spec, options)


def _check_complete(
    kind: Kind,
    spec: Spec,
    factory: Callable[..., Any],
    parameters: Mapping[str, inspect.Parameter],
    arguments: Mapping[str, Any],
) -> None:
    """UsageError for arguments that a factory needs and nobody gave."""
    missing = [p.name for p in parameters.values() if p.default is p.empty and p.name not in arguments]
    if VARIANT in missing:
        names = variants(factory)
        known = f" Known: {', '.join(names)}." if names else ""
        raise UsageError(PLURALS[kind], f"{spec.part!r} names no variant.", right=f"Write {spec.part}:VARIANT.{known}")
    if missing:
        right = f"Set {', '.join(f'{_where(kind, spec)}.{name}' for name in missing)}."
        raise UsageError(PLURALS[kind], f"{spec.part!r} needs {', '.join(missing)}.", right=right)


def _called(
    factory: Callable[..., Any], arguments: Mapping[str, Any], kind: Kind, spec: Spec, options: Mapping[str, Any]
) -> Any:
    """The part that the factory makes; an exception is blamed on the options if the part can be made without them."""
    where = f"streams.{spec.key}" if kind == "stream" else PLURALS[kind]
    try:
        with owner_of(kind, spec, where=where).running("its constructor"):
            return factory(**arguments)
    except PluginError as error:
        if not options or not _can_be_made(factory, {k: v for k, v in arguments.items() if k not in options}):
            raise
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        cause = " ".join(str(error.__cause__).split()).rstrip(".")
        raise UsageError(_where(kind, spec), f"{spec.name!r} does not take {given}: {cause}.") from error


def _can_be_made(factory: Callable[..., Any], arguments: Mapping[str, Any]) -> bool:
    """Whether a factory works with these arguments; whatever it raises says no."""
    try:
        factory(**arguments)
    except (Exception, SystemExit):  # the constructor of a plugin may raise anything
        return False
    return True


def pinned(kind: Kind, spec: Spec) -> Spec:
    """The spec with its distribution, so that it means the same part whatever is installed later.

    Ours stay as they are: a name of ours alone always means our part.
    """
    if spec.run is not None or spec.is_instance or spec.distribution is not None:
        return spec
    part = find(kind, spec.name)
    return spec if normalised(part.distribution) in OURS else replace(spec, distribution=part.distribution)


def signature(part: Part, factory: Callable[..., Any]) -> inspect.Signature:
    """The keyword parameters of a factory, without `*args` and `**kwargs`."""
    try:
        whole = inspect.signature(factory)
    except (TypeError, ValueError) as error:
        raise part.broken(f"its signature cannot be read: {one_line(error)}") from error
    if any(p.kind is p.POSITIONAL_ONLY for p in whole.parameters.values()):
        raise part.broken("it has positional-only parameters; components are built by keyword")
    named = [p for p in whole.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return whole.replace(parameters=named)


def variants(factory: Callable[..., Any]) -> tuple[str, ...]:
    """The variants that a factory lists in its attribute `variants`; empty where it takes any, or none."""
    listed = getattr(factory, "variants", ())
    if isinstance(listed, str) or not isinstance(listed, Collection):
        name = getattr(factory, "__name__", repr(factory))
        raise PluginError("plugins", f"{name}.variants is {listed!r}.", right="It must be a collection of names.")
    return tuple(listed)


def _where(kind: Kind, spec: Spec) -> str:
    """Where a recipe holds the options of this part."""
    return f"options.streams.{spec.key}" if kind == "stream" else f"options.{kind}"


def _variant(kind: Kind, spec: Spec, factory: Callable[..., Any], *, declared: bool) -> dict[str, str]:
    if not spec.variant:
        return {}
    if not declared:
        raise UsageError(PLURALS[kind], f"{spec.name!r} has no variants, but {spec.variant!r} is asked for.")
    if known := variants(factory):
        check_known([spec.variant], known, where=PLURALS[kind], what=f"{spec.name!r} has no variant {{name!r}}.")
    return {VARIANT: spec.variant}
