"""Whether stored vectors still do what their checks say: a sample of a store, decoded again."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

from tqdm.auto import tqdm

from memlab.decoding.decode import check, decode
from memlab.models import FrozenLM, ModelError, PassageError, load
from memlab.results.mem_vector import MemVector, VectorError
from memlab.results.store import Store


@dataclass
class VerifyReport:
    """What became of a sample of exact vectors."""

    sound: list[str] = field(default_factory=list)
    """Keys of those that are exact here and now, too."""
    changed: dict[str, str] = field(default_factory=dict)
    """{key: where it goes wrong now}. Another machine's or library's rounding, unless the file or model is at fault."""
    not_asked: dict[str, str] = field(default_factory=dict)
    """{key: why}: a model that cannot be had here, or has other weights now; a file that cannot be read."""


def verify_sample(store: Store, number: int, *, seed: int = 0, progress: bool = True) -> VerifyReport:
    """Decode ``number`` of the store's exact vectors (all, if it has fewer), drawn by ``seed``, at batch 1.

    Each model is loaded by the name and revision that the vectors give. Files are only read.
    """
    table = store.table()
    exact = sorted(table[table.exact.astype(bool)].key)
    drawn = random.Random(seed).sample(exact, min(number, len(exact)))
    found, mems = VerifyReport(), list[MemVector]()
    for key in drawn:
        try:
            mems.append(store.get(key))
        except (VectorError, KeyError, OSError) as error:
            found.not_asked[key] = str(error)

    def origin(mem: MemVector) -> tuple[str, str]:
        return mem.model, mem.revision or ""

    bar = tqdm(total=len(mems), unit="vector", desc="decoding again", disable=not progress)
    for (model, revision), group in itertools.groupby(sorted(mems, key=origin), key=origin):
        same = list(group)
        try:
            lm = load(model, revision=revision or None)
        except Exception as error:  # a name is what a file says, and may be anything
            why = str(error) if isinstance(error, ModelError) else f"{model:.80} cannot be loaded: {error}"
            found.not_asked |= {mem.key: why for mem in same}
            continue
        for mem in same:
            try:
                wrong = _wrong(lm, mem)
            except (ModelError, PassageError, VectorError) as error:
                found.not_asked[mem.key] = str(error)
            else:
                if wrong is None:
                    found.sound.append(mem.key)
                else:
                    found.changed[mem.key] = wrong
            bar.update()
    bar.close()
    return found


def _wrong(lm: FrozenLM, mem: MemVector) -> str | None:
    """Where it goes wrong, None where it does not."""
    then = f"exact with torch {mem.provenance.get('torch')} on {mem.provenance.get('machine')}, margin {mem.margin:.3g}"
    if mem.redaction:
        return None if mem.matches(decode(lm, [mem], batch=1)[0]) else f"another text than its hash names; {then}"
    made = check(lm, mem)
    if made.exact:
        return None
    return f"token {(made.first_wrong or 0) + 1} of {made.tokens} is wrong, by {-made.margin:.3g} logits; {then}"
