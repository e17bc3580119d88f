"""The object stream: a MobileNet that learned to name things (paper section 1)."""

from collections.abc import Mapping

from multistream import hookimpl


@hookimpl
def streams() -> Mapping[str, str]:
    return {"object": "multistream_object.stream:Object"}
