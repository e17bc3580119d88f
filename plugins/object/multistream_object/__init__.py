"""The object stream: a MobileNet trained on ImageNet (paper section 1)."""

from collections.abc import Mapping

from multistream import hookimpl


@hookimpl
def streams() -> Mapping[str, str]:
    return {"object": "multistream_object.stream:Object"}
