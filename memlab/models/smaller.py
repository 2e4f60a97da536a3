"""Smaller models: copies of a model with rounded or pruned weights, or with fewer layers.

Each copy is a ``FrozenLM`` of its own, with its own fingerprint, so no vector of the full model counts as one of the
copy. Weights are float32 whatever they were rounded to: nothing here is faster, and no speed is claimed. Embedding,
head and norms stay as they are, so that a vector at the input means the same direction to every copy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from memlab.models.frozen import FrozenLM
from memlab.models.sources import ModelError

BLOCK = 32
"""Weights of a row that share a scale and a minimum when they are rounded, as in llama.cpp's type Q4_1."""


def matrices(model: Any, path: str) -> dict[str, torch.nn.Linear]:
    """The linear maps inside the layers, by their names in the model. ``path``: ``lm.layers.path``.

    Raises ``ModelError`` for layers that hold their weights in another way.
    """
    found = {f"{path}.{name}": module for name, module in model.get_submodule(path).named_modules()
             if isinstance(module, torch.nn.Linear)}  # fmt: skip
    if not found:
        raise ModelError(f"The layers of {type(model).__name__} have no linear maps. Use a model of another family.")
    return found


def wrapped(lm: FrozenLM, model: Any, name: str) -> FrozenLM:
    """A changed copy of the model of ``lm`` as a model of its own, with the same tokenizer, device and dtype."""
    made = FrozenLM(model, lm.tokenizer, name=f"{lm.name}, {name}", device=lm.device, dtype=lm.dtype)
    # Not measured again: a smaller model may gain less than the threshold from a token that its vectors still need.
    made.sink_prefix = lm.sink_prefix
    return made


# Weights ----------------------------------------------------------------------------------------------------------


def rounded(lm: FrozenLM, bits: int, *, shift: int = 0, block: int = BLOCK, name: str = "") -> FrozenLM:
    """A copy whose matrices are rounded to ``bits`` per weight; see ``round_blocks``."""
    return _with_weights(lm, lambda _, w: round_blocks(w, bits, shift=shift, block=block), name or f"{bits} bits")


def pruned(
    lm: FrozenLM, share: float, *, norms: Mapping[str, torch.Tensor] | None = None, group: int = 0, name: str = ""
) -> FrozenLM:
    """A copy whose weights of the lowest score are 0, the same share of each row.

    The score is the weight's magnitude; with ``norms`` (``input_norms``) it is multiplied by the norm of its input, as
    in Wanda (arXiv 2306.11695). With ``group`` the share is of each ``group`` neighbours: 2 of 4 is ``share=0.5,
    group=4``. Magnitude pruning is usually done over a whole matrix; here both scores compare weights of one row, so
    that they differ in the score only.
    """

    def change(matrix: str, weight: torch.Tensor) -> torch.Tensor:
        scores = weight.abs() if norms is None else weight.abs() * norms[matrix].to(weight)
        return weight * keep_mask(scores, share, group)

    return _with_weights(lm, change, name or f"{share:.0%} pruned")


def _with_weights(lm: FrozenLM, change: Callable[[str, torch.Tensor], torch.Tensor], name: str) -> FrozenLM:
    model = copy.deepcopy(lm.model)
    with torch.no_grad():
        for matrix, module in matrices(model, lm.layers.path).items():
            module.weight.copy_(change(matrix, module.weight))
    return wrapped(lm, model, name)


def round_blocks(weight: torch.Tensor, bits: int, *, shift: int = 0, block: int = BLOCK) -> torch.Tensor:
    """``weight`` (rows, columns) rounded to ``2**bits`` levels between the minimum and the maximum of each block.

    A block is ``block`` neighbours of a row. Scale and minimum are float16, so a weight takes bits + 32 / block bits.
    The first block begins at column ``shift``, and the last one goes on at column 0. This is llama.cpp's Q4_1 for 4
    bits, so weights that come from that type do not change, unless the blocks are shifted. Raises ``ModelError``.
    """
    if bits < 1 or weight.shape[1] % block:
        raise ModelError(
            f"Rows of {weight.shape[1]} weights cannot be rounded to {bits} bits in blocks of {block}. Give at least 1 "
            "bit, and a block length that divides the rows."
        )
    blocks = weight.roll(-shift, 1).unflatten(1, (-1, block))
    top = 2**bits - 1
    low, high = blocks.amin(-1, keepdim=True), blocks.amax(-1, keepdim=True)
    scale, low = ((high - low) / top).half().float(), low.half().float()
    levels = ((blocks - low) / scale.where(scale > 0, torch.ones_like(scale))).round().clamp(0, top)
    return (levels * scale + low).flatten(1).roll(shift, 1).to(weight.dtype)


def keep_mask(scores: torch.Tensor, share: float, group: int = 0) -> torch.Tensor:
    """(rows, columns) 1 or 0: 0 for the ``share`` lowest ``scores`` of each group of a row (``group=0``: of each row).

    The number in a group is rounded. Of equal scores the first ones get 0. Raises ``ModelError``.
    """
    size = group or scores.shape[1]
    if not 0 <= share <= 1 or scores.shape[1] % size:
        raise ModelError(
            f"A share of {share} of each {size} of {scores.shape[1]} weights cannot be pruned. Give a share from 0 to "
            "1, and a group that divides the rows."
        )
    groups = scores.unflatten(1, (-1, size))
    order = groups.argsort(dim=-1, stable=True)
    mask = torch.ones_like(groups)
    return mask.scatter_(-1, order[..., : round(share * size)], 0).flatten(1)


# Layers -----------------------------------------------------------------------------------------------------------


def without_layers(lm: FrozenLM, left_out: Iterable[int], *, name: str = "") -> FrozenLM:
    """A copy without these layers, counted from 0. What a layer is given then is what the one before them gave.

    Leaving out the last layers is an early exit: the final norm and the head read the state after the last one that is
    left. Raises ``ModelError`` for a layer that the model does not have, and if none would be left.
    """
    gone = {*left_out}
    kept = [layer for layer in range(lm.layers.count) if layer not in gone]
    if not kept or not gone <= {*range(lm.layers.count)}:
        raise ModelError(
            f"{lm.name} has {lm.layers.count} layers, and {sorted(gone)} cannot be left out. Give layers from 0 to "
            f"{lm.layers.count - 1}, and not all of them."
        )
    model = copy.deepcopy(lm.model)
    parent, _, attribute = lm.layers.path.rpartition(".")
    layers = model.get_submodule(lm.layers.path)
    setattr(model.get_submodule(parent), attribute, torch.nn.ModuleList(layers[layer] for layer in kept))
    for place, layer in enumerate(kept):
        for module in layers[layer].modules():
            if hasattr(module, "layer_idx"):  # the place in the cache
                module.layer_idx = place
    _shorten(model.config.get_text_config(), kept)
    return wrapped(lm, model, name or f"{len(gone)} layers fewer")


def _shorten(config: Any, kept: Sequence[int]) -> None:
    """The configuration of a model with these of its layers."""
    count = config.num_hidden_layers
    for key, value in [*vars(config).items()]:
        if "layer" in key and isinstance(value, (list, tuple)) and len(value) == count:
            setattr(config, key, type(value)(value[layer] for layer in kept))
    config.num_hidden_layers = len(kept)


# What a model's layers are given ----------------------------------------------------------------------------------


def input_norms(lm: FrozenLM, rows: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    """{matrix: (inputs,) norm of each of its inputs} over all positions of ``rows`` of token ids, sink prefix first."""
    squares: dict[str, torch.Tensor] = {}

    def watch(matrix: str) -> Callable[..., None]:
        def add(_: Any, args: tuple[Any, ...], __: Any, ___: Any) -> None:
            seen = args[0].detach().flatten(0, -2).double().square().sum(0)
            squares[matrix] = squares.get(matrix, 0) + seen

        return add

    found = matrices(lm.model, lm.layers.path)
    with _watched((module, watch(matrix)) for matrix, module in found.items()):
        _read(lm, rows)
    return {matrix: squares[matrix].sqrt().float() for matrix in found}


def layer_changes(lm: FrozenLM, rows: Sequence[np.ndarray]) -> np.ndarray:
    """(layers,) how much each layer changes its input: 1 - mean cosine of input and output, over tokens of ``rows``.

    The measure of ShortGPT (arXiv 2403.03853). Positions of the sink prefix are not counted.
    """
    first = len(lm.sink_prefix)
    cosines: list[list[torch.Tensor]] = [[] for _ in range(lm.layers.count)]

    def watch(layer: int) -> Callable[..., None]:
        def add(_: Any, args: tuple[Any, ...], given: dict[str, Any], output: Any) -> None:
            before = args[0] if args else given["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            cosine = torch.nn.functional.cosine_similarity(before.double(), after.double(), dim=-1)
            cosines[layer].append(cosine[:, first:].flatten())

        return add

    with _watched((module, watch(i)) for i, module in enumerate(lm.model.get_submodule(lm.layers.path))):
        _read(lm, rows)
    return np.array([1 - float(torch.cat(of_layer).mean()) for of_layer in cosines])


def least_changing(changes: np.ndarray, count: int) -> tuple[int, ...]:
    """The ``count`` layers of least change, in order of place."""
    return tuple(sorted(np.argsort(changes, kind="stable")[:count].tolist()))


@torch.no_grad()
def _read(lm: FrozenLM, rows: Sequence[np.ndarray]) -> None:
    with lm.lock:
        for ids in rows:
            fed = lm.embed(np.concatenate([np.array(lm.sink_prefix, np.int64), ids]))
            lm.model(inputs_embeds=fed[None].clone(), use_cache=False)


@contextmanager
def _watched(watches: Iterable[tuple[Any, Callable[..., None]]]) -> Iterator[None]:
    with ExitStack() as stack:
        for module, watch in watches:
            handle = module.register_forward_hook(watch, with_kwargs=True)
            stack.callback(handle.remove)
        yield
