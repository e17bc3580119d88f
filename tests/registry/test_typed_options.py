"""A user's option has the type that the part's constructor declares."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from multistream.errors import UsageError
from multistream.registry.typed_options import typed


class Part:
    def __init__(self, *, p: float = 3.0, steps: int = 1, deep: bool = False, mode: Literal["a", "b"] = "a") -> None:
        del p, steps, deep, mode


def test_an_integer_is_a_number() -> None:
    (value,) = typed({"p": 4}, Part, where="options.tap").values()
    assert isinstance(value, float)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"deep": "no"}, r"options.tap.deep: 'no' is a str. It must be true or false."),
        ({"steps": 1.5}, r"options.tap.steps: 1.5 is a float. It must be an integer."),
        ({"steps": True}, r"options.tap.steps: True is a bool. It must be an integer."),
        ({"p": "4"}, r"options.tap.p: '4' is a str. It must be a number."),
        ({"mode": "c"}, r"options.tap.mode: 'c' is unknown. Known: a, b."),
    ],
)
def test_another_type_is_the_users_mistake(option: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        typed(option, Part, where="options.tap")


def test_what_is_not_declared_is_left_to_the_part() -> None:
    def loose(*, names: list[str], anything=None) -> None:  # type: ignore[no-untyped-def]
        del names, anything

    def unresolved(*, steps: Missing) -> None:  # type: ignore[name-defined]  # noqa: F821
        del steps

    given = {"names": 3, "anything": "x"}
    assert typed(given, loose, where="options.tap") == given
    assert typed({"steps": "x"}, unresolved, where="options.tap") == {"steps": "x"}
