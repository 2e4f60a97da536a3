"""Small random-weight models of seven architecture classes that can really be crammed, for tests and first tries.

Width 384, two layers, weights of standard deviation 0.1: with the usual 0.02 a random model is too flat to be steered,
with much more it is chaotic, and one vector finds no way to eight tokens.
Their tokens are the printable ASCII characters and the newline.
"""

from __future__ import annotations

import string
from typing import Any

import torch

from memlab.models.sources import TOY_FAMILIES, ModelError

ALPHABET = sorted(set(string.printable) - set("\r\t\x0b\x0c"))
CONTEXT = 512
WIDTH = 384
STD = 0.1


def toy(family: str) -> tuple[Any, Any]:
    """(model, tokenizer) of a toy; the same weights on every call with the same torch."""
    from transformers import AutoModelForCausalLM

    if family not in TOY_FAMILIES:
        raise ModelError(f"no toy:{family}; there are: {', '.join(f'toy:{f}' for f in TOY_FAMILIES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20250213)
        model = AutoModelForCausalLM.from_config(_config(family), dtype=torch.float32)
    if family == "gemma3":
        # Its embedding module multiplies by sqrt(width), and its sublayers' outputs are normalised: with embeddings
        # that large the text tokens drown whatever attention brings, and no vector can be heard.
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(WIDTH**-0.5)
    return model, _tokenizer()


def _config(family: str) -> Any:
    import transformers as hf

    common: dict[str, Any] = dict(
        vocab_size=len(ALPHABET), hidden_size=WIDTH, bos_token_id=None, eos_token_id=None, pad_token_id=None
    )
    attention = (
        dict(num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=CONTEXT, initializer_range=STD)
        | common
    )
    gated = attention | dict(intermediate_size=2 * WIDTH, num_key_value_heads=4, tie_word_embeddings=False)
    if family == "llama":
        return hf.LlamaConfig(**gated)
    if family == "qwen2":
        return hf.Qwen2Config(**gated)
    if family == "olmo":
        return hf.OlmoConfig(**gated)
    if family == "gemma3":
        return hf.Gemma3TextConfig(**gated, head_dim=WIDTH // 4, query_pre_attn_scalar=WIDTH // 4, sliding_window=64)
    if family == "gpt_neox":
        return hf.GPTNeoXConfig(**attention, intermediate_size=2 * WIDTH)
    if family == "opt":
        names = dict(init_std=STD, ffn_dim=2 * WIDTH, word_embed_proj_dim=WIDTH)
        return hf.OPTConfig(**{k: v for k, v in attention.items() if k != "initializer_range"}, **names)
    return hf.MambaConfig(
        **common, num_hidden_layers=2, state_size=16, initializer_range=STD, tie_word_embeddings=False
    )


def _tokenizer() -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = Tokenizer(models.WordLevel({c: i for i, c in enumerate(ALPHABET)}))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    characters.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=characters)
