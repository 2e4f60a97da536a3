"""Free-running greedy decoding from stored vectors, and the checks that say whether the text came back.

Nothing here trains, and nothing is fed but ``prefix, mem, suffix`` and the model's own words.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from memlab.models import FrozenLM, ModelError
from memlab.results.checks import PORTABLE, Check
from memlab.results.mem_vector import MemVector, VectorError
from memlab.scoring.objective import Batch, Row, true_margin

_NAMES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
EXACT = PORTABLE[0]


def require_weights(lm: FrozenLM, mem: MemVector) -> None:
    """Refuse to run a vector on weights it was not trained for."""
    if mem.fingerprint != lm.fingerprint:
        way = (
            f"load {mem.model}" if mem.model != lm.name else f"{lm.name} has changed, load it at the vector's revision"
        )
        raise ModelError(
            f"this vector was trained for {mem.model} (weights {mem.fingerprint[:12]}, revision {mem.revision}), "
            f"and the model given is {lm.name} (weights {lm.fingerprint[:12]}, revision {lm.revision}): {way}"
        )
    if mem.d != lm.d:
        raise VectorError(f"the vector has width {mem.d}, {lm.name} takes {lm.d}")
    if lm.context and _context(mem) + mem.n - 1 > lm.context:  # the last token is said, and never fed
        raise VectorError(f"{mem!r} claims {mem.n} tokens; {lm.name} has a context of {lm.context} positions")
    lm.check_ids(np.concatenate([mem.prefix_ids, mem.suffix_ids, mem.token_ids]))


def decode(
    lm: FrozenLM,
    mems: Sequence[MemVector],
    tokens: int | None = None,
    *,
    dtype: str = "float32",
    batch: int = 16,
    on_token: Callable[[int], bool] | None = None,
) -> list[np.ndarray]:
    """Greedy ids (n,) from each vector alone, ``tokens`` of them (default: as many as its passage has).

    Vectors of equal context length go through the model together, ``batch`` at a time, without padding. Rounding, and
    so the odd token, may depend on the batch: what is called exact is a check at batch 1. ``watch`` is told of each
    token how many its batch has by now; True ends that batch, with fewer ids.
    """
    for mem in mems:
        require_weights(lm, mem)
    order = sorted(range(len(mems)), key=lambda i: _context(mems[i]))
    done: dict[int, np.ndarray] = {}
    for _, same in itertools.groupby(order, key=lambda i: _context(mems[i])):
        for chunk in _chunks(same, batch):
            lengths = [tokens or mems[i].n for i in chunk]
            made: list[np.ndarray] = []
            for logits in itertools.islice(_stream(lm, [mems[i] for i in chunk], dtype), max(lengths)):
                made.append(logits.argmax(-1).cpu().numpy())
                if on_token and on_token(len(made)):
                    break
            ids = np.stack(made, axis=1)
            done |= {i: row[:n] for i, row, n in zip(chunk, ids, lengths, strict=True)}
    return [done[i] for i in range(len(mems))]


def check(
    lm: FrozenLM,
    mem: MemVector,
    *,
    dtype: str = "float32",
    batch: int = 1,
    cache: bool = True,
    first_given: bool = False,
) -> Check:
    """Decode freely and compare with the passage. The defaults are what *exact* means.

    In a reduced dtype the model's own logits are used, as ``generate`` would. ``batch`` repeats the vector.
    """
    require_weights(lm, mem)
    if mem.redaction:
        raise VectorError("a redacted vector holds no token ids to compare with: use mem.matches(decode(lm, [mem])[0])")
    if mem.n <= first_given:
        raise VectorError("with the first token given there is nothing left to decode of a passage of one token")
    targets = mem.token_ids[1:] if first_given else mem.token_ids
    given = mem.token_ids[:1] if first_given else mem.token_ids[:0]
    stream = _stream(lm, [mem] * batch, dtype, given=given, cache=cache)
    right, first_wrong, margin = 0, None, np.inf
    for position, (target, logits) in enumerate(zip(targets, stream, strict=False), int(first_given)):
        # Every row must be right: a vector that survives only in one place of a batch is not portable.
        lead = float(true_margin(logits, logits.new_full((batch,), int(target), dtype=torch.long)).min())
        # The argmax of logits that are no numbers is 0, and proves nothing. JSON has neither NaN nor infinity.
        lead = max(lead, -1e30) if np.isfinite(lead) else -1e30
        correct = lead > -1e30 and bool((logits.argmax(-1) == int(target)).all())
        right += correct
        if first_wrong is None:
            margin = min(margin, lead)
            if not correct:
                first_wrong = position
    return Check(dtype, lm.device.type, batch, cache, first_given, len(targets), right, first_wrong, margin)


def check_portable(lm: FrozenLM, mem: MemVector) -> MemVector:
    """The same vector with the checks that ``mem.portable`` looks at (those made already are not repeated)."""
    made = {c.settings for c in mem.checks}
    return mem.with_checks(
        *(
            check(lm, mem, dtype=t, batch=b, cache=c, first_given=f)
            for t, b, c, f in PORTABLE
            if (t, b, c, f) not in made
        )
    )


def teacher_forced(
    lm: FrozenLM, mem: MemVector, *, first_scored: int = 1, dtype: str = "float32"
) -> tuple[float, float, float]:
    """(accuracy, loss in bits a token, smallest margin) while the true tokens are fed; not a proof of decoding."""
    require_weights(lm, mem)
    row = Row.of(mem, first_scored)
    scores, _ = Batch(lm, [row]).scores([torch.tensor(mem.mem)], _NAMES[dtype])
    accuracy = float(scores.right[0] / scores.scored[0])
    return accuracy, float(scores.loss[0] / np.log(2)), float(scores.min_margin[0])


def _stream(
    lm: FrozenLM, mems: Sequence[MemVector], dtype: str, *, given: Iterable[int] = (), cache: bool = True
) -> Iterator[torch.Tensor]:
    """Logits (b, V) of one token after another, each fed back as its argmax. All contexts are of one length."""
    if dtype not in _NAMES:
        raise ValueError(f"dtype={dtype!r}; expected one of {', '.join(_NAMES)}")
    kind = _NAMES[dtype]
    fed = torch.stack([torch.cat([context_of(lm, m), lm.embed(list(given))]) for m in mems])
    logits, past = lm.step(kind, embeddings=fed)
    while True:
        yield logits
        ids = logits.argmax(-1, keepdim=True)
        if cache:
            logits, past = lm.step(kind, ids=ids, cache=past)
        else:
            fed = torch.cat([fed, lm.embed(ids)], dim=1)
            logits, _ = lm.step(kind, embeddings=fed)


def context_of(lm: FrozenLM, mem: MemVector) -> torch.Tensor:
    """(c, d) float32: all that stands before the text, embeddings of the prefix, the vectors, those of the suffix."""
    vectors = torch.tensor(mem.mem, device=lm.device)
    return torch.cat([lm.embed(mem.prefix_ids), vectors, lm.embed(mem.suffix_ids)])


def _context(mem: MemVector) -> int:
    return len(mem.prefix_ids) + mem.k + len(mem.suffix_ids)


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
