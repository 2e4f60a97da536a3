"""Inside the model: attention to the vectors, the effect of hiding them in some layers, and the cost of each token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from memlab.decoding.decode import context_of, require_weights
from memlab.models import FrozenLM, ModelError
from memlab.probes.hidden_attention import eager_attention, hiding
from memlab.probes.token_costs import gains
from memlab.results.mem_vector import MemVector

TARGETS = ("on_first", "on_mem", "on_text")
"""Where a position can look: position 0 (the sink token, if there is a prefix), the vectors, the text so far."""


@torch.no_grad()
def token_attention(lm: FrozenLM, mem: MemVector) -> np.ndarray:
    """(layers, heads, n, 3): the share of attention that each of the n tokens gives to ``TARGETS`` while it is read.

    Shape (0, 0, n, 3) for models without attention.

    >>> from memlab import Recipe, cram, load
    >>> lm = load("toy:llama")
    >>> (mem,) = cram(lm, lm.passage_of_ids([5, 9, 2]), Recipe.default(k=4, budget=2), progress=False)
    >>> token_attention(lm, mem).shape
    (2, 4, 3, 3)
    """
    require_weights(lm, mem)
    inputs = _inputs(lm, mem)
    every = attention_shares(lm, inputs)
    begin, first = len(inputs) - mem.n, len(mem.prefix_ids)
    columns = (slice(0, 1), slice(first, first + mem.k), slice(begin, None))
    layers = [
        torch.stack([weights[:, begin:, column].sum(-1) for column in columns], dim=-1).cpu().numpy()
        for weights in every
    ]
    return np.stack(layers) if layers else np.zeros((0, 0, mem.n, len(columns)), np.float32)


def attention_mass(lm: FrozenLM, mem: MemVector) -> pd.DataFrame:
    """Mean attention of the text's positions, one row per layer and head: ``layer head on_first on_mem on_text``.

    ``on_first``: to position 0, which is the sink if there is a prefix. No rows for models without attention.
    """
    return mass_of(token_attention(lm, mem))


def mass_of(shares: np.ndarray) -> pd.DataFrame:
    """The table of ``attention_mass``, from the ``shares`` (layers, heads, n, 3) of ``token_attention``."""
    layers, heads = np.indices(shares.shape[:2]).reshape(2, -1)
    means = shares.mean(axis=2, dtype=np.float64).reshape(-1, len(TARGETS))
    return pd.DataFrame({"layer": layers, "head": heads} | {t: means[:, i] for i, t in enumerate(TARGETS)})


@torch.no_grad()
def knock_out(lm: FrozenLM, mem: MemVector, layers: Sequence[int], *, what: str = "mem") -> tuple[float, float]:
    """(bits per token, share right), teacher-forced, while in these ``layers`` no later position sees the vectors.

    ``what="prefix"`` hides the prefix instead. The vectors' own positions still pass through all layers. Without a
    suffix, the first token is predicted at the last of these positions, so it hardly changes. After arXiv 2607.21231.
    """
    require_weights(lm, mem)
    start = len(mem.prefix_ids)
    hidden = {"mem": slice(start, start + mem.k), "prefix": slice(0, start)}.get(what)
    if hidden is None:
        raise ValueError(f"what={what!r} cannot be hidden. Give mem or prefix.")
    modules = attention_layers(lm)
    if unknown := [layer for layer in layers if not 0 <= layer < len(modules)]:
        raise ValueError(f"{lm.name} has no layers {unknown}. Give layers 0 to {len(modules) - 1}.")
    inputs = _inputs(lm, mem)[:-1]
    blind = torch.zeros(1, 1, len(inputs), len(inputs), dtype=torch.bool, device=lm.device)
    blind[..., start + mem.k :, hidden] = True
    hides = {modules[layer]: lambda look: blind for layer in layers}
    with lm.lock, eager_attention(lm), hiding(hides):
        logits = lm.model(inputs_embeds=inputs[None], use_cache=False).logits[0, -mem.n :].float()
    targets = torch.tensor(mem.token_ids.copy(), device=lm.device)
    nats = torch.nn.functional.cross_entropy(logits, targets)
    return float(nats / np.log(2)), float((logits.argmax(-1) == targets).float().mean())


def knock_outs(lm: FrozenLM, mem: MemVector, *, what: str = "mem") -> pd.DataFrame:
    """``knock_out`` in each layer alone, in it and all later layers, in it and all earlier layers.

    Columns ``layer mode bits accuracy``. The first row, with layer -1 and mode ``none``, is without a knock-out.
    """
    last = len(attention_layers(lm))
    rows: list[tuple[int, str, float, float]] = [(-1, "none", *knock_out(lm, mem, [], what=what))]
    for layer in range(last):
        modes = {"only": [layer], "from": range(layer, last), "until": range(layer + 1)}
        rows += [(layer, mode, *knock_out(lm, mem, list(which), what=what)) for mode, which in modes.items()]
    return pd.DataFrame(rows, columns=["layer", "mode", "bits", "accuracy"])


def bits_before_and_after(lm: FrozenLM, mem: MemVector) -> pd.DataFrame:
    """What each token costs without the vector and with it, in bits: ``position token before after``."""
    (costs,) = gains(lm, [mem]).to_dict("records")
    tokens = [lm.decode_ids([int(i)]) for i in mem.token_ids]
    return pd.DataFrame(
        {
            "position": np.arange(1, mem.n + 1),
            "token": tokens,
            "before": costs["token_bits_without"],
            "after": costs["token_bits_with"],
        }
    )


@torch.no_grad()
def attention_shares(lm: FrozenLM, inputs: torch.Tensor) -> list[torch.Tensor]:
    """Per layer (heads, positions, positions) float32: the share of attention of each position of ``inputs`` (c, d).

    Rows look, columns are looked at. Empty for models without attention.
    """
    with lm.lock, eager_attention(lm):
        try:
            output: Any = lm.model(inputs_embeds=inputs[None], use_cache=False, output_attentions=True)
        except TypeError:  # state-space models do not have this argument
            return []
    return [weights[0].float() for weights in getattr(output, "attentions", None) or ()]


def attention_layers(lm: FrozenLM) -> list[Any]:
    """The attention modules, in order of their layers. Raises ``ModelError`` if the model has none."""
    modules = {
        module.layer_idx: module
        for name, module in lm.model.named_modules()
        if name.rpartition(".")[2] in ("self_attn", "attention", "attn") and hasattr(module, "layer_idx")
    }
    if not modules:
        raise ModelError(f"{lm.name} has no attention layers that could be knocked out. Use a transformer model.")
    return [modules[layer] for layer in sorted(modules)]


def _inputs(lm: FrozenLM, mem: MemVector) -> torch.Tensor:
    """Input vectors of the context and the text (positions, d)."""
    return torch.cat([context_of(lm, mem), lm.embed(mem.token_ids)])
