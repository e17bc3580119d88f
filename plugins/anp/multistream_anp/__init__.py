"""The ANP stream: how strongly a photo shows each adjective-noun pair (paper section 1)."""

from collections.abc import Mapping

from multistream import hookimpl


@hookimpl
def streams() -> Mapping[str, str]:
    return {"anp": "multistream_anp.stream:ANP", "deepsentibank": "multistream_anp.deepsentibank:DeepSentiBank"}
