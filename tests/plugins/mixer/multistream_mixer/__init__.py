"""Parts without torch, to see what reaches a factory."""

import multistream


class Mixer:
    """Keeps what it was given."""

    variants = ("wide", "narrow")

    def __init__(self, channels, *, variant="wide", strength=0.5, mode):
        self.got = {"channels": channels, "variant": variant, "strength": strength, "mode": mode}


def plain(**anything):
    return anything


@multistream.hookimpl
def taps():
    return {"mixer": Mixer, "torn": "multistream_mixer.torn:Torn"}


@multistream.hookimpl
def temporals():
    return {"mixer": plain}
