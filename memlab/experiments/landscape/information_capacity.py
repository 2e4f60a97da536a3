"""Information capacity (arXiv 2511.08066) of models on the bundled texts, with and without the paper's bias.

The protocol is the paper's: samples of at most 1,024 tokens, the first token of each is not counted, the tokenizer's
own special tokens come first. Its texts are not bundled, so values compare models here, and not with its leaderboard.

Predicted before the run: with the mixed bias both models are below 0. English prose has about 35 bits of UTF-8 per
token, and SmolLM2-135M codes it in about 5, so without a bias it is at (35 - 5) / log2(3e8) = 1.07, and with -24 at
0.21. (This contradicts the first sentence; both stay.) Gemma-3-270M has a larger vocabulary: more bits of text per
token, a higher value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from memlab.experiments.landscape.method import LandscapeError
from memlab.experiments.session import Session
from memlab.experiments.tables import require_columns
from memlab.measures.information_capacity import BIAS, TOKENS, flops_per_token, information_capacity
from memlab.models import FrozenLM
from memlab.probes.token_costs import token_scores
from memlab.texts import Text, load_texts

TEXTS = 36
"""Bundled texts that are measured: all of them."""


def shape(lm: FrozenLM) -> dict[str, int]:
    """The numbers of the FLOPs formula, from the model's configuration, and ``head_width``.

    Raises ``LandscapeError`` for models that are no dense transformers with a gated feed-forward.
    """
    config = lm.model.config.get_text_config()
    names = dict(d="hidden_size", layers="num_hidden_layers", heads="num_attention_heads", ff="intermediate_size")
    found = {key: getattr(config, name, None) for key, name in names.items()}
    if missing := [names[key] for key, value in found.items() if not isinstance(value, int)]:
        raise LandscapeError(
            f"{lm.name} has no {', '.join(missing)}, and the formula needs it. Leave this model out of the table."
        )
    numbers = {key: int(value or 0) for key, value in found.items()}
    return numbers | {
        "kv_heads": int(getattr(config, "num_key_value_heads", None) or numbers["heads"]),
        "vocabulary": lm.vocabulary,
        "head_width": int(getattr(config, "head_dim", None) or numbers["d"] // numbers["heads"]),
    }


def samples(lm: FrozenLM, texts: Sequence[Text], tokens: int = TOKENS) -> list[np.ndarray]:
    """Token ids of each text, with the tokenizer's own special tokens, cut to ``tokens``."""
    if lm.tokenizer is None:
        raise LandscapeError(f"{lm.name} has no tokenizer, and the formula counts bytes of text. Leave it out.")
    length = min(tokens, lm.context - 1) if lm.context else tokens
    rows = [lm.tokenizer(text.string, verbose=False)["input_ids"][:length] for text in texts]
    return [np.array(row, np.int64) for row in rows if len(row) > 1]


def row(lm: FrozenLM, ids: Sequence[np.ndarray]) -> dict[str, Any]:
    """One row of the table, from samples of token ids.

    ``text_bits``: mean over samples of the UTF-8 bits per token. ``code_bits``: mean over tokens. Both are without the
    first token of each sample, as in the paper's program. ``flops_heads``: with the heads' real width.
    """
    text = [8 * len(lm.decode_ids(sample[1:]).encode()) / (len(sample) - 1) for sample in ids]
    code = np.concatenate([token_scores(lm, sample[1:], lm.embed(sample[:1]))[0] for sample in ids])
    numbers = shape(lm)
    real = flops_per_token(**numbers)
    numbers.pop("head_width")
    flops = flops_per_token(**numbers)
    means = {"text_bits": float(np.mean(text)), "code_bits": float(code.mean())}
    values = {
        f"capacity_{name}": information_capacity(**means, flops=flops, bias=bias)
        for name, bias in {"mixed": BIAS["mixed"], "other": BIAS["other"], "without_bias": 0.0}.items()
    }
    counted = {"samples": len(ids), "tokens": int(sum(map(len, ids))), "parameters": lm.parameters}
    return {"model": lm.name} | counted | means | {"flops": flops, "flops_heads": real} | values


def information_capacity_table(session: Session) -> pd.DataFrame:
    """One row per model: those of ``session.resume_from``, and the session's model on the bundled texts.

    A model that has a row is not measured again.
    """
    earlier = session.resume_from
    if earlier is None:
        return pd.DataFrame([row(session.lm, samples(session.lm, load_texts("originals", count=TEXTS)))])
    require_columns(earlier, ["model", "code_bits"])
    if session.lm.name in set(earlier.model):
        return earlier
    return pd.concat([earlier, information_capacity_table(replace(session, resume_from=None))], ignore_index=True)
