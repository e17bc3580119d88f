"""One part for each mistake that an author can make; `object` takes a name of ours."""

import multistream

STREAMS = {
    "dotted": "Dotted",
    "channelless": "Channelless",
    "superless": "Superless",
    "raising": "Raising",
    "classless": "Classless",
    "wrong_channels": "WrongChannels",
    "no_dict": "NoDict",
    "headless": "Headless",
    "changing_vector": "ChangingVector",
    "object": "Sound",
}
TAPS = {"wide_pool": "WidePool", "wide_token": "WideToken", "learnt_pool": "LearntPool", "pooling": "PowerPool"}
TEMPORALS = {"wide_temporal": "WideTemporal", "raising_temporal": "RaisingTemporal", "choosy": "Choosy"}
FUSIONS = {"tensor_fusion": "TensorFusion", "narrow_fusion": "NarrowFusion", "heads_none": "HeadsNone"}


def factories(parts):
    return {name: f"multistream_faulty.parts:{attribute}" for name, attribute in parts.items()}


@multistream.hookimpl
def streams():
    return factories(STREAMS)


@multistream.hookimpl
def taps():
    return factories(TAPS)


@multistream.hookimpl
def temporals():
    return factories(TEMPORALS)


@multistream.hookimpl
def fusions():
    return factories(FUSIONS)


@multistream.hookimpl
def datasets():
    return {"messy": "multistream_faulty.sets:messy", "unlabelled": "multistream_faulty.sets:unlabelled"}
