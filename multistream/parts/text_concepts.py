"""`concepts=text:BANK`: similarities of a photo to the concepts of a bank, from a vision-language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn
from torch.nn import functional

from multistream.concepts.bank import ConceptBank, read_bank, shown
from multistream.errors import UsageError
from multistream.inputs import Image
from multistream.interfaces import VECTOR
from multistream.parts.timm_stream import TimmStream, created
from multistream.weights import Fitted

OPEN_CLIP = "visual."
"""The prefix of the image tower's tensors in open_clip's weight files, which hold both towers."""


class TextConcepts(TimmStream):
    """The image tower of a bank's model, and the cosine similarity of its embedding to every concept, (B, D).

    `variant` is the bank's file, written by `multistream concepts`. The stages are the tower's, then `embed`, its
    embedding, and `vector`, the similarities; only `vector` is tapped. If every class is a concept, the stream has a
    zero-shot head: the model's own logits. `model` and `vocabulary` replace the bank's file in a model file, whose
    buffers hold the embeddings. Raises WeightsError for a bank that cannot be read, UsageError for a tower that does
    not fit it.
    """

    def __init__(self, *, variant: str, size: int = 0, model: str = "", vocabulary: Sequence[str] = ()) -> None:
        bank = None if vocabulary else read_bank(variant)
        super().__init__(variant=model or (bank.image_model if bank else ""), size=size, summary="embed")
        self.names_of_concepts = bank.names if bank else tuple(vocabulary)
        width = self.channels["embed"]
        if bank and bank.embeddings.shape[1] != width:
            what = f"the bank's embeddings have {bank.embeddings.shape[1]} numbers, and {self.variant} gives {width}."
            right = "The image tower must belong to the text tower that made the bank."
            raise UsageError("streams", what, right=right, do="Write the bank with another --image-model.")
        self.stages[VECTOR] = Similarities(bank, concepts=len(self.names_of_concepts), width=width)
        self.channels[VECTOR] = len(self.names_of_concepts)

    @property
    def settled(self) -> Mapping[str, Any]:
        """The names of the image tower and the concepts; the buffers hold the rest of the bank."""
        return {"model": self.variant, "vocabulary": list(self.names_of_concepts)}

    def channel_names(self, stage: str) -> tuple[str, ...]:
        """The names of the concepts, for the stage `vector`."""
        return self.names_of_concepts if stage == VECTOR else ()

    def zero_shot_head(self, classes: Sequence[str]) -> nn.Linear | None:
        """The model's own logits, if every class is a concept: its scale times the similarity, plus its bias."""
        places = {shown(name).casefold(): place for place, name in enumerate(self.names_of_concepts)}
        chosen = [places.get(shown(name).casefold()) for name in classes]
        similarities = self.stages[VECTOR]
        assert isinstance(similarities, Similarities)
        if None in chosen:
            return None
        head = nn.Linear(len(places), len(classes))
        with torch.no_grad():
            head.weight.copy_(functional.one_hot(torch.tensor(chosen), len(places)) * similarities.logit_scale)
            head.bias.copy_(similarities.logit_bias.expand(len(classes)))
        return head

    def to_map(self, state: Any, stage: str) -> Tensor:
        """The tower's maps; for the stage `vector`, the similarities (B, D)."""
        return state if stage == VECTOR else super().to_map(state, stage)

    def load_weights(self, tensors: Mapping[str, Tensor], *, where: str = "weights") -> Fitted:
        """Loads an image tower with timm's names, or a file of open_clip with both towers."""
        if any(name.startswith(OPEN_CLIP) for name in tensors):
            assert isinstance(self.input, Image)
            tower, _ = created(self.variant, self.input.size, "embed")
            tensors = checkpoint_filter_fn(dict(tensors), tower)
        own = {name: tensor for name, tensor in self.state_dict().items() if name.startswith(f"stages.{VECTOR}.")}
        return super().load_weights({**own, **tensors}, where=where)


class Similarities(nn.Module):
    """(B, E, 1, 1) -> cosine similarities (B, D) to the concepts' embeddings."""

    embeddings: Tensor
    logit_scale: Tensor
    logit_bias: Tensor

    def __init__(self, bank: ConceptBank | None, *, concepts: int, width: int) -> None:
        super().__init__()
        given = bank.embeddings if bank else torch.zeros(concepts, width)
        self.register_buffer("embeddings", functional.normalize(given.float(), dim=1))
        self.register_buffer("logit_scale", torch.tensor(bank.logit_scale if bank else 1.0))
        self.register_buffer("logit_bias", torch.tensor(bank.logit_bias if bank else 0.0))

    def forward(self, embedding: Tensor) -> Tensor:
        """The cosine similarities of each photo's embedding to each concept's embedding."""
        return functional.normalize(embedding.flatten(1), dim=1) @ self.embeddings.T
