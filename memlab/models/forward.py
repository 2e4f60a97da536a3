"""The forward pass of training: hidden states, then output head and loss together.

Two changes make it faster than the model's own forward. Each is tested once per model; if its numbers differ, the
model's own forward is used. (1) Backbone and head are called separately. The head sees only scored positions, one
block at a time, and turns each block into losses and gradients at once. So logits are not kept for the backward pass,
and memory does not grow as positions x vocabulary. (2) On a CPU, attention over short rows is a few plain matrix
products, because the backward pass of the fused kernels is slower there. On a GPU it is torch's fused kernels with an
explicit causal flag: transformers would inspect the positions, and wait for the device in each pass.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import linear

from memlab.models.packed import PackedLinear

LOGITS_AT_ONCE = {"cpu": 1 << 23, "cuda": 1 << 27}
"""Logits per block. On a CPU two blocks should about fit into its caches."""
SHORT = 512
"""Largest number of positions for plain attention; its memory grows with their square."""
PLAIN, FUSED = "memlab_plain", "memlab_fused"
"""Names of memlab's attentions in transformers' registry."""


class ForwardPass:
    """Losses of one model. The weights may have any dtype.

    ``choice``: (whether backbone and head are called separately, name of the attention or None). Measured at the first
    pass, unless it is given. ``takes_mask`` and ``changes_input``: see ``memlab.models.probe.Behaviour``.
    """

    def __init__(
        self,
        model: Any,
        d: int,
        choice: tuple[bool, str | None] | None = None,
        *,
        takes_mask: bool = True,
        changes_input: bool = False,
    ) -> None:
        self._takes_mask, self._changes_input = takes_mask, changes_input
        self._probe = torch.randn(2, 24, d, generator=torch.Generator().manual_seed(0))
        self._model = model
        if choice and choice[1]:
            _register()
        self._choice = choice
        self._longest = SHORT

    def losses(
        self,
        model: Any,
        embeddings: torch.Tensor,
        at: torch.Tensor,
        targets: torch.Tensor,
        argmax: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(nats, margin), float32 (n,), at the n positions ``at`` of ``embeddings`` (b, s, d).

        ``at`` counts positions over all b rows. ``nats`` is the cross-entropy of ``targets`` (n,). ``margin`` is the
        target's logit minus the best other logit; it has no gradient. ``argmax`` (n,), if given, is filled with the
        ids of the largest logits. The pass is causal and has no mask, so padding belongs on the right.
        """
        split, attention = self.choose()
        if self._changes_input:
            embeddings = embeddings.clone()
        with _attention(model, attention if embeddings.shape[1] <= self._longest else None):
            if split:
                hidden = model.base_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
                head = model.get_output_embeddings()
                hidden = hidden.flatten(0, 1).index_select(0, at)  # a boolean mask would wait for the device
                layer = head if isinstance(head, PackedLinear) else None
                dtype = torch.bfloat16 if layer else head.weight.dtype
                hidden = hidden.to(dtype)  # Mamba's residual stream is float32 whatever its weights are
                return _Losses.apply(hidden, head.weight, getattr(head, "bias", None), targets, argmax, layer)
            if self._takes_mask:
                keep = torch.zeros(embeddings.shape[:2], dtype=torch.bool, device=at.device)
                keep.view(-1)[at] = True
                logits = model(inputs_embeds=embeddings, use_cache=False, logits_to_keep=keep).logits.flatten(0, -2)
            else:
                logits = model(inputs_embeds=embeddings, use_cache=False).logits.flatten(0, 1).index_select(0, at)
        return _Losses.apply(logits, None, None, targets, argmax, None)

    def fused(self, size: int) -> bool:
        """Whether rows of ``size`` positions use the fused attention, which never waits for the device."""
        return self.choose()[1] == FUSED and size <= self._longest

    def choose(self) -> tuple[bool, str | None]:
        """The ``choice``, measured now if it was not yet."""
        if self._choice is None:
            self._choice = self._fastest()
        return self._choice

    @torch.no_grad()
    def _fastest(self) -> tuple[bool, str | None]:
        """The fastest ``choice`` that gives the logits of the model's own forward."""
        model = self._model
        probe = self._probe.to(next(model.parameters()).device)
        # The scale comes from many tokens: a single one may be a padding token, whose embedding is often zero.
        embedding = model.get_input_embeddings()
        tokens = torch.arange(min(256, embedding.num_embeddings), device=probe.device)
        probe = probe * embedding(tokens).std()
        expected = model(inputs_embeds=probe.clone(), use_cache=False).logits

        def same(attention: str | None) -> bool:
            try:
                with _attention(model, attention):
                    hidden = model.base_model(inputs_embeds=probe.clone(), use_cache=False).last_hidden_state
                head = model.get_output_embeddings()
                logits = linear(hidden, head.weight, getattr(head, "bias", None))
            except Exception:  # this family has another structure, so use the model's own forward
                return False
            return logits.shape == expected.shape and bool((logits - expected).norm() < 1e-4 * expected.norm())

        split = same(None)
        attention = {"cpu": PLAIN, "cuda": FUSED}.get(probe.device.type)
        choice = split, attention if split and attention and _register() and same(attention) else None
        if attention == FUSED:
            # The probe is short: it cannot show how the model treats rows longer than a sliding window.
            config = model.config.get_text_config()
            windows = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
            self._longest = min((window for window in windows if window), default=sys.maxsize)
        return choice


class _Losses(torch.autograd.Function):
    """Head and loss together. The gradient is computed in the forward pass, block by block, with the logits."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        argmax: torch.Tensor | None,
        layer: PackedLinear | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        with_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if with_gradient else None
        vocabulary = layer.out_features if layer else hidden.shape[-1] if weight is None else weight.shape[0]
        size = max(1, LOGITS_AT_ONCE.get(hidden.device.type, 1 << 25) // vocabulary)
        nats, margins = [], []
        for start in range(0, len(hidden), size):
            rows = slice(start, start + size)
            if layer:
                logits = layer.product(hidden[rows])
            else:
                logits = hidden[rows].clone() if weight is None else linear(hidden[rows], weight, bias)
            loss, margin, d_logits = _scored(
                logits, targets[rows], with_gradient, None if argmax is None else argmax[rows]
            )
            nats.append(loss)
            margins.append(margin)
            if gradient is not None:
                gradient[rows] = layer.back(d_logits) if layer else d_logits if weight is None else d_logits @ weight
        if gradient is not None:
            ctx.save_for_backward(gradient)
        loss, margin = torch.cat(nats), torch.cat(margins)
        ctx.mark_non_differentiable(margin)
        return loss, margin

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream[0][:, None]).to(gradient.dtype), *[None] * 5


def _scored(
    logits: torch.Tensor, targets: torch.Tensor, with_gradient: bool, argmax: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(nats, margin, d nats / d logits) of a block of logits (r, V), which is overwritten. Fills ``argmax`` (r,)."""
    index = targets[:, None]
    true = logits.gather(1, index).float()
    probabilities = torch.softmax(logits, -1)
    p = probabilities.gather(1, index).squeeze(1).float()
    # In bfloat16 a probability near 1 is coarse, but the sum of the other probabilities is precise.
    rest = probabilities.scatter_(1, index, 0).sum(-1, dtype=torch.float32)
    nats = torch.where(p < 0.5, -p.clamp_min(1e-38).log(), -torch.log1p(-rest.clamp_max(0.75)))
    nats = nats + 0 * rest  # the clamps hide a NaN; this brings it back
    others = logits.scatter_(1, index, -torch.inf)
    if argmax is None:
        margin = true.squeeze(1) - others.amax(-1).float()
    else:  # the same numbers, but slower on a CPU
        best, rival = others.max(-1)
        margin = true.squeeze(1) - best.float()
        argmax.copy_(torch.where(margin > 0, targets, rival))
    if with_gradient:
        probabilities.scatter_(1, index, -rest[:, None].to(probabilities.dtype))
    return nats, margin, probabilities  # p - 1 for the target, p for the others


def _short_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, scaling: float, **_: Any
) -> tuple[torch.Tensor, None]:
    """Causal attention by plain products: query (b, h, s, e), key and value (b, h / g, s, e) -> (b, s, h, e).

    Heads that share a key are stacked in one matrix, so the key is not repeated. All rows have the same mask.
    """
    b, heads, s, e = query.shape
    groups = key.shape[1]
    query = query.reshape(b * groups, heads // groups * s, e)
    key, value = key.reshape(b * groups, s, e), value.reshape(b * groups, s, value.shape[-1])
    bias = mask[0, 0].to(query.dtype).repeat(heads // groups, 1)
    weights = torch.baddbmm(bias, query, key.mT, alpha=scaling).softmax(-1)
    return (weights @ value).view(b, heads, s, -1).transpose(1, 2), None


def _fused_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, scaling: float, **_: Any
) -> tuple[torch.Tensor, None]:
    """The same attention by torch's fused kernels, without a mask."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # the float32 kernels take no grouped heads, and the fallback would keep all attention weights
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    return out.transpose(1, 2), None


def _register() -> bool:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(PLAIN, _short_attention)
    AttentionMaskInterface.register(PLAIN, eager_mask)
    AttentionInterface.register(FUSED, _fused_attention)  # without a mask function of this name, no mask is built
    return True


@contextlib.contextmanager
def _attention(model: Any, name: str | None) -> Iterator[None]:
    """Use another attention inside this context. Decoding and checks keep the model's own attention."""
    config = model.config
    before = config._attn_implementation
    if name:
        config._attn_implementation = name
    try:
        yield
    finally:
        if name:
            config._attn_implementation = before
