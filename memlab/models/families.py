"""Model families: the one table of what memlab must know about an architecture before it runs the model.

To add a family, add one entry to ``_TABLE``. If the entry has a ``toy``, the tests run on the new family too.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ALPHABET = sorted(set(string.printable) - set("\r\t\x0b\x0c"))
"""The tokens of every toy: printable ASCII characters and the newline."""
CONTEXT = 512
WIDTH = 384
STD = 0.1
"""Standard deviation of a toy's weights. With the usual 0.02 the input hardly changes what a random model writes.
With a much larger value the model is chaotic, and no training finds one vector for eight tokens."""


@dataclass(frozen=True)
class Toy:
    """How to build a small random-weight model of a family."""

    name: str
    """``load("toy:<name>")`` builds it."""
    config: str
    """Name of the configuration class in ``transformers``."""
    settings: Mapping[str, Any]
    """Arguments of that class."""
    embedding_scale: float = 1.0
    """Factor for the weights of the embedding."""


@dataclass(frozen=True)
class Family:
    """What memlab knows about one ``model_type`` of transformers. The defaults hold for most causal transformers."""

    model_type: str
    cache_name: str = "past_key_values"
    """Argument of ``forward`` that takes the cache, and field of its output that returns it."""
    attention_names: tuple[str, ...] = ("self_attn", "attention", "attn")
    """Last part of the names of the attention modules. Empty: the family has no attention, so there is nothing to
    look at or to knock out. Whether a faster attention gives the same numbers is measured, see ``ForwardPass``."""
    rotary_name: str = "rotary_emb"
    """Last part of the name of the module that gives the angles of rotary keys. Whether keys can be moved with them
    to other positions is measured, see ``KeysValues.rotate``."""
    fp32_residuals: bool = False
    """The backbone keeps its residual stream in float32, and returns float32 also if its weights are bfloat16."""
    dense: bool = False
    """Every layer is attention over all earlier positions or a window of them, and a dense network. So a pass and a
    decode compute the same and differ in rounding only. Rounding may choose other experts, and a recurrent layer has
    one form for a row and another for a step."""
    toy: Toy | None = field(default=None, hash=False)


_COMMON: dict[str, Any] = dict(
    vocab_size=len(ALPHABET), hidden_size=WIDTH, bos_token_id=None, eos_token_id=None, pad_token_id=None
)
_ATTENTION = _COMMON | dict(num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=CONTEXT)
_GATED = _ATTENTION | dict(
    intermediate_size=2 * WIDTH, num_key_value_heads=4, tie_word_embeddings=False, initializer_range=STD
)
_STATE_SPACE: dict[str, Any] = dict(cache_name="cache_params", attention_names=(), fp32_residuals=True)

_TABLE = (
    Family("llama", dense=True, toy=Toy("llama", "LlamaConfig", _GATED)),
    Family(
        "gpt_neox",
        dense=True,
        toy=Toy("gpt_neox", "GPTNeoXConfig", _ATTENTION | dict(intermediate_size=2 * WIDTH, initializer_range=STD)),
    ),
    Family(
        "opt",
        dense=True,
        toy=Toy("opt", "OPTConfig", _ATTENTION | dict(init_std=STD, ffn_dim=2 * WIDTH, word_embed_proj_dim=WIDTH)),
    ),
    Family("olmo", dense=True, toy=Toy("olmo", "OlmoConfig", _GATED)),
    Family(
        "mamba",
        **_STATE_SPACE,
        toy=Toy(
            "mamba",
            "MambaConfig",
            _COMMON | dict(num_hidden_layers=2, state_size=16, initializer_range=STD, tie_word_embeddings=False),
        ),
    ),
    Family("mamba2", **_STATE_SPACE),
    Family("falcon_mamba", **_STATE_SPACE),
    Family(
        "gemma3_text",
        dense=True,
        toy=Toy(
            "gemma3",
            "Gemma3TextConfig",
            _GATED | dict(head_dim=WIDTH // 4, query_pre_attn_scalar=WIDTH // 4, sliding_window=64),
            # Gemma's embedding module multiplies by sqrt(width), and its sublayers normalise their outputs. With
            # embeddings that large the text tokens outweigh what attention adds, and no vector has an effect.
            embedding_scale=WIDTH**-0.5,
        ),
    ),
    Family("qwen2", dense=True, toy=Toy("qwen2", "Qwen2Config", _GATED)),
    *(
        Family(name, dense=True)
        for name in ("gemma", "gemma2", "gpt2", "granite", "mistral", "olmo2", "phi", "phi3", "qwen3", "smollm3")
    ),
)

FAMILIES = {family.model_type: family for family in _TABLE}
TOYS = {family.toy.name: family.toy for family in _TABLE if family.toy}
TOY_FAMILIES = tuple(TOYS)
"""What may follow ``toy:`` in a model's name."""


def family_of(model_type: str) -> Family:
    """The entry of a ``model_type``. A type without an entry gets the defaults of ``Family``.

    The defaults are the conventions of transformers: the cache is ``past_key_values``, the attention modules have one
    of the usual names, and the residual stream has the dtype of the weights. A model that breaks one of them needs
    an entry.
    """
    return FAMILIES.get(model_type) or Family(model_type)


def context_of(config: Any) -> int:
    """The number of positions at which a model of this text configuration computes one thing. 0: no limit.

    LongRoPE (Phi-3) changes all rotary frequencies when a row grows beyond its original context. Keys in a cache keep
    the earlier ones, so a longer text would be trained with other frequencies than it is decoded with. Indexed
    attention (DeepSeek-V3.2) chooses ``index_topk`` keys, and orders equal scores by the length of the row. Moshi's
    cache keeps only its window, and its pass sees all positions.
    """
    context = max(0, int(getattr(config, "max_position_embeddings", 0) or 0))
    rope = getattr(config, "rope_parameters", None) or {}
    for part in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if part.get("rope_type") == "longrope" and (original := part.get("original_max_position_embeddings")):
            context = min(context or original, int(original))
    for name in ("index_topk", "sliding_window" if config.model_type == "moshi" else ""):
        if limit := getattr(config, name, None):
            context = min(context or limit, int(limit))
    return context
