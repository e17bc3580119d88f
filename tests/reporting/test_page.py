"""Templates escape every value."""

from __future__ import annotations

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from multistream.reporting.page import environment

ROW = "{% from 'macros.html' import row, table %}{% call table(text, [text]) %}{{ row(text, [text]) }}{% endcall %}"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_is_escaped(text: str) -> None:
    made = environment().from_string(ROW).render(text=text)
    plain = environment().from_string(ROW).render(text="")
    assert re.sub('[^<>"]', "", made) == re.sub('[^<>"]', "", plain)


@given(st.text())
def test_json_cannot_end_its_element(text: str) -> None:
    made = environment().from_string("{{ value | tojson }}").render(value={text: text})
    assert not set("<>&'") & set(made)
    assert json.loads(made) == {text: text}
    made.encode()
