"""Hooks of the depth stream."""

import multistream


@multistream.hookimpl
def streams() -> dict[str, str]:
    return {"depth": "multistream_depth.stream:Depth"}
