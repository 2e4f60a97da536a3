"""Free-running greedy decoding from vectors, and the checks that say whether the text came back.

Nothing here trains. A decode feeds only ``prefix, mem, suffix`` and its own output.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from memlab.decoding import one_pass as passes
from memlab.decoding.one_pass import NO_MARGIN, Pass
from memlab.errors import ArgumentError, as_list, require_count, require_type
from memlab.models import FrozenLM, ModelError, Overwrite
from memlab.results.checks import EXACT, ONE_PASS, PORTABLE, Check
from memlab.results.mem_vector import MemVector, VectorError
from memlab.scoring.objective import Batch, Row, true_margin
from memlab.scoring.places import Place, Places

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def require_weights(lm: FrozenLM, mem: MemVector, tokens: int | None = None) -> None:
    """Raise ``ModelError`` if a vector was trained for another model, ``VectorError`` if it does not fit the model.

    Fingerprints of old versions name the weights alone. Such a vector is let through, because a decode or a check shows
    what it does here. ``tokens``: how many tokens are decoded, by default those of the vector's passage.
    """
    require_type("lm", lm, FrozenLM, "a model that load(name) returns")
    require_type("mem", mem, MemVector, "a mem vector")
    if mem.fingerprint not in (lm.fingerprint, lm.weights_hash):
        same_name = mem.model == lm.name
        changed = f"The weights or the configuration of {lm.name} have changed. Load it at the vector's revision."
        fix = changed if same_name else f"Load {mem.model}."
        raise ModelError(
            f"this vector was trained for {mem.model} (weights {mem.fingerprint[:12]}, revision {mem.revision}), "
            f"but the model is {lm.name} (weights {lm.fingerprint[:12]}, revision {lm.revision}). {fix}"
        )
    if mem.d != lm.d:
        raise VectorError(f"the vector has width {mem.d}, but {lm.name} needs {lm.d}. Use a vector of this model.")
    if len(mem.mem) != (rows := mem.k * max(1, len(lm.layers.at(mem.recipe.where)))):
        raise VectorError(
            f"{mem!r} has {len(mem.mem)} rows, but {mem.k} positions at {mem.recipe.where!r} of {lm.name} need {rows}. "
            "Use a vector of this model."
        )
    length = _context(mem) + (tokens or mem.n) - 1  # the last token is decoded and never fed
    if lm.context and length > lm.context:
        raise VectorError(
            f"{mem!r} and {tokens or mem.n} tokens need {length} positions, but {lm.name} has a context of only "
            f"{lm.context}. {'Decode fewer tokens' if tokens else 'Use a model with a longer context'}."
        )
    lm.check_ids(np.concatenate([mem.prefix_ids, mem.suffix_ids, mem.token_ids]))


def decode(
    lm: FrozenLM,
    mems: MemVector | Iterable[MemVector],
    tokens: int | None = None,
    *,
    dtype: str = "float32",
    batch: int = 16,
    on_token: Callable[[int], bool] | None = None,
) -> list[np.ndarray]:
    """Greedy ids (n,) from each vector alone. ``tokens`` sets n (default: the length of the vector's passage).

    >>> from memlab import Recipe, cram, decode, load
    >>> lm = load("toy:llama")
    >>> mems = cram(lm, lm.passage_of_ids([5, 9, 2]), Recipe.default(k=4), progress=False)
    >>> decode(lm, mems)[0].tolist()
    [5, 9, 2]

    Vectors with equal context length go through the model together, ``batch`` at a time, without padding. Rounding
    depends on the batch, so a token may too. Therefore "exact" means a check at batch 1. ``on_token`` is called
    after each token with the number of tokens in its batch so far. If it returns True, that batch ends early.
    """
    mems = as_list("mems", mems, MemVector, "mem vectors")
    for name, count in (("batch", batch), ("tokens", 1 if tokens is None else tokens)):
        require_count(name, count)
    for mem in mems:
        require_weights(lm, mem, tokens)
    order = sorted(range(len(mems)), key=lambda i: _context(mems[i]))
    done: dict[int, np.ndarray] = {}
    for _, same in itertools.groupby(order, key=lambda i: _context(mems[i])):
        for chunk in _chunks(same, batch):
            lengths = [tokens or mems[i].n for i in chunk]
            columns: list[np.ndarray] = []
            for logits in itertools.islice(logits_stream(lm, [mems[i] for i in chunk], dtype), max(lengths)):
                columns.append(logits.argmax(-1).cpu().numpy())
                if on_token and on_token(len(columns)):
                    break
            ids = np.stack(columns, axis=1)
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
    one_pass: bool | Pass = True,
) -> Check:
    """Decode freely and compare with the passage. The default settings are the definition of *exact*.

    >>> from memlab import Recipe, check, cram, load
    >>> lm = load("toy:llama")
    >>> (mem,) = cram(lm, lm.passage_of_ids([5, 9, 2]), Recipe.default(k=4), progress=False)
    >>> check(lm, mem).exact, check(lm, mem, dtype="bfloat16").tokens
    (True, 3)

    ``batch`` repeats the vector. ``cache=False`` computes every step from all tokens. ``first_given`` gives the first
    token to the decode. In a reduced dtype the logits are the model's own, as in ``generate``. In the default settings
    one pass over the true tokens proves the same as the decode where every margin is large enough; then nothing is
    decoded, and the check says ``proof="one pass"`` (see ``decoding.one_pass``). ``one_pass=False`` always decodes. A
    pass that was made before (``read_pass``) is not made again.
    Raises ``VectorError`` for a redacted vector, and ``ModelError`` if the vector was trained for other weights.
    """
    require_weights(lm, mem)
    require_count("batch", batch)
    if mem.redaction:
        raise VectorError("a redacted vector has no token ids to compare with. Use mem.matches(decode(lm, [mem])[0]).")
    if mem.n <= first_given:
        raise VectorError("the passage has one token, and first_given leaves nothing to decode. Use first_given=False.")
    targets = mem.token_ids[1:] if first_given else mem.token_ids
    given = mem.token_ids[:1] if first_given else mem.token_ids[:0]
    settings = (dtype, batch, cache, first_given)
    comparison = passes.Comparison(mem.n) if settings == EXACT and passes.possible(lm, mem.n) else None
    if comparison and one_pass:
        seen = one_pass if isinstance(one_pass, Pass) else read_pass(lm, mem)
        if seen and seen.proves:
            return Check(dtype, lm.device.type, batch, cache, first_given, mem.n, mem.n, None, seen.margin, ONE_PASS)
    stream = logits_stream(lm, [mem] * batch, dtype, given=given, cache=cache)
    right, first_wrong, margin = 0, None, np.inf
    for position, (target, logits) in enumerate(zip(targets, stream, strict=False), int(first_given)):
        # Every row must be right: a vector that works only at one place of a batch is not portable.
        token_margin = float(true_margin(logits, logits.new_full((batch,), int(target), dtype=torch.long)).min())
        # The argmax of NaN logits is 0 and proves nothing.
        token_margin = max(token_margin, NO_MARGIN) if np.isfinite(token_margin) else NO_MARGIN
        correct = token_margin > NO_MARGIN and bool((logits.argmax(-1) == int(target)).all())
        right += correct
        if first_wrong is None:
            margin = min(margin, token_margin)
            if comparison:
                comparison.add(logits, token_margin)
            if not correct:
                first_wrong = position
    if comparison:  # a decode that had to be made also tells how far a pass may be trusted
        fed, written = fed_of(lm, [mem])
        comparison.finish(lm, fed, mem.token_ids, written, where=mem.recipe.where)
    return Check(dtype, lm.device.type, batch, cache, first_given, len(targets), right, first_wrong, margin)


def read_pass(lm: FrozenLM, mem: MemVector) -> Pass | None:
    """One float32 pass over the vector's context and its true tokens; None where only a decode can prove anything."""
    if not passes.possible(lm, mem.n):
        return None
    fed, written = fed_of(lm, [mem])
    return passes.read(lm, fed, mem.token_ids, written, where=mem.recipe.where)


def check_portable(lm: FrozenLM, mem: MemVector) -> MemVector:
    """The same vector with the checks that ``mem.portable`` needs. Checks that the vector has are not repeated.

    A model that cannot run in bfloat16 (xLSTM) gets no such check, so its vectors are not portable.
    """
    require_weights(lm, mem)
    missing = [settings for settings in PORTABLE if settings not in {c.settings for c in mem.checks}]
    missing = [settings for settings in missing if lm.runs_in(_DTYPES[settings[0]])]
    return mem.with_checks(*(check(lm, mem, dtype=t, batch=b, cache=c, first_given=f) for t, b, c, f in missing))


def teacher_forced(
    lm: FrozenLM, mem: MemVector, *, first_scored: int = 1, dtype: str = "float32"
) -> tuple[float, float, float]:
    """(accuracy, loss in bits per token, smallest margin) while the true tokens are fed. Not a proof of decoding."""
    require_weights(lm, mem)
    row = Row.of(mem, first_scored)
    scores, _ = Batch(lm, [row]).scores([torch.tensor(mem.mem)], _DTYPES[dtype])
    accuracy = float(scores.right[0] / scores.scored[0])
    return accuracy, float(scores.loss[0] / np.log(2)), float(scores.min_margin[0])


def logits_stream(
    lm: FrozenLM, mems: Sequence[MemVector], dtype: str, *, given: Iterable[int] = (), cache: bool = True
) -> Iterator[torch.Tensor]:
    """Logits (b, V), one token after another; the argmax is fed back. All contexts must have equal length.

    The tokens ``given`` are fed first. It never ends: take as many tokens as you need.
    """
    if dtype not in _DTYPES:
        raise ArgumentError(f"dtype={dtype!r}; expected one of {', '.join(_DTYPES)}")
    torch_dtype = _DTYPES[dtype]
    fed, written = fed_of(lm, mems, given)
    logits, past = lm.step(torch_dtype, embeddings=fed, written=written)
    while True:
        yield logits
        ids = logits.argmax(-1, keepdim=True)
        if cache:
            logits, past = lm.step(torch_dtype, ids=ids, cache=past)
        else:
            fed = torch.cat([fed, lm.embed(ids)], dim=1)
            logits, _ = lm.step(torch_dtype, embeddings=fed, written=written)


def context_of(lm: FrozenLM, mem: MemVector) -> torch.Tensor:
    """(c, d) float32, everything before the text: embeddings of the prefix, the vectors, embeddings of the suffix.

    Raises ``VectorError`` for a vector that is written into the model's layers, see ``fed_of``.
    """
    if mem.recipe.where != "input":
        raise VectorError(
            f"{mem!r} is written into the layers of the model ({mem.recipe.where}), and this needs a vector at its "
            "input. Use a vector of a recipe with where='input'."
        )
    return fed_of(lm, [mem])[0][0]


def fed_of(lm: FrozenLM, mems: Sequence[MemVector], then: Iterable[int] = ()) -> tuple[torch.Tensor, list[Overwrite]]:
    """Everything before the text, and then the tokens ``then``: (inputs (b, s, d), what is written into layers).

    All contexts must have equal length.
    """
    parts = [(m.prefix_ids, np.zeros(m.k, np.int64), m.suffix_ids, np.array(list(then), np.int64)) for m in mems]
    fixed = torch.stack([lm.embed(np.concatenate(ids)) for ids in parts])
    places = Places(lm, [Place(m.recipe.where, len(m.prefix_ids), m.k) for m in mems])
    return places.put(fixed, torch.cat([torch.tensor(m.mem) for m in mems]).to(lm.device))


def _context(mem: MemVector) -> int:
    """Positions before the text."""
    return len(mem.prefix_ids) + mem.k + len(mem.suffix_ids)


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
