"""Keys and values of a transformer: taken from a pass, given back as a cache, turned to other positions."""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import Any

import torch

from memlab.models.sources import ModelError

TURNED = 1e-3
"""Largest relative difference between keys that are turned to a position and keys that are computed there."""


class KeysValues:
    """Keys and values of one model, float32. ``FrozenLM.kv``.

    >>> from memlab import load
    >>> kv = load("toy:llama").kv
    >>> kv.shape, kv.heads
    ((2, 4, 96), 4)
    """

    def __init__(self, lm: Any) -> None:
        if lm.behaviour.cache_name != "past_key_values":
            raise ModelError(f"{lm.name} keeps no keys and values of its positions. Use a transformer model.")
        self._lm = lm

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """(layers, KV heads, e): a position has that many keys of e numbers, and as many values."""
        layers, heads, _, size = self.of(self._lm.embed([0]))[0].shape
        return layers, heads, size

    @property
    def heads(self) -> int:
        """Query heads of a layer. Each KV head serves as many of them, in order."""
        return int(self._lm.model.config.get_text_config().num_attention_heads)

    @torch.no_grad()
    def of(self, embeddings: torch.Tensor, *, first: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """(keys, values), each (layers, KV heads, positions, e), of ``embeddings`` (positions, d).

        The first one has the position ``first``. All layers keep all positions, also those with a sliding window.
        Raises ``ModelError`` if the layers differ in their number of KV heads or in e.
        """
        from transformers import DynamicCache

        cache = DynamicCache()
        rows = embeddings[None].to(self._lm.device, copy=True)
        at = torch.arange(first, first + len(embeddings), device=self._lm.device)[None]
        with self._lm.lock:
            self._lm.model(inputs_embeds=rows, past_key_values=cache, use_cache=True, position_ids=at)
        keys, values = [layer.keys for layer in cache.layers], [layer.values for layer in cache.layers]
        if len({tensor.shape for tensor in (*keys, *values)}) != 1:
            raise ModelError(f"The layers of {self._lm.name} differ in their keys and values. Use another model.")
        return torch.cat(keys), torch.cat(values)

    def cache(self, keys: torch.Tensor, values: torch.Tensor) -> Any:
        """A cache for ``FrozenLM.step`` that holds keys and values (batch, layers, KV heads, positions, e)."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer in range(keys.shape[1]):
            cache.update(*(part[:, layer].to(self._lm.device, copy=True) for part in (keys, values)), layer)
        return cache

    def rotate(self, keys: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        """``keys`` (layers, KV heads, positions, e) as they are ``by`` (layers, KV heads, positions) positions later.

        Raises ``ModelError`` if the model's keys cannot be moved like this; that is measured.
        """
        with self._lm.lock:
            if self._rotary is None or not self._rotates:
                raise ModelError(
                    f"The keys of {self._lm.name} cannot be moved to other positions. Keep their positions."
                )
            return self._turned(keys, by)

    @cached_property
    def _rotary(self) -> Any:
        """The module that gives the angles; None if there is none."""
        name = self._lm.family.rotary_name
        return next((m for own, m in self._lm.model.named_modules() if own.rpartition(".")[2] == name), None)

    @cached_property
    def _rotates(self) -> bool:
        """Whether turned keys are those that the model computes at the other positions, in all layers."""
        embeddings, by = self._lm.embed(torch.arange(min(6, self._lm.vocabulary))), 7
        keys, there = self.of(embeddings)[0], self.of(embeddings, first=by)[0]
        moved = self._turned(keys, torch.full(keys.shape[:3], by))
        return bool((moved - there).abs().max() <= TURNED * there.abs().max())

    @torch.no_grad()
    def _turned(self, keys: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        kinds = getattr(self._lm.model.config.get_text_config(), "layer_types", None)
        by_kind = "layer_type" in inspect.signature(self._rotary.forward).parameters
        done = []
        for layer, (own, shift) in enumerate(zip(keys, by.to(keys.device), strict=True)):
            kind = {"layer_type": kinds[layer]} if by_kind and kinds else {}
            cos, sin = self._rotary(own, shift.float(), **kind)
            still, _ = self._rotary(own, torch.zeros_like(shift[:1, :1]).float(), **kind)
            size = cos.shape[-1]  # some models rotate only the first part of a key
            part = own[..., :size]
            half = torch.cat([-part[..., size // 2 :], part[..., : size // 2]], -1)
            # The angles' scale (YaRN) is in the key already, so it is divided out.
            done.append(torch.cat([(part * cos + half * sin) / still, own[..., size:]], -1))
        return torch.stack(done)
