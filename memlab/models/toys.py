"""Toys: small models with random weights that cramming works on, for tests and first tries.

A toy has two layers of width 384. ``memlab.models.families`` says how the toy of each family is built.
"""

from __future__ import annotations

from typing import Any

import torch

from memlab.models.families import ALPHABET, TOYS
from memlab.models.sources import ModelError


def toy(name: str) -> tuple[Any, Any]:
    """(model, tokenizer) of a toy. Every call gives the same weights with the same version of torch."""
    import transformers

    if name not in TOYS:
        raise ModelError(f"There is no toy:{name}. The toys are: {', '.join(f'toy:{t}' for t in TOYS)}.")
    plan = TOYS[name]
    config = getattr(transformers, plan.config)(**plan.settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20250213)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if plan.embedding_scale != 1:
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(plan.embedding_scale)
    return model, _tokenizer()


def _tokenizer() -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = Tokenizer(models.WordLevel({c: i for i, c in enumerate(ALPHABET)}))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    characters.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=characters)
