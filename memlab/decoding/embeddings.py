"""``to_embeds``: everything that stands before the text, as embeddings for other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from memlab.decoding.decode import context_of, require_weights
from memlab.errors import require_type
from memlab.models import load
from memlab.results.mem_vector import MemVector

if TYPE_CHECKING:
    from memlab.models import FrozenLM


def to_embeds(mem: MemVector, lm: FrozenLM | None = None) -> torch.Tensor:
    """(c, d) float32 on the CPU: embeddings of the prefix tokens, the vectors, and embeddings of the suffix tokens.

    >>> from memlab import Recipe, cram, load, to_embeds
    >>> lm = load("toy:llama")
    >>> (mem,) = cram(lm, lm.passage_of_ids([5, 9, 2]), Recipe.default(k=4), progress=False)
    >>> context = to_embeds(mem, lm)
    >>> lm.model.generate(inputs_embeds=context[None], max_new_tokens=3, do_sample=False, pad_token_id=0)[0].tolist()
    [5, 9, 2]

    A program that takes embeddings and then decodes greedily writes the text from these rows alone: transformers, vLLM
    and llama.cpp, see ``memlab/decoding/README.md``. ``lm`` is the vector's model; it is loaded if it is not given.
    Raises ``ModelError`` if ``lm`` has other weights than the vector's model.
    """
    require_type("mem", mem, MemVector, "a mem vector")
    lm = lm or load(mem.model, revision=mem.revision)
    require_weights(lm, mem)
    return context_of(lm, mem).cpu().contiguous()
