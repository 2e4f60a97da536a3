"""Attention with some positions hidden, per layer and head: the one mechanism of knock-outs and of kept caches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from memlab.models import FrozenLM, ModelError

Hide = Callable[[Callable[[], torch.Tensor]], torch.Tensor]
"""Says what an attention module hides: True where a row does not see a column. It is called at each pass.

The result (batch, heads, rows, columns) may be 1 wide in all but the last axis. Its columns are the first positions of
the cache and the text; later ones stay visible. The argument is a function ``look`` without arguments. It gives the
shares of attention (batch, heads, rows, columns) of this pass with nothing hidden.
"""


@contextlib.contextmanager
def eager_attention(lm: FrozenLM) -> Iterator[None]:
    """Transformers' eager attention, which returns its weights and always gets a mask."""
    config = lm.model.config
    before = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = before


@contextlib.contextmanager
def hiding(hides: Mapping[Any, Hide]) -> Iterator[None]:
    """These attention modules hide what their functions say. Use it inside ``eager_attention``.

    Raises ``ModelError`` at the first pass of a model whose attention gets no mask.
    """
    hooks = [module.register_forward_pre_hook(_hook(hide), with_kwargs=True) for module, hide in hides.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hook(hide: Hide) -> Callable[..., tuple[Any, dict[str, Any]]]:
    def changed(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs.get("attention_mask")
        if mask is None or mask.ndim != 4:
            raise ModelError(
                f"{type(module).__name__} gets no 4-dimensional attention mask, so nothing can be hidden from it. "
                "Use a model of another family."
            )
        hidden = hide(lambda: _look(module, args, kwargs))
        first = mask[..., : hidden.shape[-1]]
        first = first.masked_fill(hidden, torch.finfo(mask.dtype).min)
        rest = mask[..., hidden.shape[-1] :].expand(*first.shape[:-1], -1)
        return args, kwargs | {"attention_mask": torch.cat([first, rest], -1)}

    return changed


def _look(module: Any, args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    """Shares of attention of a module in a pass of its own, which leaves the cache as it is."""
    from transformers import Cache

    seen = {name: _Peek(value) if isinstance(value, Cache) else value for name, value in kwargs.items()}
    shares: torch.Tensor = module.forward(*args, **seen)[1]
    return shares


class _Peek:
    """A cache that gives what it holds with the new keys and values behind it, and forgets them."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *more: Any, **named: Any) -> Any:
        held = self._cache.layers[layer] if layer < len(self._cache.layers) else None
        if held is None or held.keys is None:
            return keys, values
        return torch.cat([held.keys, keys], -2), torch.cat([held.values, values], -2)
