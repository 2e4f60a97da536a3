"""Whether one pass over the true tokens says what a free decode says, on the exact vectors of a store.

Each vector is decoded token by token and passed once, and all logits are compared. Expected: no disagreement.

Predicted before the run, for SmolLM2-135M on one core: the largest difference of a logit is below 2e-3, every exact
vector of the bundled store agrees, at most 1 in 20 has a margin below 100 times that difference, and a pass over 64
tokens takes less than a tenth of the time of their decode. The largest differences of single vectors are within a
factor of ten of each other, so that any vector tells enough about the others.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pandas as pd

from memlab.decoding import one_pass as passes
from memlab.decoding.decode import check, fed_of
from memlab.experiments.precision import exact_vectors
from memlab.experiments.session import Session
from memlab.models import FrozenLM, ModelError
from memlab.results.mem_vector import MemVector

COLUMNS = ("key", "text_id", "tokens", "k", "where", "decoded_exact", "decode_margin", "pass_margin", "largest",
           "decode_seconds", "pass_seconds")  # fmt: skip
"""Columns of a row. ``decode_margin``, ``pass_margin``: the smallest, in logits. ``largest``: the largest difference of
a logit or a margin between the two: logits at up to ``decoding.one_pass.COMPARED`` positions, margins at each."""


def one_pass(session: Session) -> pd.DataFrame:
    """One row per vector of the session's store that is exact by its file, with the columns ``COLUMNS``.

    Rows of ``session.resume_from`` are not measured again. Raises ``ModelError`` for a model whose checks always
    decode.
    """
    lm, earlier = session.lm, session.resume_from
    if not passes.possible(lm):
        raise ModelError(f"{lm.name} has a family or a hook whose checks always decode. Use a dense transformer model.")
    rows = [] if earlier is None else earlier.to_dict("records")
    done = {row["key"] for row in rows}
    for mem in exact_vectors(session.store, lm, len(session.store.table())):
        if mem.key not in done:
            rows.append(_row(lm, mem))
            session.on_rows(pd.DataFrame(rows, columns=list(COLUMNS)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(lm: FrozenLM, mem: MemVector) -> dict[str, Any]:
    where = mem.recipe.where
    known = passes.difference(lm, where)
    before = replace(known)
    known.reset()  # each row has a difference of its own
    begun = time.perf_counter()
    decoded = check(lm, mem, one_pass=False)
    seconds = time.perf_counter() - begun
    largest = known.largest
    known.include(before)
    begun = time.perf_counter()
    fed, written = fed_of(lm, [mem])
    margin = float(passes.margins(lm, fed, mem.token_ids, written).min())
    pass_seconds = time.perf_counter() - begun
    return {
        "key": mem.key,
        "text_id": mem.text.id,
        "tokens": mem.n,
        "k": mem.k,
        "where": where,
        "decoded_exact": decoded.exact,
        "decode_margin": decoded.margin,
        "pass_margin": margin,
        "largest": largest,
        "decode_seconds": seconds,
        "pass_seconds": pass_seconds,
    }


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per number of tokens, and one for all: do they agree, what is proven, how much quicker is a pass.

    A vector is proven if its margin in the pass is more than ``decoding.one_pass.TIMES`` times the largest difference
    of the whole table. ``disagree``: a pass with all tokens right where the decode has a wrong one, or the other way.
    """
    needed = passes.TIMES * table.largest.max()
    rows = []
    for tokens, group in [*table.groupby("tokens"), ("all", table)]:
        rows.append(
            {
                "tokens": tokens,
                "vectors": len(group),
                "disagree": int(((group.pass_margin > 0) != group.decoded_exact).sum()),
                "proven": int((group.pass_margin > needed).sum()),
                "largest difference": group.largest.max(),
                "of the vector with the smallest": group.largest.min(),
                "smallest margin": group.pass_margin.min(),
                "times as fast, median": (group.decode_seconds / group.pass_seconds).median(),
            }
        )
    return pd.DataFrame(rows)
