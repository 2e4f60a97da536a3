"""Decodes a sample of a store's exact vectors again, to see whether they are still exact here and now."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

from tqdm.auto import tqdm

from memlab.decoding.decode import check, decode
from memlab.decoding.first_use import what_changed
from memlab.models import FrozenLM, ModelError, PassageError, load
from memlab.results.mem_vector import MemVector, VectorError
from memlab.results.store import Store


@dataclass
class VerifyReport:
    """The outcome for each vector of a sample."""

    sound: list[str] = field(default_factory=list)
    """Keys of vectors that are exact here and now."""
    changed: dict[str, str] = field(default_factory=dict)
    """{key: where the decode goes wrong}. The cause is other rounding (machine, library), or a faulty file or model."""
    skipped: dict[str, str] = field(default_factory=dict)
    """{key: why it was not decoded}: its model is not available or has other weights now, or its file is unreadable."""


def verify_sample(store: Store, number: int, *, seed: int = 0, progress: bool = True) -> VerifyReport:
    """Decode ``number`` exact vectors of the store again, or all if it has fewer. ``seed`` draws the sample.

    Token by token, at batch 1, also vectors whose exactness was proven by one pass. Each model is loaded by the name
    and revision in the vectors. No file is written.
    """
    table = store.table()
    exact = sorted(table[table.exact.astype(bool)].key)
    drawn = random.Random(seed).sample(exact, min(number, len(exact)))
    report, mems = VerifyReport(), list[MemVector]()
    for key in drawn:
        try:
            mems.append(store.get(key))
        except (VectorError, KeyError, OSError) as error:
            report.skipped[key] = str(error)

    def origin(mem: MemVector) -> tuple[str, str]:
        return mem.model, mem.revision or ""

    bar = tqdm(total=len(mems), unit="vector", desc="decoding again", disable=not progress)
    for (model, revision), group in itertools.groupby(sorted(mems, key=origin), key=origin):
        same = list(group)
        try:
            lm = load(model, revision=revision or None)
        except Exception as error:  # the name comes from a file and may be anything
            reason = str(error) if isinstance(error, ModelError) else f"{model:.80} cannot be loaded: {error}"
            report.skipped |= {mem.key: reason for mem in same}
            continue
        for mem in same:
            try:
                wrong = _wrong(lm, mem)
            except (ModelError, PassageError, VectorError) as error:
                report.skipped[mem.key] = str(error)
            else:
                if wrong is None:
                    report.sound.append(mem.key)
                else:
                    report.changed[mem.key] = wrong
            bar.update()
    bar.close()
    return report


def _wrong(lm: FrozenLM, mem: MemVector) -> str | None:
    """Where the decode goes wrong; None if it is exact."""
    if mem.redaction:
        same_text = mem.matches(decode(lm, [mem], batch=1)[0])
        return None if same_text else what_changed(mem, None)
    new = check(lm, mem, one_pass=False)
    return None if new.exact else what_changed(mem, new)
