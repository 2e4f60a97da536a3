"""Vectors of other programs become results of memlab: with a key, with checks, in a store."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import torch

from memlab import __version__
from memlab.decoding.decode import check, check_portable, require_weights, teacher_forced
from memlab.decoding.first_use import check_first_use
from memlab.decoding.foreign_files import Foreign
from memlab.models import FrozenLM, Passage
from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector, VectorError
from memlab.results.store import Store
from memlab.texts import TextSpan


def imported(
    lm: FrozenLM,
    found: Foreign,
    passage: Passage | None = None,
    *,
    tokens: int | None = None,
    prefix: str | tuple[int, ...] = "none",
) -> MemVector:
    """The unchecked result of vectors that another program trained for ``lm``. Raises ``VectorError``.

    Without ``passage``, the token ids or the text of the file are the passage, cut to ``tokens`` tokens. ``prefix``:
    the tokens before the vectors, as in a recipe. The parent is a hash of the numbers, and the recipe trains zero
    steps. So the key depends on the numbers, and it is never a key of something that memlab trains.
    """
    passage = passage or _passage(lm, found, tokens)
    if found.mem.shape[1] != lm.d:
        raise VectorError(
            f"the vector has width {found.mem.shape[1]}, but {lm.name} needs {lm.d}. Give its model (--model)."
        )
    prefix_ids = lm.prefix_ids(prefix)
    numbers = np.ascontiguousarray(found.mem, "<f4")
    mem = MemVector(
        mem=numbers,
        token_ids=passage.ids,
        prefix_ids=np.array(prefix_ids, np.int64),
        suffix_ids=np.empty(0, np.int64),
        model=lm.name,
        revision=lm.revision,
        fingerprint=lm.fingerprint,
        recipe=Recipe(k=len(numbers), prefix=prefix_ids or "none", budget=0),
        parent=hashlib.sha256(b"imported" + str(numbers.shape).encode() + numbers.tobytes()).hexdigest(),
        text=passage.span,
        provenance={
            "imported": found.path.name,
            "place": found.place,
            "file_sha256": found.file_sha256,
            "memlab": __version__,
            "torch": torch.__version__,
            "transformers": version("transformers"),
            "machine": platform.machine(),
            "config_sha256": lm.config_hash,
            "tokenizer_sha256": passage.tokenizer_hash,
        },
    )
    require_weights(lm, mem)
    return mem


def put_checked(store: Store, lm: FrozenLM, mem: MemVector, *, portable: bool = False) -> MemVector:
    """Check an imported vector and store it. If the store has its key, the stored result is checked for first use.

    ``portable`` adds the checks in bfloat16, without cache, and in a batch of 8. Returns the result.
    """
    if known := store.fetch(mem.key):
        (known,) = check_first_use(lm, [known])
        return check_portable(lm, known) if portable else known
    mem = checked(lm, mem)
    mem = check_portable(lm, mem) if portable else mem
    store.put(mem)
    return mem


def checked(lm: FrozenLM, mem: MemVector) -> MemVector:
    """The vector with its exact check, a check with the first token given, and its teacher-forced scores."""
    mem = mem.with_checks(check(lm, mem))
    if mem.n > 1:
        mem = mem.with_checks(check(lm, mem, first_given=True))
    accuracy, bits, _ = teacher_forced(lm, mem)
    return replace(mem, teacher_forced=accuracy, loss_bits=bits if np.isfinite(bits) else None)


def _passage(lm: FrozenLM, found: Foreign, tokens: int | None) -> Passage:
    """The passage that the file names."""
    name = f"{found.path.stem}-{found.sample}" if found.sample else found.path.stem
    span = TextSpan(name, f"imported from {found.path.name}")
    if found.ids is not None:
        return replace(lm.passage_of_ids(found.ids[:tokens]), span=span)
    if found.text is None:
        raise VectorError("the file has no text and no token ids. Give the text (--text) or the ids (--ids).")
    return replace(lm.passage_of_ids(_encode(lm, found)[:tokens]), span=span)


def _encode(lm: FrozenLM, found: Foreign) -> list[int]:
    """Token ids of the file's text. They must be as many as the file says, because the original ids are lost.

    The programs that wrote these files encode with the tokenizer's own special tokens, and leave them out of the text.
    """
    if lm.tokenizer is None:
        raise VectorError(f"{lm.name} has no tokenizer. Give the token ids (--ids).")
    counts = []
    for special in (True, False):
        ids: list[int] = lm.tokenizer(found.text, add_special_tokens=special)["input_ids"]
        if found.length in (None, len(ids)):
            return ids[: found.cut]
        counts.append(str(len(ids)))
    raise VectorError(
        f"the text has {' or '.join(dict.fromkeys(counts))} tokens for {lm.name}, but the file says {found.length}. "
        "Give the model of the file (--model), or the token ids (--ids)."
    )
