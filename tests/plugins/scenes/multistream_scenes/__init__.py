"""Hooks of the scene stream."""

import multistream


@multistream.hookimpl
def streams() -> dict[str, str]:
    return {"scenes": "multistream_scenes.stream:Scenes"}
