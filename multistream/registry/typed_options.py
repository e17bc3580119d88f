"""User options of a part, checked against the annotations of its constructor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from multistream.errors import UsageError, did_you_mean

NOUNS = {bool: "true or false", int: "an integer", float: "a number", str: 'a string, in quotes: "..."'}


def typed(options: Mapping[str, Any], factory: Callable[..., Any], *, where: str) -> dict[str, Any]:
    """The options with the types that the factory declares: an integer becomes a float where a float is declared.

    Checks `bool`, `int`, `float`, `str` and `Literal`; other annotations are left to the factory. Raises UsageError.

    >>> def gem(*, p: float = 3.0): ...
    >>> typed({"p": 4}, gem, where="options.tap")
    {'p': 4.0}
    """
    declared = _annotations(factory)
    return {name: _typed(value, declared.get(name), f"{where}.{name}") for name, value in options.items()}


def _annotations(factory: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a factory's parameters; none if one of them cannot be evaluated."""
    try:
        return get_type_hints(factory.__init__ if isinstance(factory, type) else factory)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError):  # imported for type checking only, or no function at all
        return {}


def _typed(value: Any, annotation: Any, where: str) -> Any:
    if get_origin(annotation) is Literal:
        if value not in (choices := get_args(annotation)):
            raise UsageError(where, f"{value!r} is unknown.", right=did_you_mean(str(value), map(str, choices)))
        return value
    if annotation not in tuple(NOUNS):
        return value
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, annotation) or (annotation is int and isinstance(value, bool)):
        raise UsageError(where, f"{value!r} is a {type(value).__name__}.", right=f"It must be {NOUNS[annotation]}.")
    return value
