"""Tiny random-weight models of every causal type of transformers, for the compatibility table and for tests.

One rule shrinks the default configuration of a type: every size with a known name gets a small value, lists with one
entry per layer are cut, and parts of composite models are shrunk in the same way. ``EXCEPTIONS`` holds what the rule
cannot know. A configuration is first built without memory, so that no large model is ever allocated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from memlab.errors import MemlabError

WIDTH, HEADS, LAYERS = 128, 4, 2
HEAD = WIDTH // HEADS
VOCABULARY = CONTEXT = 96
STD = 0.2
"""Standard deviation of the weights, see ``memlab.models.families.STD``: a smaller width needs larger weights."""
LARGEST = 40_000_000
"""Number of weights above which a model is not allocated."""


class NotBuiltError(MemlabError):
    """A tiny model of this type cannot be built. The message has the reason."""


_VALUES: tuple[tuple[int, str], ...] = (
    (WIDTH, "hidden_size d_model n_embd dim embed_dim emb_dim word_embed_proj_dim embedding_size model_dim lru_width"),
    (WIDTH, "backbone_hidden_size input_embedding_size output_embedding_size attention_hidden_size embedding_dim"),
    (WIDTH, "pronunciation_embed_dim shape_embed_dim"),
    (2 * WIDTH, "intermediate_size ffn_hidden_size n_inner ffn_dim decoder_ffn_dim encoder_ffn_dim dim_ff dff d_inner"),
    (2 * WIDTH, "mamba_d_ssm dense_ffn_hidden_size feed_forward_size dense_intermediate_size intermediate_size_mlp"),
    (HEADS, "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads"),
    (HEADS, "attention_heads num_decoder_attention_heads num_encoder_attention_heads swa_num_attention_heads"),
    (HEADS, "linear_num_value_heads linear_num_heads"),
    (2, "num_key_value_heads num_kv_heads multi_query_group_num linear_num_key_heads swa_num_key_value_heads"),
    (HEAD, "head_dim kv_channels dim_head d_head v_head_dim swa_head_dim attention_head_size global_head_dim"),
    (HEAD, "linear_key_head_dim linear_value_head_dim linear_head_dim mamba_d_head mamba_head_dim swa_v_head_dim"),
    (16, "qk_rope_head_dim qk_nope_head_dim q_lora_rank kv_lora_rank o_lora_rank rotary_dim index_head_dim head_size"),
    (16, "state_size mamba_d_state ssm_state_size hidden_size_per_layer_input laurel_rank sliding_window chunk_size"),
    (16, "mamba_chunk_size attention_window_size attention_chunk_size block_size router_hidden_size local_window_size"),
    (8, "time_step_rank mamba_dt_rank mamba_n_heads mamba_num_heads n_mamba_heads adapter_rank"),
    (4, "num_experts num_local_experts n_routed_experts moe_num_experts index_n_heads conv_kernel hc_lowrank"),
    (2, "num_experts_per_tok num_experts_per_token moe_topk moe_k experts_per_token moe_top_k zero_expert_num"),
    (2, "o_groups altup_num_inputs layer_group_size"),
    (32, "moe_intermediate_size shared_expert_intermediate_size moe_shared_expert_intermediate_size image_size"),
    (32, "expert_ffn_hidden_size shared_experts_intermediate_size shared_intermediate_size index_topk"),
    (1, "n_shared_experts n_group topk_group mamba_n_groups n_groups mamba_ngroups num_mem_blocks num_shared_experts"),
    (1, "first_k_dense_replace num_dense_layers num_expert_group num_layers_per_stack bos_token_id"),
    (0, "num_nextn_predict_layers mtp_num_hidden_layers num_kv_shared_layers num_mtp_layers pad_token_id"),
    (2, "eos_token_id"),
    (VOCABULARY, "vocab_size vocab_size_per_layer_input encoder_hash_byte_group_vocab shape_vocab_size"),
    (CONTEXT, "max_position_embeddings n_positions n_ctx max_seq_len context_length max_target_positions"),
    (CONTEXT, "model_max_length max_source_positions sliding_window_size"),
)
VALUES = {name: value for value, names in _VALUES for name in names.split()}
"""Name of a field -> its value in a tiny model."""
LAYER_COUNTS = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks"),
    *("decoder_layers", "encoder_layers", "num_decoder_layers", "num_encoder_layers"),
)
OPTIONAL = ("q_lora_rank", "sliding_window", "n_inner", "attention_chunk_size", "rotary_dim", "num_mtp_layers")
"""Fields that stay None if they are None by default."""

_HYBRID = ["linear_attention", "full_attention"]
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
EXCEPTIONS: Mapping[str, Mapping[str, Any]] = {
    # Both kinds of layer, which the default configuration has only in a large model or not at all.
    "bamba": dict(attn_layer_indices=[1]),
    "granitemoehybrid": dict(layer_types=_HYBRID),
    "jamba": dict(attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1),
    "lfm2": dict(layer_types=["conv", "full_attention"]),
    "lfm2_moe": dict(layer_types=["conv", "full_attention"]),
    "recurrent_gemma": dict(num_hidden_layers=3),
    "zamba": dict(
        **dict(num_hidden_layers=4, layers_block_type=["linear_attention", "hybrid"] * 2),
        **dict(attention_head_dim=2 * HEAD, attention_hidden_size=2 * WIDTH),
    ),
    "zamba2": dict(
        attention_head_dim=2 * HEAD, attention_hidden_size=2 * WIDTH, layers_block_type=["linear_attention", "hybrid"]
    ),
    # What a type needs to be a causal model of one language.
    "xlm": dict(causal=True),
    "xmod": dict(default_language="en_XX"),
    # Random weights that are tied repeat the last token, however Gemma scales its embedding.
    "gemma3": dict(tie_word_embeddings=False),
    "gemma3_text": dict(tie_word_embeddings=False),
    "gemma4_unified_text": dict(tie_word_embeddings=False),
    # Sizes that depend on each other.
    "deepseek_v4": dict(compress_rates={"compressed_sparse_attention": 4, "heavily_compressed_attention": 8}),
    "mamba2": dict(num_heads=8),
    "reformer": dict(axial_pos_embds=False, attn_layers=["local", "lsh"], num_buckets=4),
    "qwen4_exp_text": dict(
        indexer_n_heads=2, indexer_kv_heads=1, indexer_head_dim=HEAD, indexer_budget=HEAD, indexer_compress_ratio=4
    ),
    "zaya": dict(num_experts_per_tok=1),
    # Defaults that transformers itself cannot build.
    "cohere_compass_text": dict(rope_parameters={"full_attention": _ROPE, "sliding_attention": _ROPE}),
    "dbrx": dict(attn_config=dict(rope_theta=10000.0, clip_qkv=8)),
}
"""Settings that the rule cannot know, by model type. Those of a part are under the part's name."""
NO_TEXT = {
    "gemma4_assistant": "it is a draft model, which needs the cache of another model",
    "gemma4_unified_assistant": "it is a draft model, which needs the cache of another model",
    "musicgen": "its tokens are audio codes, several per position",
    "musicgen_melody": "its tokens are audio codes, several per position",
}
"""Types that write no text of their own, with the reason."""


def causal_types() -> dict[str, str]:
    """{model type: class} of all causal language models of the installed transformers, sorted by name."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    return dict(sorted(NAMES.items()))


def text_type(model_type: str) -> str | None:
    """The causal type of the text part, if transformers builds a composite type with the class of that part."""
    from transformers import CONFIG_MAPPING

    types = causal_types()
    part = CONFIG_MAPPING[model_type].sub_configs.get("text_config")
    name = getattr(part, "model_type", None)
    return name if name in types and name != model_type and types[name] == types[model_type] else None


def tiny_config(model_type: str) -> Any:
    """A configuration of a few hundred thousand weights. Raises what the configuration class raises."""
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[model_type](**_shrunk(CONFIG_MAPPING[model_type], model_type))
    if hasattr(config, "is_decoder"):  # encoders of the BERT kind are causal only as decoders
        config.is_decoder = True
    return config


def _shrunk(kind: Any, model_type: str, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Arguments for the configuration class ``kind``. ``given``: settings from the whole that it is a part of."""
    from transformers import CONFIG_MAPPING

    exceptions = {**EXCEPTIONS.get(model_type, {}), **(given or {})}
    parts = {name: exceptions.pop(name, {}) for name in kind.sub_configs}
    default = kind(**{name: part for name, part in parts.items() if part}).to_dict()
    layers = next((default[name] for name in LAYER_COUNTS if isinstance(default.get(name), int)), -1)
    lists = {name: value for name, value in default.items() if isinstance(value, list) and len(value) == layers > 0}
    kinds = {name: [*dict.fromkeys(value)] for name, value in lists.items() if isinstance(value[0], str)}
    count = exceptions.get("num_hidden_layers") or max([LAYERS, *map(len, kinds.values())])
    out: dict[str, Any] = {name: (kinds.get(name, value) * count)[:count] for name, value in lists.items()}
    for name, value in default.items():
        if name in LAYER_COUNTS and value is not None:
            out[name] = count
        elif name in VALUES and not isinstance(value, (list, dict)) and not (value is None and name in OPTIONAL):
            out[name] = VALUES[name]
        elif name.endswith(("_token_id", "_token_index")) and isinstance(value, int) and value >= VOCABULARY:
            out[name] = VALUES["pad_token_id"]  # such as the token of an image
    if "qk_rope_head_dim" in default and "qk_nope_head_dim" in default:  # latent attention: a head is both parts
        sizes = dict(head_dim=16, qk_head_dim=32, num_key_value_heads=HEADS)
        out |= {name: size for name, size in sizes.items() if name in default}
    for name, extra in parts.items():
        if isinstance(part := default.get(name), dict):
            inner = part.get("model_type", "")
            part_class = CONFIG_MAPPING[inner] if inner in CONFIG_MAPPING else kind.sub_configs[name]
            out[name] = _shrunk(part_class, inner, extra) | {"model_type": inner}
    return out | exceptions


def tiny_model(model_type: str, *, seed: int = 0) -> Any:
    """A model of this type, float32 and in eval mode, with random weights. Raises ``NotBuiltError``."""
    from transformers import AutoModelForCausalLM

    if reason := NO_TEXT.get(model_type):
        raise NotBuiltError(reason)
    try:
        config = tiny_config(model_type)
        with torch.device("meta"):
            size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config, dtype=torch.float32).parameters())
    except Exception as error:  # each family raises its own types
        raise NotBuiltError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    if size > LARGEST:
        raise NotBuiltError(f"the shrunk configuration still has {size:,} weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.normal_(std=STD)
                else:  # some gates and scales begin at zero, and their part of the model would do nothing
                    weight.add_(torch.randn_like(weight), alpha=STD / 2)
            # A large embedding would outweigh all that attention adds, see ``memlab.models.families.Toy``.
            embedding = getattr(model.get_input_embeddings(), "weight", None)
            if embedding is not None and embedding.dim() == 2:
                rows = model.get_input_embeddings()(torch.arange(min(len(embedding), VOCABULARY)))
                embedding.mul_(min(1.0, STD / float(rows.std())))
    return model
