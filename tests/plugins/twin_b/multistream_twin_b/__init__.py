import multistream


def twin():
    return "b"


@multistream.hookimpl
def streams():
    return {"twin": twin}
