"""Weights from a hub, through timm, and only when somebody asked for them."""

from __future__ import annotations

from torch import Tensor

from multistream.errors import WeightsError


def from_hub(name: str) -> dict[str, Tensor]:
    """The state dict of a timm model on the Hugging Face hub (`timm/mobilenetv2_100.ra_in1k`), downloaded or cached."""
    import timm
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    model = name.removeprefix("timm/")
    try:
        return dict(timm.create_model(model, pretrained=True).state_dict())
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            "weights",
            f"{name} cannot be fetched from the hub: {said[:160]}.",
            do="Check the network, or download the file elsewhere and give --weights KEY=FILE.",
        ) from error
    except RuntimeError as error:  # timm: no pretrained weights under this name
        raise WeightsError("weights", f"timm knows no pretrained {model!r}: {error}.") from error
