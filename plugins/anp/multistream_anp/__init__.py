"""The ANP stream: scores of adjective-noun pairs for a photo (paper section 1)."""

from collections.abc import Mapping

from multistream import hookimpl


@hookimpl
def streams() -> Mapping[str, str]:
    return {"anp": "multistream_anp.stream:ANP", "deepsentibank": "multistream_anp.deepsentibank:DeepSentiBank"}
