"""Computes text embeddings of concepts with the text tower of a vision-language model of open_clip."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from multistream.concepts.bank import ConceptBank, shown
from multistream.errors import UsageError, WeightsError, check_known, did_you_mean, extra, said_by

TEMPLATE = "a photo of {}"
"""The default sentence that a name is inserted into."""
CHUNK = 256
"""Number of sentences in one batch."""

CLIP_TOWERS = {
    (768, 32): "vit_base_patch32_clip",
    (768, 16): "vit_base_patch16_clip",
    (1024, 14): "vit_large_patch14_clip",
    (1280, 14): "vit_huge_patch14_clip",
    (1408, 14): "vit_giant_patch14_clip",
    (1664, 14): "vit_gigantic_patch14_clip",
}
"""timm's names of CLIP's image towers, by width and patch size."""


def embed_concepts(
    names: Sequence[str],
    *,
    model: str,
    weights: str = "",
    image_model: str = "",
    templates: Sequence[str] = (TEMPLATE,),
    device: str | torch.device = "cpu",
    advance: Callable[[int], None] = lambda _: None,
) -> ConceptBank:
    """Computes a bank of these concepts with the text tower of open_clip's `model`.

    `weights` is one of open_clip's tags, which are downloaded from the hub, or a file; a `model` that starts with
    hf-hub: or local-dir: includes its weights. Each name is inserted into each template; the bank has the mean of its
    normalised embeddings. `image_model` is timm's name of the image tower; by default it is derived from `model` and
    `weights`. `advance` is called with the number of names of each step. Raises UsageError for names that open_clip
    does not know, WeightsError (69) for weights that cannot be read or downloaded, PluginError (69) without open_clip.
    """
    open_clip = _open_clip()
    _check(open_clip, model, weights, templates)
    network, tokenize = _loaded(open_clip, model, weights, device)
    found = image_model or _image_model(network, weights, model)
    rows = []
    with torch.inference_mode():
        for start in range(0, len(names), CHUNK):
            chunk = [shown(name) for name in names[start : start + CHUNK]]
            rows.append(_embeddings(network, tokenize, chunk, templates, device))
            advance(len(chunk))
    bias = getattr(network, "logit_bias", None)
    return ConceptBank(
        names=tuple(names),
        embeddings=torch.cat(rows).cpu().clone(),
        image_model=found,
        logit_scale=float(network.logit_scale.detach().exp()),
        logit_bias=0.0 if bias is None else float(bias.detach()),
        model=model,
        weights=weights,
        templates=tuple(templates),
    )


def _embeddings(
    network: Any,
    tokenize: Callable[[list[str]], Tensor],
    names: Sequence[str],
    templates: Sequence[str],
    device: str | torch.device,
) -> Tensor:
    """Returns (D, E): the mean over the templates of the normalised text embeddings, normalised again."""
    each = [
        functional.normalize(network.encode_text(tokenize([t.format(name) for name in names]).to(device)), dim=-1)
        for t in templates
    ]
    return functional.normalize(torch.stack(each).mean(0), dim=-1).float()


def _open_clip() -> ModuleType:
    with extra("text", "concepts", "the text tower needs open_clip."):
        import open_clip
    return open_clip


def _check(open_clip: ModuleType, model: str, weights: str, templates: Sequence[str]) -> None:
    """Raises UsageError for names that open_clip does not know, before anything is built or downloaded."""
    for template in templates:
        if template.count("{}") != 1 or template.replace("{}", "") != template.format(""):
            right = f"It has {{}} once, where the name goes, as in {TEMPLATE!r}."
            raise UsageError("--template", f"{template!r} has no place for the name.", right=right)
    if ":" not in model:
        _check_weights(open_clip, model, weights)
    elif weights:
        raise UsageError("--weights", f"{model} brings its own weights.", do="Leave --weights out.")


def _check_weights(open_clip: ModuleType, model: str, weights: str) -> None:
    """Raises UsageError if open_clip does not have the model or these weights for it."""
    if open_clip.get_model_config(model) is None:
        raise UsageError("--model", f"open_clip has no {model!r}.", right=did_you_mean(model, open_clip.list_models()))
    tags = open_clip.list_pretrained_tags_by_model(model)
    if not weights:
        raise UsageError("--weights", f"none are given for {model}.", right=f"A file, or one of {', '.join(tags)}.")
    if not Path(weights).expanduser().is_file():
        check_known(
            [weights],
            tags,
            where="--weights",
            what=f"{{name!r}} is not a file, and no weights of {model} in open_clip.",
        )


def _loaded(open_clip: ModuleType, model: str, weights: str, device: str | torch.device) -> tuple[Any, Any]:
    """Returns the model in eval mode, and its tokenizer."""
    path = Path(weights).expanduser()
    pretrained = str(path) if path.is_file() else weights or None
    try:
        # If a tag was trained with QuickGELU and the model's name does not say so, open_clip only warns.
        quick = bool((open_clip.get_pretrained_cfg(model, weights) or {}).get("quick_gelu")) if weights else False
        network = open_clip.create_model(
            model, pretrained=pretrained, device=device, force_quick_gelu=quick, require_pretrained=True
        )
        return network.eval(), open_clip.get_tokenizer(model)
    except Exception as error:  # damaged files and unreachable hubs raise errors of many classes
        do = "Check the network, or pass --weights FILE."
        raise WeightsError("--weights", f"{model} {weights} cannot be loaded: {said_by(error)}.", do=do) from error


def _image_model(network: Any, weights: str, model: str) -> str:
    """Returns timm's name and tag of the model's image tower. Raises UsageError if they are not known."""
    import timm

    name = _timm_name(network)
    do = "Pass --image-model MODEL.TAG, as timm names it."
    if not timm.is_model(name):
        raise UsageError("--image-model", f"timm's name of the image tower of {model} is not known.", do=do)
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")]
    wanted = weights or model
    plain = _letters(wanted)
    fitting = [tag for tag in tags if _letters(tag) in plain]
    if not fitting:
        right = f"timm has {name} with {', '.join(tags) or 'no weights'}."
        raise UsageError("--image-model", f"which weights of {name} belong to {wanted}?", right=right, do=do)
    return f"{name}.{max(fitting, key=len)}"


def _timm_name(network: Any) -> str:
    """Returns timm's name of an image tower; if it is unknown, a name that timm does not have."""
    visual = network.visual
    if (trunk := getattr(visual, "trunk", None)) is not None:  # already a timm model
        return str(trunk.pretrained_cfg.get("architecture", ""))
    first = getattr(visual, "conv1", None)
    if not isinstance(first, torch.nn.Conv2d):
        return ""
    base = CLIP_TOWERS.get((first.out_channels, first.kernel_size[0]), "no tower of CLIP")
    quick = "_quickgelu" if any(type(module).__name__ == "QuickGELU" for module in visual.modules()) else ""
    return f"{base}{quick}_{visual.image_size[0]}"


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
