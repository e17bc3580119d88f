import multistream


@multistream.hookimpl
def stream():
    return {"misspelt": dict}
