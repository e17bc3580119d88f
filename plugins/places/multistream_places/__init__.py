"""The places stream: a network that learned to name scenes (paper section 1)."""

from collections.abc import Mapping

from multistream import hookimpl


@hookimpl
def streams() -> Mapping[str, str]:
    return {"places": "multistream_places.stream:Places"}
