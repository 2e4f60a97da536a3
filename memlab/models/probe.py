"""Probe: how a model takes vectors instead of token ids. It is measured once per model, before anything is trained.

memlab trains through ``inputs_embeds`` and decodes through ``input_ids``. A model whose two ways differ, or whose
logits see later tokens, would be trained well and decode something else. So such a model is refused here, by name.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from memlab.models.families import Family
from memlab.models.packed import packed
from memlab.models.sources import ModelError

LENGTH = 10
"""Tokens of the probe."""
DECODED = 4
"""How many of them are fed one by one, with the cache."""
EQUAL = 3e-5
"""Largest relative difference of logits from passes of the same arithmetic: float32 rounding is about 1e-6."""
SAME = 1e-3
"""The same for passes that add up in another order, such as decoding with a cache."""
CACHES = ("past_key_values", "cache_params", "state")
"""Names of caches in transformers."""


@dataclass(frozen=True)
class Behaviour:
    """What ``probe`` measured. Differences are relative: norm of the difference / norm of the logits."""

    vocabulary: int
    """Token ids that have both a row in the embedding and a logit."""
    takes_mask: bool
    """``logits_to_keep`` takes a boolean mask of positions. Otherwise all logits are computed."""
    changes_input: bool
    """The model writes into the tensor of embeddings that it is given."""
    cache_name: str | None
    """Argument and output field of the cache. None: no cache gives the logits of one pass, so decoding feeds all
    earlier tokens again for each new token."""
    ids_difference: float
    """Between token ids and their embeddings."""
    cache_difference: float
    """Between decoding with the cache and one pass; the smallest one of the caches that the model returns. -1: the
    model returns no cache."""
    padding_id: int | None
    """The padding token, if the model treats it in a text otherwise than its embedding. Such ids cannot be decoded."""


@torch.no_grad()
def probe(model: Any, family: Family, name: str) -> Behaviour:
    """The ``Behaviour`` of a model in eval mode, float32. Raises ``ModelError`` for a model that cannot be used.

    The cost is about ten passes over ten tokens.
    """
    embedding = _embedding(model, name)
    ids = _some_ids(model, embedding.num_embeddings)
    fed = embedding(ids).detach()
    given = fed.clone()
    logits = _logits(model, name, inputs_embeds=given)
    if logits.shape[:2] != ids.shape:
        raise _refusal(name, f"it gives logits of shape {tuple(logits.shape)} for {ids.shape[1]} embeddings")
    changes_input = not torch.equal(given, fed)
    if not logits.isfinite().all():
        raise _refusal(name, "its logits are not finite numbers")
    if relative(_logits(model, name, inputs_embeds=fed.clone()), logits) > EQUAL:
        raise _refusal(name, "two equal passes give different logits")
    _require_causal(model, name, fed)
    ids_difference = relative(_logits(model, name, input_ids=ids), logits)
    if ids_difference > EQUAL:
        raise _refusal(
            name,
            "token ids and their embeddings give different logits (relative difference "
            f"{ids_difference:.2g}). Vectors are trained through embeddings, and text is decoded through ids",
        )
    if not _has_gradient(model, fed):
        raise _refusal(name, "no gradient comes back to its input embeddings")
    differences = dict(_cache_differences(model, family, fed, ids, logits))
    best = min(differences, key=lambda c: differences[c], default=None)
    return Behaviour(
        vocabulary=min(int(embedding.num_embeddings), int(logits.shape[-1])),
        takes_mask=_takes_mask(model, fed, logits),
        changes_input=changes_input,
        cache_name=best if best is not None and differences[best] <= SAME else None,
        ids_difference=ids_difference,
        cache_difference=differences[best] if best is not None else -1.0,
        padding_id=_special_padding(model, name, ids),
    )


def cast(model: Any, dtype: torch.dtype, given: torch.Tensor, name: str, *, pack: bool = True) -> Any:
    """A copy of the model with weights in ``dtype``. Raises ``ModelError`` if it cannot be trained with ``given``.

    On a CPU its bfloat16 weights are packed, see ``packed``; not with ``pack=False``.
    """
    # deepcopy uses these parameters instead of the originals, tied ones too, so no weight is copied twice.
    weights = {id(p): torch.nn.Parameter(p.to(dtype), requires_grad=False) for p in model.parameters()}
    copied = copy.deepcopy(model, dict(weights)).eval()
    if reason := _why_not(copied, given.to(dtype)):
        # Buffers keep their dtype, because rotary frequencies lose too much in bfloat16. XGLM's must be cast.
        for module in copied.modules():
            for label, buffer in module.named_buffers(recurse=False):
                if buffer.is_floating_point() and "inv_freq" not in label:
                    setattr(module, label, buffer.to(dtype))
        reason = _why_not(copied, given.to(dtype)) and reason
    if reason:
        short = str(dtype).removeprefix("torch.")
        raise ModelError(f'{name} cannot run in {short}: {reason}. Use load(..., dtype="float32") or --dtype float32.')
    return packed(copied, given) if pack and dtype == torch.bfloat16 else copied


def _why_not(model: Any, given: torch.Tensor) -> str | None:
    """Why a model cannot be trained with embeddings (1, n, d) of this dtype; None if it can."""
    try:
        with torch.enable_grad():
            fed = given.detach().requires_grad_()
            logits = model(inputs_embeds=fed * 1, use_cache=False).logits
            torch.autograd.grad(logits.float().square().mean(), fed)
    except (RuntimeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {_first_line(error)}"
    return None


def relative(first: torch.Tensor, second: torch.Tensor) -> float:
    """Norm of the difference / norm of ``second``. Infinity for tensors of different shapes or not finite numbers."""
    if first.shape != second.shape:
        return float("inf")
    value = float((first.float() - second.float()).norm() / second.float().norm().clamp_min(1e-30))
    return float("inf") if math.isnan(value) else value


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def _refusal(name: str, reason: str) -> ModelError:
    return ModelError(f"{name} cannot be used: {reason}. Use a model of another family.")


def _embedding(model: Any, name: str) -> Any:
    try:
        embedding = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        embedding = None
    if not hasattr(embedding, "num_embeddings"):
        raise _refusal(name, f"{type(model).__name__} has no table of input embeddings")
    return embedding


def _some_ids(model: Any, rows: int) -> torch.Tensor:
    """(2, LENGTH) random ids without special tokens, because some models treat a padding token differently."""
    config = model.config.get_text_config()
    values = [getattr(config, f"{kind}_token_id", None) for kind in ("pad", "bos", "eos", "decoder_start")]
    special = {i for value in values for i in (value if isinstance(value, list) else [value])}
    head = model.get_output_embeddings()
    rows = min(rows, getattr(head, "out_features", rows))
    usable = [i for i in range(min(rows, 4096)) if i not in special]
    context = int(getattr(config, "max_position_embeddings", 0) or 0)  # XLNet says -1
    length = min(LENGTH, context) if context > 2 else LENGTH
    chosen = torch.randint(len(usable), (2, length), generator=torch.Generator().manual_seed(0))
    return torch.tensor(usable)[chosen].to(next(model.parameters()).device)


def _logits(model: Any, name: str, **fed: torch.Tensor) -> torch.Tensor:
    try:
        logits = model(**fed, use_cache=False).logits
    except Exception as error:  # each family raises its own types for what it does not take
        what = "input embeddings" if "inputs_embeds" in fed else "token ids"
        raise _refusal(
            name, f"{type(model).__name__} cannot be given {what} alone ({type(error).__name__}: {_first_line(error)})"
        ) from error
    return logits.detach()


def _require_causal(model: Any, name: str, fed: torch.Tensor) -> None:
    """Change the second row, and the last position of the first row, to vectors of no token. Other logits must stay.

    They must also stay if the last position is left out: the logits of ProphetNet depend on the length of the row.
    """
    # Trained vectors are up to a thousand times as long as a token's. OpenAI GPT gives later tokens an attention score
    # of -10,000. A long vector can have lower scores, and then the later tokens are seen.
    for scale in (1, 10_000):
        first, second = fed * scale, fed * scale
        second[0, -1] = 1.5 * first[0, 0] - first[0, 1]
        second[1] = first[1].flip(0)
        before, after = (_logits(model, name, inputs_embeds=rows)[0, :-1] for rows in (first, second))
        alone = _logits(model, name, inputs_embeds=fed[:, :-1].clone())[0] if scale == 1 else before
        depends = relative(after, before) > EQUAL or relative(alone, before) > SAME
        if depends and before.isfinite().all():
            long = "" if scale == 1 else " if vectors are much longer than those of its tokens"
            raise _refusal(
                name,
                f"its logits depend on later tokens or on other rows of a batch{long}, so it would not decode the text "
                "that a vector was trained for",
            )


def _special_padding(model: Any, name: str, ids: torch.Tensor) -> int | None:
    """The padding id if it changes what an embedding does not: RoBERTa's models give padding no position of its own."""
    embedding, padding = model.get_input_embeddings(), getattr(model.config.get_text_config(), "pad_token_id", None)
    if padding is None or not 0 <= padding < embedding.num_embeddings:
        return None
    ids = ids.clone()
    ids[:, ids.shape[1] // 2] = padding
    by_ids, by_rows = (_logits(model, name, **fed) for fed in (dict(input_ids=ids), dict(inputs_embeds=embedding(ids))))
    return int(padding) if relative(by_ids, by_rows) > EQUAL else None


def _has_gradient(model: Any, fed: torch.Tensor) -> bool:
    with torch.enable_grad():
        leaf = fed.clone().requires_grad_()
        try:
            logits = model(inputs_embeds=leaf * 1, use_cache=False).logits
            (gradient,) = torch.autograd.grad(logits[:, -1].float().square().mean(), leaf)
        except Exception:  # the graph is cut, a kernel has no backward pass, or the model has no gradient in eval mode
            return False
    return bool(gradient.isfinite().all() and gradient[:, 0].any())


def _takes_mask(model: Any, fed: torch.Tensor, logits: torch.Tensor) -> bool:
    mask = torch.zeros(fed.shape[:2], dtype=torch.bool, device=fed.device)
    mask[:, 1::3] = True
    try:
        out = model(inputs_embeds=fed.clone(), use_cache=False, logits_to_keep=mask).logits
    except Exception:  # the argument is missing, or takes a number only
        return False
    return relative(out.reshape(-1, out.shape[-1]), logits[mask]) <= SAME


def _cache_differences(
    model: Any, family: Family, fed: torch.Tensor, ids: torch.Tensor, logits: torch.Tensor
) -> Iterator[tuple[str, float]]:
    """For each cache that the model returns: its name, and how far decoding with it is from one pass."""
    begin = max(1, ids.shape[1] - DECODED)
    for name in dict.fromkeys((family.cache_name, *CACHES)):
        try:
            out = model(inputs_embeds=fed[:, :begin].clone(), use_cache=True)
            steps = [out.logits[:, -1]]
            for at in range(begin, ids.shape[1]):
                if (cache := getattr(out, name, None)) is None:
                    break
                out = model(input_ids=ids[:, at : at + 1], use_cache=True, **{name: cache})
                steps.append(out.logits[:, -1])
            else:
                yield name, relative(torch.stack(steps, 1), logits[:, begin - 1 :])
        except Exception:  # this cache does not work, so it is not used
            continue
