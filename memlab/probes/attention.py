"""Inside the model: where the text looks, what happens when it may not look at the vector, what each token gains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from memlab.decoding.decode import context_of, require_weights
from memlab.models import FrozenLM, ModelError
from memlab.probes.token_costs import gains
from memlab.results.mem_vector import MemVector


@torch.no_grad()
def attention_mass(lm: FrozenLM, mem: MemVector) -> pd.DataFrame:
    """One row a layer and head: mean attention of the text's positions to position 0 (the sink, where there is a
    prefix), to the vectors, and to the text itself. No rows for models without attention.
    """
    require_weights(lm, mem)
    rows = _rows(lm, mem)
    with lm.lock, _plain(lm):
        try:
            made: Any = lm.model(inputs_embeds=rows[None], use_cache=False, output_attentions=True)
        except TypeError:  # state-space models take no such word
            made = None
    text, first = slice(len(rows) - mem.n, None), len(mem.prefix_ids)
    found = []
    for layer, weights in enumerate(getattr(made, "attentions", None) or ()):
        share = weights[0, :, text].float().mean(1).cpu().numpy()  # (heads, positions)
        for head, row in enumerate(share):
            on_mem = float(row[first : first + mem.k].sum())
            found.append((layer, head, float(row[0]), on_mem, float(row[len(rows) - mem.n :].sum())))
    return pd.DataFrame(found, columns=["layer", "head", "on_first", "on_mem", "on_text"])


@torch.no_grad()
def knock_out(lm: FrozenLM, mem: MemVector, layers: Sequence[int], *, what: str = "mem") -> tuple[float, float]:
    """(bits a token, share right) under the true text, while in these ``layers`` nothing behind the vectors sees them.

    ``what="prefix"``: what stands before them is hidden instead. The vectors' own position goes on through all layers,
    so the first token, which is read off there when nothing follows them, is hardly touched. After arXiv 2607.21231.
    """
    require_weights(lm, mem)
    before = len(mem.prefix_ids)
    hidden = {"mem": slice(before, before + mem.k), "prefix": slice(0, before)}.get(what)
    if hidden is None:
        raise ValueError(f"what={what!r}; expected mem or prefix")
    modules = attention_layers(lm)
    if strange := [layer for layer in layers if not 0 <= layer < len(modules)]:
        raise ValueError(f"layers {strange}; {lm.name} has layers 0 to {len(modules) - 1}")
    rows = _rows(lm, mem)[:-1]
    behind = slice(before + mem.k, None)
    with lm.lock, _plain(lm), _hidden([modules[layer] for layer in layers], behind, hidden):
        logits = lm.model(inputs_embeds=rows[None], use_cache=False).logits[0, -mem.n :].float()
    targets = torch.tensor(mem.token_ids.copy(), device=lm.device)
    nats = torch.nn.functional.cross_entropy(logits, targets)
    return float(nats / np.log(2)), float((logits.argmax(-1) == targets).float().mean())


def knock_outs(lm: FrozenLM, mem: MemVector, *, what: str = "mem") -> pd.DataFrame:
    """``knock_out`` in each layer alone, in all from it on, and in all up to it: ``layer mode bits accuracy``."""
    last = len(attention_layers(lm))
    rows: list[tuple[int, str, float, float]] = [(-1, "none", *knock_out(lm, mem, [], what=what))]
    for layer in range(last):
        modes = {"only": [layer], "from": range(layer, last), "until": range(layer + 1)}
        rows += [(layer, mode, *knock_out(lm, mem, list(which), what=what)) for mode, which in modes.items()]
    return pd.DataFrame(rows, columns=["layer", "mode", "bits", "accuracy"])


def waterfall(lm: FrozenLM, mem: MemVector) -> pd.DataFrame:
    """One row a token: what it cost the model before and after, bits: ``position token before after``."""
    (row,) = gains(lm, [mem]).to_dict("records")
    tokens = [lm.decode_ids([int(i)]) for i in mem.token_ids]
    return pd.DataFrame(
        {
            "position": np.arange(1, mem.n + 1),
            "token": tokens,
            "before": row["token_bits_without"],
            "after": row["token_bits_with"],
        }
    )


def attention_layers(lm: FrozenLM) -> list[Any]:
    """The attention modules, in order of their layers. Raises ``ModelError`` for a model that has none."""
    found = {
        module.layer_idx: module
        for name, module in lm.model.named_modules()
        if name.rpartition(".")[2] in lm.family.attention_names and hasattr(module, "layer_idx")
    }
    if not found:
        raise ModelError(f"{lm.name} has no attention layers: there is nothing to look at or to knock out")
    return [found[layer] for layer in sorted(found)]


def _rows(lm: FrozenLM, mem: MemVector) -> torch.Tensor:
    return torch.cat([context_of(lm, mem), lm.embed(mem.token_ids)])


@contextlib.contextmanager
def _plain(lm: FrozenLM) -> Iterator[None]:
    """The attention that hands its weights out, and is always given a mask."""
    config = lm.model.config
    before = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = before


@contextlib.contextmanager
def _hidden(modules: Sequence[Any], rows: slice, columns: slice) -> Iterator[None]:
    """In these modules ``rows`` (queries) do not see ``columns`` (keys)."""

    def hide(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs.get("attention_mask")
        if mask is None or mask.ndim != 4:
            raise ModelError(f"{type(module).__name__} is not given a mask that could be changed")
        mask = mask.clone()
        mask[:, :, rows, columns] = torch.finfo(mask.dtype).min
        return args, kwargs | {"attention_mask": mask}

    hooks = [module.register_forward_pre_hook(hide, with_kwargs=True) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
