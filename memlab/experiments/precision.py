"""How many bits of a mem vector are needed: the coarsest stored form from which the text still decodes exactly.

The paper (arXiv 2502.13063) counts 16 bits per number. Here every form is decoded freely, as *exact* requires.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import methodcaller

import numpy as np
import pandas as pd
import torch

from memlab.decoding import decode as decoding
from memlab.measures.statistics import Estimate, bootstrap, share_interval
from memlab.models import FrozenLM
from memlab.probes.token_costs import gains
from memlab.results.mem_vector import MemVector, VectorError
from memlab.results.store import Store
from memlab.scoring.objective import Batch, Row


@dataclass(frozen=True)
class Form:
    """A form in which to store a vector."""

    name: str
    bits: float
    """Bits per number."""
    overhead: int
    """Further bits per vector: its scale, or which numbers are present."""
    make: Callable[[MemVector], MemVector]


FORMS = (
    Form("float32", 32, 0, lambda mem: mem),
    Form("float16", 16, 0, lambda mem: mem.cast("float16")),
    Form("bfloat16", 16, 0, lambda mem: mem.cast("bfloat16")),
    *(Form(f"int{n}", n, 32, methodcaller("quantise", n)) for n in (16, 12, 10, 9, 8, 7, 6, 5, 4, 3, 2)),
)
"""Floating point, and signed integers with one float32 scale per vector."""
TIE = 0.01
"""Largest margin (logits) at which float32 rounding alone may change an argmax."""
KEPT = (0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Shares of a vector's numbers that ``pruning`` keeps, the largest ones."""


def exact_vectors(store: Store, lm: FrozenLM, count: int, *, tokens: int | None = None) -> list[MemVector]:
    """The first ``count`` exact vectors of this model by key; with ``tokens``, only vectors of that length.

    Keys are hashes, so this choice does not depend on the results, and it is the same each time.
    """
    table = store.table()
    mems: list[MemVector] = []
    if not len(table):
        return mems
    fits = table.exact.astype(bool) & (table.model == lm.name)
    if tokens is not None:
        fits &= table.tokens == tokens
    for key in sorted(table.key[fits]):
        if len(mems) == count:
            break
        mem = store.get(key)
        if mem.fingerprint == lm.fingerprint and not mem.redaction:
            mems.append(mem)
    return mems


def precision(
    lm: FrozenLM, mems: Sequence[MemVector], *, forms: Sequence[Form] = FORMS, batch: int = 16
) -> pd.DataFrame:
    """One row per vector and form: is it still exact, its smallest margin (logits), and its stored bits.

    Free decoding and a pass over the true text agree up to the first token that is not the argmax. So a form with
    a token more than ``TIE`` behind the argmax does not decode. Every other form gets an exact check at batch 1.
    """
    variants: list[tuple[MemVector, Form, MemVector | None]] = []
    for mem in mems:
        for form in forms:
            try:
                variants.append((mem, form, form.make(mem)))
            except VectorError:  # the form cannot represent these numbers
                variants.append((mem, form, None))
    rows = []
    for start in range(0, len(variants), batch):
        chunk = variants[start : start + batch]
        margins = iter(_margins(lm, [changed for *_, changed in chunk if changed]))
        for mem, form, changed in chunk:
            margin = next(margins) if changed else -np.inf
            alone = decoding.check(lm, changed) if changed and margin > -TIE else None
            rows.append(
                {
                    "key": mem.key,
                    "text_id": mem.text.id,
                    "tokens": mem.n,
                    "k": mem.k,
                    "form": form.name,
                    "bits_a_number": form.bits,
                    "stored_bits": len(mem.mem) * (mem.d * form.bits + form.overhead),
                    "exact": bool(alone and alone.exact),
                    "margin": alone.margin if alone else margin,
                    "margin_float32": np.nan if mem.margin is None else mem.margin,
                    "moved": _distance(changed, mem) if changed else np.nan,
                }
            )
    return pd.DataFrame(rows)


def pruning(lm: FrozenLM, mems: Sequence[MemVector], *, kept: Sequence[float] = KEPT, batch: int = 16) -> pd.DataFrame:
    """``precision`` of vectors whose smallest numbers are set to 0 while the others stay in float16.

    One bit per number says which numbers are present.
    """
    forms = [
        Form(f"{share:.0%} of the numbers", share * 16, mems[0].d if mems else 0, partial(_pruned, kept=share))
        for share in kept
    ]
    return precision(lm, mems, forms=forms, batch=batch)


def fewest_bits(table: pd.DataFrame) -> pd.DataFrame:
    """One row per vector: the exact form with the fewest stored bits in the table of ``precision``.

    Columns next to its key: ``tokens k form bits_a_number stored_bits bits_a_token margin_float32``. Rounding is not
    monotonic: a coarser form may decode while a finer one does not.
    """
    exact = table[table.exact].sort_values("stored_bits", kind="stable").groupby("key", sort=False).head(1)
    columns = ["key", "text_id", "tokens", "k", "form", "bits_a_number", "stored_bits", "margin_float32"]
    return exact[columns].assign(bits_a_token=exact.stored_bits / exact.tokens).reset_index(drop=True)


def survived(table: pd.DataFrame) -> pd.DataFrame:
    """The share of vectors that each form keeps exact: ``form bits_a_number share low high``.

    The Wilson interval counts all vectors of a text as one, so it is rather too wide than too narrow.
    """
    rows = []
    for (form, bits), group in table.groupby(["form", "bits_a_number"], sort=False):
        share, texts = group.exact.mean(), group.text_id.nunique()
        rows.append((form, bits, share, *share_interval(share * texts, texts)))
    return pd.DataFrame(rows, columns=["form", "bits_a_number", "share", "low", "high"])


def predicted_by_margin(table: pd.DataFrame, *, at_one_length: bool = False) -> Estimate:
    """Spearman rank correlation over vectors between the float32 margin and the fewest stored bits per number.

    A vector with a wide margin should tolerate coarse rounding: -1 would be a perfect prediction, 0 no prediction.
    With ``at_one_length`` vectors are ranked among vectors of equal length, and the ranks of all lengths are pooled:
    longer texts have smaller margins and also need more bits. The bootstrap draws texts with all their vectors.
    """
    columns = ["margin_float32", "bits_a_number"]

    def correlation(t: pd.DataFrame) -> float:
        ranks = t.groupby("tokens")[columns].rank() if at_one_length else t[columns].rank()
        if at_one_length:
            ranks -= ranks.groupby(t.tokens).transform("mean")
        return float(ranks.corr().iloc[0, 1])

    return bootstrap(correlation, fewest_bits(table), draws=1000)


def gain_per_bit(lm: FrozenLM, mems: Sequence[MemVector], table: pd.DataFrame) -> pd.DataFrame:
    """``fewest_bits`` with the information gain of each vector (``information_gain_bits``) and its gain per stored bit.

    The gain is that of the stored float32 vector. In the coarsest exact form every token is still the argmax.
    """
    gain_by_key = {row.key: row.bits_without - row.bits_with for row in gains(lm, mems).itertuples()}
    best = fewest_bits(table)
    best["information_gain_bits"] = best.key.map(gain_by_key)
    return best.assign(gain_per_stored_bit=best.information_gain_bits / best.stored_bits)


def _pruned(mem: MemVector, kept: float) -> MemVector:
    return mem.prune(kept).cast("float16")


def _margins(lm: FrozenLM, mems: Sequence[MemVector]) -> list[float]:
    if not mems:
        return []
    for mem in mems:
        decoding.require_weights(lm, mem)
    rows = [Row.of(mem) for mem in mems]
    scores, _ = Batch(lm, rows).scores([torch.tensor(mem.mem) for mem in mems], torch.float32)
    return scores.min_margin.tolist()


def _distance(changed: MemVector, mem: MemVector) -> float:
    return float(np.linalg.norm(changed.mem - mem.mem) / np.linalg.norm(mem.mem))
