"""The places stream: a network trained on Places365 (paper section 1)."""

from collections.abc import Mapping

from multistream import hookimpl


@hookimpl
def streams() -> Mapping[str, str]:
    return {"places": "multistream_places.stream:Places"}
