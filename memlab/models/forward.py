"""The pass that training repeats: hidden states, then head and loss in one, and no work whose result nobody reads.

Two things make it quick, and both are asked for once whether they give this model's own numbers; where they do not, the
model's own forward is used. (1) Backbone and head are called apart, so that the head sees only scored positions, a
chunk of them at a time, and turns them into losses and slopes on the spot: logits are never held for the backward
pass, and memory does not grow as positions x vocabulary. (2) On the CPU, attention over short rows is a few plain
matrix products; the backward pass of the fused kernels there is slower. On a GPU it is torch's fused kernels, told
outright that rows are causal: transformers would look at the positions to find out, and wait for the device each pass.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import linear

LOGITS_AT_ONCE = {"cpu": 1 << 23, "cuda": 1 << 27}
"""Logits held at a time. On a CPU two such blocks should about fit its caches."""
SHORT = 512
"""Positions up to which plain attention is used; its memory grows with their square."""
PLAIN, FUSED = "memlab_plain", "memlab_fused"
"""Names of our attentions among those of transformers."""


class ForwardPass:
    """Losses of one model, its weights being given in any dtype."""

    def __init__(self, model: Any, d: int) -> None:
        self._probe = torch.randn(2, 24, d, generator=torch.Generator().manual_seed(0))
        self._model = model
        self._found: tuple[bool, str | None] | None = None
        self._longest = SHORT

    def losses(
        self, model: Any, embeddings: torch.Tensor, at: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(nats, lead), float32 (rows,), at positions ``at`` (rows,) of ``embeddings`` (b, s, d), counted through all.

        ``nats`` is the cross-entropy of ``targets`` (rows,), ``lead`` that of the target's logit over the best other
        one; it has no gradient. Causal, without a mask: pad on the right.
        """
        apart, attention = self._found or self._find()
        with _attention(model, attention if embeddings.shape[1] <= self._longest else None):
            if apart:
                hidden = model.base_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
                head = model.get_output_embeddings()
                hidden = hidden.flatten(0, 1).index_select(0, at)  # a mask would make the device wait
                return _Losses.apply(hidden, head.weight, getattr(head, "bias", None), targets)
            keep = torch.zeros(embeddings.shape[:2], dtype=torch.bool, device=at.device)
            keep.view(-1)[at] = True
            logits = model(inputs_embeds=embeddings, use_cache=False, logits_to_keep=keep).logits
        return _Losses.apply(logits, None, None, targets)

    def fused(self, size: int) -> bool:
        """Whether rows of so many positions go through the fused attention that asks nothing of the device."""
        return (self._found or self._find())[1] == FUSED and size <= self._longest

    @torch.no_grad()
    def _find(self) -> tuple[bool, str | None]:
        """Whether backbone and head can be called apart, and which attention can be put in, without another result."""
        model = self._model
        probe = self._probe.to(next(model.parameters()).device)
        # Of many tokens: a padding token's embedding is often zero, and would prove nothing.
        embedding = model.get_input_embeddings()
        some = torch.arange(min(256, embedding.num_embeddings), device=probe.device)
        probe = probe * embedding(some).std()
        own = model(inputs_embeds=probe, use_cache=False).logits

        def same(attention: str | None) -> bool:
            try:
                with _attention(model, attention):
                    hidden = model.base_model(inputs_embeds=probe, use_cache=False).last_hidden_state
                head = model.get_output_embeddings()
                logits = linear(hidden, head.weight, getattr(head, "bias", None))
            except Exception:  # a family that is built otherwise: it keeps its own way
                return False
            return logits.shape == own.shape and bool((logits - own).norm() < 1e-4 * own.norm())

        apart = same(None)
        attention = {"cpu": PLAIN, "cuda": FUSED}.get(probe.device.type)
        self._found = (apart, attention if apart and attention and _register() and same(attention) else None)
        if attention == FUSED:
            # Whether a row is longer than a window that slides, the short probe cannot show.
            config = model.config.get_text_config()
            windows = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
            self._longest = min((window for window in windows if window), default=sys.maxsize)
        return self._found


class _Losses(torch.autograd.Function):
    """Head and loss in one; the slope is made on the way forward, while the logits are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wanted = ctx.needs_input_grad[0]
        slope = torch.empty_like(hidden) if wanted else None
        vocabulary = hidden.shape[-1] if weight is None else weight.shape[0]
        size = max(1, LOGITS_AT_ONCE.get(hidden.device.type, 1 << 25) // vocabulary)
        nats, leads = [], []
        for start in range(0, len(hidden), size):
            rows = slice(start, start + size)
            logits = hidden[rows].clone() if weight is None else linear(hidden[rows], weight, bias)
            loss, lead, change = _scored(logits, targets[rows], wanted)
            nats.append(loss)
            leads.append(lead)
            if slope is not None:
                slope[rows] = change if weight is None else change @ weight
        if slope is not None:
            ctx.save_for_backward(slope)
        loss, lead = torch.cat(nats), torch.cat(leads)
        ctx.mark_non_differentiable(lead)
        return loss, lead

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (slope,) = ctx.saved_tensors
        return (slope * gradients[0][:, None]).to(slope.dtype), None, None, None


def _scored(logits: torch.Tensor, targets: torch.Tensor, wanted: bool) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """(nats, lead, d nats / d logits) of a block of logits (r, V), which is used up."""
    index = targets[:, None]
    true = logits.gather(1, index).float()
    shares = torch.softmax(logits, -1)
    share = shares.gather(1, index).squeeze(1).float()
    # In bf16 a share near 1 is coarse, but what is left for the others is not.
    rest = shares.scatter_(1, index, 0).sum(-1, dtype=torch.float32)
    nats = torch.where(share < 0.5, -share.clamp_min(1e-38).log(), -torch.log1p(-rest.clamp_max(0.75)))
    nats = nats + 0 * rest  # a NaN stays one
    lead = true.squeeze(1) - logits.scatter_(1, index, -torch.inf).amax(-1).float()
    if wanted:
        shares.scatter_(1, index, -rest[:, None].to(shares.dtype))
    return nats, lead, shares


def _short_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, scaling: float, **_: Any
) -> tuple[torch.Tensor, None]:
    """Causal attention by plain products: query (b, h, s, e), key and value (b, h / g, s, e) -> (b, s, h, e).

    Grouped heads share their key by standing in one matrix, so it is never repeated. The mask is that of any row.
    """
    b, heads, s, e = query.shape
    groups = key.shape[1]
    query = query.reshape(b * groups, heads // groups * s, e)
    key, value = key.reshape(b * groups, s, e), value.reshape(b * groups, s, value.shape[-1])
    bias = mask[0, 0].to(query.dtype).repeat(heads // groups, 1)
    shares = torch.baddbmm(bias, query, key.mT, alpha=scaling).softmax(-1)
    return (shares @ value).view(b, heads, s, -1).transpose(1, 2), None


def _fused_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, scaling: float, **_: Any
) -> tuple[torch.Tensor, None]:
    """The same by torch's kernels, without a mask."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # the kernels for float32 take no grouped heads, and what would replace them holds all weights
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    return out.transpose(1, 2), None


def _register() -> bool:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(PLAIN, _short_attention)
    AttentionMaskInterface.register(PLAIN, eager_mask)
    AttentionInterface.register(FUSED, _fused_attention)  # for an attention that has no mask of its name none is made
    return True


@contextlib.contextmanager
def _attention(model: Any, name: str | None) -> Iterator[None]:
    """Another attention while this lasts. Decoding and checks keep the model's own."""
    config = model.config
    before = config._attn_implementation
    if name:
        config._attn_implementation = name
    try:
        yield
    finally:
        if name:
            config._attn_implementation = before
