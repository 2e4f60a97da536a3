"""Keys and values of a transformer: taken from a pass, given back as a cache, turned to other positions."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from memlab.models.sources import ModelError

TURNED = 1e-3
"""Largest relative difference between keys that are turned to a position and keys that are computed there."""


@torch.no_grad()
def keys_values(model: Any, embeddings: torch.Tensor, *, first: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(keys, values), each (layers, KV heads, positions, e), of ``embeddings`` (positions, d) from position ``first``.

    All layers keep all positions, also those with a sliding window. Raises ``ModelError`` if the layers differ in
    their number of KV heads or in e.
    """
    from transformers import DynamicCache

    cache = DynamicCache()
    at = torch.arange(first, first + len(embeddings), device=embeddings.device)[None]
    model(inputs_embeds=embeddings[None].clone(), past_key_values=cache, use_cache=True, position_ids=at)
    keys, values = [layer.keys for layer in cache.layers], [layer.values for layer in cache.layers]
    if len({tensor.shape for tensor in (*keys, *values)}) != 1:
        raise ModelError("The layers of this model hold keys and values of several shapes. Use another model.")
    return torch.cat(keys), torch.cat(values)


def cache_of(keys: torch.Tensor, values: torch.Tensor) -> Any:
    """A cache of transformers with these keys and values (batch, layers, KV heads, positions, e)."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer in range(keys.shape[1]):
        cache.update(keys[:, layer].clone(), values[:, layer].clone(), layer)
    return cache


@torch.no_grad()
def turned(model: Any, rotary: str, keys: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """``keys`` (layers, KV heads, positions, e), each moved ``by`` (layers, KV heads, positions) positions.

    ``rotary``: last part of the name of the module that gives the angles.
    """
    module = next((m for name, m in model.named_modules() if name.rpartition(".")[2] == rotary), None)
    if module is None:
        raise ModelError("This model does not rotate its keys, so they cannot be moved. Use a model with rotary keys.")
    kinds = getattr(model.config.get_text_config(), "layer_types", None)
    by_kind = "layer_type" in inspect.signature(module.forward).parameters
    done = []
    for layer, (own, shift) in enumerate(zip(keys, by.to(keys.device), strict=True)):
        kind = {"layer_type": kinds[layer]} if by_kind and kinds else {}
        cos, sin = module(own, shift.float(), **kind)
        still, _ = module(own, torch.zeros_like(shift[:1, :1]).float(), **kind)
        size = cos.shape[-1]  # some models rotate only the first part of a key
        part = own[..., :size]
        half = torch.cat([-part[..., size // 2 :], part[..., : size // 2]], -1)
        # The angles' scale (YaRN) is in the key already, so it is divided out.
        done.append(torch.cat([(part * cos + half * sin) / still, own[..., size:]], -1))
    return torch.stack(done)


def can_turn(model: Any, rotary: str, embeddings: torch.Tensor, by: int = 7) -> bool:
    """Whether ``turned`` keys are those that the model computes at the other positions, in all layers."""
    keys, _ = keys_values(model, embeddings)
    there, _ = keys_values(model, embeddings, first=by)
    moved = turned(model, rotary, keys, torch.full(keys.shape[:3], by))
    return bool((moved - there).abs().max() <= TURNED * there.abs().max())
