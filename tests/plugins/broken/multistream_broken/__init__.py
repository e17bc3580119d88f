import a_library_that_nobody_has  # noqa: F401

import multistream


@multistream.hookimpl
def streams():
    return {"broken": "multistream_broken.stream:Broken"}
