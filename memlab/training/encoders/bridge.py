"""A bridge of two layers from a text's sentence vector, by MiniLM, to one input vector, after xRAG."""

from __future__ import annotations

import torch
from torch import nn

from memlab.models import FrozenLM
from memlab.probes.minilm import SIZE, sentence_vectors
from memlab.training.encoders.networks import Network
from memlab.training.encoders.settings import EncoderError, Settings


class Bridge(Network):
    """Linear, GELU, linear: from a sentence vector to one vector (after arXiv 2405.13792)."""

    last_layer = "layers.2"

    def __init__(self, lm: FrozenLM, settings: Settings) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(SIZE, lm.d), nn.GELU(), nn.Linear(lm.d, lm.d))

    def forward(self, lm: FrozenLM, ids: torch.Tensor, k: int) -> torch.Tensor:
        if k != 1:
            raise EncoderError(f"The bridge gives one vector, not {k}.")
        return self.of_sentences(sentence_vectors([lm.decode_ids(row) for row in ids.cpu().numpy()]))[:, None]

    def of_sentences(self, sentences: torch.Tensor) -> torch.Tensor:
        """(b, d) for sentence vectors (b, 384). Their numbers are near 0.05, so they are scaled to about 1."""
        return self.out(self.layers(sentences * SIZE**0.5))
