"""Downloads weights from a hub through timm, only on request."""

from __future__ import annotations

from torch import Tensor

from multistream.errors import WeightsError, said_by

OWNER = "timm/"
FILE = "model.safetensors"
PATIENCE = 10.0
"""Seconds to wait for the hub's answer."""


def from_hub(name: str) -> dict[str, Tensor]:
    """Returns a timm model's state dict from the Hugging Face hub (`timm/mobilenetv2_100.ra_in1k`) or its cache."""
    import timm

    model = name.removeprefix(OWNER)
    if not name.startswith(OWNER) or not timm.is_model(model.partition(".")[0]):
        raise WeightsError("weights", f"{name!r} is not a timm model on the hub.", do="Pass a file: KEY=FILE.")
    file = _downloaded(name)
    try:
        made = timm.create_model(model, pretrained=True, pretrained_cfg_overlay={"file": file})
    # Any exception that timm raises on a file that is damaged or of another version.
    except Exception as error:
        do = "Upgrade timm, or remove the file so that it is downloaded again."
        raise WeightsError("weights", f"timm cannot load {file}: {said_by(error)}.", do=do) from error
    return dict(made.state_dict())


def _downloaded(name: str) -> str:
    """Returns the path of the model's file in the hub's cache; downloads it if needed, after one quick request.

    Without that request, the hub's client would retry for most of a minute if there is no network.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        try:
            return str(hf_hub_download(name, FILE, local_files_only=True))
        except LocalEntryNotFoundError:
            get_hf_file_metadata(hf_hub_url(name, FILE), timeout=PATIENCE)
            return str(hf_hub_download(name, FILE))
    # The client's HTTP library, and with it the errors, depends on its version.
    except Exception as error:
        raise WeightsError(
            "weights",
            f"{name} cannot be downloaded from the hub: {said_by(error)}.",
            do="Check the network, or download the file elsewhere and give --weights KEY=FILE.",
        ) from error
