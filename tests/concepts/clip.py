"""A small random vision-language model of open_clip, whose image tower timm knows by name, in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import nn

TOWER = "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m"
CONFIG = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 10, "width": 256, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}

SIGLIP_TOWER = "vit_base_patch16_siglip_224.webli"
SIGLIP = {
    "embed_dim": 768,
    "init_logit_bias": -10.0,
    "custom_text": True,
    "vision_cfg": {"image_size": 224, "timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map"}
    | {"timm_proj": "none", "timm_model_pretrained": False},
    "text_cfg": {"context_length": 64, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2, "pool_type": "last"}
    | {"no_causal_mask": True, "proj_bias": True, "norm_kwargs": {"eps": 1e-6}},
}
"""ViT-B-16-SigLIP of open_clip, with a smaller text tower and open_clip's own tokenizer."""


def write_model(folder: Path, config: dict[str, Any] = CONFIG) -> nn.Module:
    """Writes the model for `local-dir:FOLDER` with every weight moved from where it starts; returns it in eval mode."""
    folder.mkdir(exist_ok=True)
    about = {"model_cfg": config, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(about))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    return model.eval()
