"""Linear layers whose bfloat16 weights oneDNN has laid out once, for CPUs.

``torch.nn.functional.linear`` brings a weight into oneDNN's own layout at each call. For a few dozen positions, as in
the training of one passage, that takes a fifth to a half of the product's time. A frozen weight can stay in that
layout, and a second copy, transposed, serves the gradient. The numbers are the same, bit by bit: ``packed`` compares
logits and gradients, and leaves the model as it is if one bit differs.

Measured: section *Step profile* of ``data/bench/README.md``.
"""

from __future__ import annotations

from typing import Any

import psutil
import torch

SHARE = 1 / 8
"""Largest share of the free memory that the copies may take."""


class PackedLinear(torch.nn.Module):
    """A frozen ``nn.Linear`` in bfloat16. Its weight is in oneDNN's layout, and a second time transposed."""

    def __init__(self, linear: torch.nn.Linear, *, keep_weight: bool) -> None:
        """``keep_weight``: the weight has another use, such as tied embeddings."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        self.weight = linear.weight if keep_weight else None
        self.bias = linear.bias
        self.forward_weight = _pack(weight)
        self.backward_weight = _pack(weight.t().contiguous())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., out_features) for ``x`` (..., in_features)."""
        rows = x.reshape(-1, self.in_features)
        if torch.is_grad_enabled() and x.requires_grad:
            out = _Product.apply(rows, self)
        else:
            out = self.product(rows)
        return out.view(*x.shape[:-1], self.out_features)

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, out_features) for ``rows`` (n, in_features), without a gradient and without hooks."""
        return _product(rows, self.forward_weight, self.bias)

    def back(self, gradient: torch.Tensor) -> torch.Tensor:
        """(n, in_features): the gradient of the input, for that of the output (n, out_features)."""
        return _product(gradient, self.backward_weight, None)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, layer: PackedLinear) -> torch.Tensor:
        ctx.layer = layer
        return layer.product(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return ctx.layer.back(gradients[0].contiguous()), None


def _pack(weight: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, 32)  # 32 rows; other numbers work as well
    return packed


def _product(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product


def packed(model: Any, given: torch.Tensor) -> Any:
    """The bfloat16 model with its linear layers packed, or as it was. ``given``: embeddings (1, n, d) to compare with.

    The model must be a copy that nothing else uses. It is changed in place.
    """
    layers = {name: m for name, m in model.named_modules() if type(m) is torch.nn.Linear}
    uses: dict[int, int] = {}
    for module in model.modules():
        for weight in module._parameters.values():
            uses[id(weight)] = uses.get(id(weight), 0) + 1
    extra = sum(2 * m.weight.nbytes for m in layers.values())
    if not layers or not _possible(model, layers) or extra > SHARE * psutil.virtual_memory().available:
        return model
    before = _outcome(model, given)
    try:
        made = {name: PackedLinear(m, keep_weight=uses[id(m.weight)] > 1) for name, m in layers.items()}
        _replace(model, made)
        same = all(torch.equal(one, two) for one, two in zip(before, _outcome(model, given), strict=True))
    except (RuntimeError, AttributeError, TypeError):  # another torch, or a model that reads its weights itself
        same = False
    if not same:
        _replace(model, layers)
    return model


def _possible(model: Any, layers: dict[str, Any]) -> bool:
    usual = all(m.weight.device.type == "cpu" and m.weight.dtype == torch.bfloat16 for m in layers.values())
    plain = all(not m._forward_hooks and not m._forward_pre_hooks for m in layers.values())
    known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return usual and plain and known and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _replace(model: Any, layers: dict[str, Any]) -> None:
    for name, layer in layers.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer)


def _outcome(model: Any, given: torch.Tensor) -> list[torch.Tensor]:
    """Logits of the rows, and the gradient of their mean square."""
    with torch.enable_grad():
        fed = given.detach().to(torch.bfloat16).requires_grad_()
        logits = model(inputs_embeds=fed * 1, use_cache=False).logits
        (gradient,) = torch.autograd.grad(logits.float().square().mean(), fed)
    with torch.no_grad():
        alone = model(inputs_embeds=given.detach().to(torch.bfloat16)[:, :1], use_cache=False).logits
    return [logits.detach(), gradient, alone]
