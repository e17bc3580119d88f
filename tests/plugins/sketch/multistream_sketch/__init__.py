import multistream


@multistream.hookimpl
def streams():
    return {"sketch": "multistream_sketch.stream:Sketch"}
