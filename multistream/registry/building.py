"""Builds a part from its spec, with its variant, arguments from the composition and user options; describes parts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from types import MappingProxyType
from typing import Any

from multistream.errors import PluginError, UsageError, check_known
from multistream.registry.catalogue import Part, find
from multistream.registry.discovery import OURS, normalised
from multistream.registry.failures import owner_of
from multistream.registry.loading import PLURALS, Kind, one_line
from multistream.registry.typed_options import typed
from multistream.spec import Spec

VARIANT = "variant"
NOTHING: Mapping[str, Any] = MappingProxyType({})


def build(
    kind: Kind, spec: Spec | str, /, *, options: Mapping[str, Any] = NOTHING, given: Mapping[str, Any] = NOTHING
) -> Any:
    """Calls the factory that `spec` names, with keyword arguments.

    `given` holds values from the composition, such as a tap's channels; the factory gets those in its signature.
    `options` are the user's: each must be in the signature and have the type that is declared there. `variant` is
    passed if the signature has it.
    """
    if isinstance(spec, str):
        # Only a stream has a key; other names, such as bigru+att, may not be valid keys.
        spec = Spec.parse(spec, key=None if kind == "stream" else kind, where=PLURALS[kind])
    if spec.run is not None:
        what = f"{spec.part!r} is a branch of a run, not a {kind}."
        raise UsageError(PLURALS[kind], what, right="Pass the name of a component.")
    part = find(kind, spec.name, distribution=spec.distribution)
    factory = part.resolve()
    parameters = signature(part, factory).parameters
    known = set(parameters) - set(given) - {VARIANT}
    check_known(options, known, where=_where(kind, spec))
    options = typed(options, factory, where=_where(kind, spec))
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
    """Raises UsageError for required arguments of a factory that are missing."""
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
    """Calls the factory; an exception is a UsageError if the call succeeds without the options, else a PluginError."""
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
    """Whether a factory can be called with these arguments without an exception."""
    try:
        factory(**arguments)
    except (Exception, SystemExit):  # the constructor of a plugin may raise anything
        return False
    return True


def pinned(kind: Kind, spec: Spec) -> Spec:
    """The spec with its distribution, so that it refers to the same part if other plugins are installed later.

    Specs of this project's parts stay unchanged, because their names always refer to them.
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
    """The variants that a factory lists in its attribute `variants`; empty if it accepts any variant, or none."""
    listed = getattr(factory, "variants", ())
    if isinstance(listed, str) or not isinstance(listed, Collection):
        name = getattr(factory, "__name__", repr(factory))
        raise PluginError("plugins", f"{name}.variants is {listed!r}.", right="It must be a collection of names.")
    return tuple(listed)


def _where(kind: Kind, spec: Spec) -> str:
    """The table of a recipe that holds the options of this part."""
    return f"options.streams.{spec.key}" if kind == "stream" else f"options.{kind}"


def _variant(kind: Kind, spec: Spec, factory: Callable[..., Any], *, declared: bool) -> dict[str, str]:
    if not spec.variant:
        return {}
    if not declared:
        raise UsageError(PLURALS[kind], f"{spec.name!r} has no variants, but {spec.variant!r} is asked for.")
    if known := variants(factory):
        check_known([spec.variant], known, where=PLURALS[kind], what=f"{spec.name!r} has no variant {{name!r}}.")
    return {VARIANT: spec.variant}


@dataclass(frozen=True)
class Description:
    """One part: its owner, keyword arguments, variants, and the sources of its weights."""

    name: str
    kind: str
    distribution: str
    version: str
    factory: str
    signature: str
    doc: str
    variants: tuple[str, ...]
    weights: Mapping[str, Mapping[str, Any]]


def describe(part: Part) -> Description:
    """Imports the part's factory and describes it; raises PluginError if that fails."""
    factory = part.resolve()
    sources: Mapping[str, Any] = getattr(factory, "weights", None) or {}
    return Description(
        name=part.name,
        kind=part.kind,
        distribution=part.distribution,
        version=part.version,
        factory=f"{factory.__module__}:{getattr(factory, '__qualname__', repr(factory))}",
        signature=str(signature(part, factory).replace(return_annotation=inspect.Signature.empty)),
        doc=inspect.getdoc(factory) or "",
        variants=variants(factory),
        weights={variant: _fields(source) for variant, source in sources.items()},
    )


def _fields(source: Any) -> Mapping[str, Any]:
    """A source of weights as names and values, without empty fields."""
    if is_dataclass(source) and not isinstance(source, type):
        return {name: value for name, value in asdict(source).items() if value not in (None, "")}
    return {"source": str(source)}
