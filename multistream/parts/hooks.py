"""The built-in streams, taps, temporals, fusions and losses, registered through the same hooks as plugins' parts.

They are not in the package's __init__, where the hook `taps` and the module `taps` would have the same name.
"""

from collections.abc import Mapping

from multistream.hookspecs import Factory, hookimpl


@hookimpl
def streams() -> Mapping[str, Factory]:
    return {
        "timm": "multistream.parts.timm_stream:TimmStream",
        "text": "multistream.parts.text_concepts:TextConcepts",
    }


@hookimpl
def taps() -> Mapping[str, Factory]:
    return {
        "gap": "multistream.parts.taps:GlobalAverage",
        "last": "multistream.parts.taps:LastStage",
        "cls": "multistream.parts.taps:ClassToken",
        "embed": "multistream.parts.taps:ModelEmbedding",
    }


@hookimpl
def temporals() -> Mapping[str, Factory]:
    return {
        "concat": "multistream.parts.temporals:Concat",
        "average": "multistream.parts.temporals:Average",
        "bigru": "multistream.parts.temporals:BiGRU",
        "bigru+att": "multistream.parts.temporals:AttentiveBiGRU",
    }


@hookimpl
def fusions() -> Mapping[str, Factory]:
    return {
        "early": "multistream.parts.fusions:Early",
        "late": "multistream.parts.fusions:Late",
        "gated": "multistream.parts.fusions:Gated",
    }


@hookimpl
def losses() -> Mapping[str, Factory]:
    return {
        "cross_entropy": "multistream.parts.losses:CrossEntropy",
        "focal": "multistream.parts.losses:Focal",
        "balanced_softmax": "multistream.parts.losses:BalancedSoftmax",
        "logit_adjusted": "multistream.parts.losses:LogitAdjusted",
        "distribution": "multistream.parts.losses:Distribution",
        "binary_cross_entropy": "multistream.parts.losses:BinaryCrossEntropy",
    }
