"""The inputs of a model's layers: where they are, and hidden states that are written over them.

A vector can stand at the input of the model. It can also be written over the hidden state of its position at the input
of one layer, or of every layer. Then each layer's keys and values at that position come from the vector alone, as in
prefix tuning (arXiv 2101.00190).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from memlab.models.sources import ModelError

EVERY_LAYER, INPUT = "every layer", "input"
SAME = 1e-4
"""Largest relative difference of logits in the test of a list of layers."""


@dataclass(frozen=True)
class Overwrite:
    """Hidden states that replace those of m positions at the input of one layer. They may have a gradient."""

    layer: int
    row: torch.Tensor
    """(m,) rows of the batch."""
    position: torch.Tensor
    """(m,) positions in these rows."""
    states: torch.Tensor
    """(m, d)."""


class Layers:
    """The layers of one model: a list of modules, each called once per pass, in order, with the hidden states.

    A list counts only if it was measured to carry everything: when the states of a position are written over at every
    layer's input, nothing of that position's own input may be left in the logits. The list is looked for when a layer
    is first asked for; then a model without one raises ``ModelError``.
    """

    def __init__(self, model: Any, name: str, lock: AbstractContextManager[Any]) -> None:
        self._model, self._name, self._lock = model, name, lock

    @cached_property
    def path(self) -> str:
        """Name of the list in the model. Raises ``ModelError`` for a model without one."""
        lists = [(path, len(m)) for path, m in self._model.named_modules() if isinstance(m, torch.nn.ModuleList)]
        for path, _ in sorted(lists, key=lambda found: -found[1]):
            with self._lock:
                if _carries_all(self._model, path):
                    return path
        raise ModelError(
            f"{self._name} has no list of layers that pass on the hidden states and nothing else, so no vector can be "
            f"written into them. Use where={INPUT!r}, or another model."
        )

    @property
    def count(self) -> int:
        """Number of layers."""
        return len(self._model.get_submodule(self.path))

    def at(self, where: str) -> tuple[int, ...]:
        """The layers that a recipe's ``where`` names, () for the input. Raises ``ModelError`` for an unknown layer."""
        if where in (INPUT, EVERY_LAYER):
            return tuple(range(self.count)) if where == EVERY_LAYER else ()
        found = re.fullmatch(r"layer (\d+)", where)
        if not found or int(found[1]) >= self.count:
            raise ModelError(f"{self._name} has no {where}. Its layers are layer 0 to layer {self.count - 1}.")
        return (int(found[1]),)

    def written(self, model: Any, overwrites: Sequence[Overwrite]) -> AbstractContextManager[None]:
        """Inside this context a pass of ``model``, which may be a copy in another dtype, has these states written."""
        if not overwrites:
            return nullcontext()
        return _hooked(model.get_submodule(self.path), [(o.layer, _writes(o)) for o in overwrites])

    @torch.no_grad()
    def stream(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(layers + 1, b, s, d): the hidden states at the input of each layer, and those that leave the last layer."""
        last: list[torch.Tensor] = []
        with self._lock, _last_output(self._model.get_submodule(self.path)[-1], last.append):
            inputs = _inputs(self._model, self.path, embeddings)
        return torch.stack([*inputs, last[0].clone()])

    @torch.no_grad()
    def read_out(self, states: torch.Tensor) -> torch.Tensor:
        """(b, s, vocabulary): the logits if these hidden states (b, s, d) had left the last layer.

        With the states of an earlier layer this is the logit lens: what the model would write if it stopped there.
        """
        with self._lock, _last_output(self._model.get_submodule(self.path)[-1], lambda _: states):
            return self._model(inputs_embeds=states.clone(), use_cache=False).logits.float()


@contextmanager
def _last_output(layer: Any, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Iterator[None]:
    """The hidden states that leave a layer are what ``change`` returns for them; None: as they are."""

    def hook(_: Any, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        other = change(hidden)
        if other is None:
            return output
        return (other, *output[1:]) if isinstance(output, tuple) else other

    handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


Change = Callable[[torch.Tensor], torch.Tensor]


def _writes(overwrite: Overwrite) -> Change:
    def write(hidden: torch.Tensor) -> torch.Tensor:
        states = overwrite.states.to(hidden.dtype)
        return hidden.index_put((overwrite.row, overwrite.position), states)

    return write


@contextmanager
def _hooked(layers: Any, changes: Iterable[tuple[int, Change]]) -> Iterator[None]:
    """The hidden states that these layers are given are changed first."""

    def hook_of(change: Change) -> Any:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            if args:
                return (change(args[0]), *args[1:]), kwargs
            return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

        return hook

    with ExitStack() as stack:
        for layer, change in changes:
            handle = layers[layer].register_forward_pre_hook(hook_of(change), with_kwargs=True)
            stack.callback(handle.remove)
        yield


def _inputs(model: Any, path: str, embeddings: torch.Tensor) -> list[torch.Tensor]:
    """What each layer was given. Raises ``ValueError`` if the layers are not called once each, in order."""
    seen: list[tuple[int, torch.Tensor]] = []
    layers = model.get_submodule(path)

    def note(layer: int) -> Change:
        def keep(hidden: torch.Tensor) -> torch.Tensor:
            seen.append((layer, hidden.detach().clone()))
            return hidden

        return keep

    with _hooked(layers, [(layer, note(layer)) for layer in range(len(layers))]):
        model(inputs_embeds=embeddings.clone(), use_cache=False)
    if [layer for layer, _ in seen] != list(range(len(layers))):
        raise ValueError("the layers are not called once each, in order")
    return [hidden for _, hidden in seen]


@torch.no_grad()
def _carries_all(model: Any, path: str) -> bool:
    """Whether the inputs of these layers decide the logits: see ``Layers``."""
    device = next(model.parameters()).device
    embedding = model.get_input_embeddings()
    tokens = torch.arange(1, 1 + min(20, embedding.num_embeddings - 1), device=device)
    fed = embedding(tokens[: len(tokens) // 2 * 2].view(2, -1)).detach()
    at = fed.shape[1] // 2
    other = fed.clone()
    other[:, at] = fed[:, at - 1] - fed[:, -1]
    row, position = torch.arange(2, device=device), torch.full((2,), at, device=device)
    layers = model.get_submodule(path)
    try:
        expected = model(inputs_embeds=fed.clone(), use_cache=False).logits.float()
        states = _inputs(model, path, fed)
        if any(hidden.shape != fed.shape for hidden in states):
            return False
        changes = [(i, _writes(Overwrite(i, row, position, hidden[:, at]))) for i, hidden in enumerate(states)]
        with _hooked(layers, changes):
            written = model(inputs_embeds=other.clone(), use_cache=False).logits.float()
        plain = model(inputs_embeds=other.clone(), use_cache=False).logits.float()
    except Exception:  # these modules are called in another way, so they are not the layers
        return False
    scale = expected.norm().clamp_min(1e-30)
    return bool((written - expected).norm() < SAME * scale and (plain - expected).norm() > 2 * SAME * scale)
