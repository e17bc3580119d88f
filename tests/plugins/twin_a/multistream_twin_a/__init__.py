import multistream


def twin():
    return "a"


@multistream.hookimpl
def streams():
    return {"twin": twin}
