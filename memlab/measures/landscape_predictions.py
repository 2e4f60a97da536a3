"""What was expected of the landscape before it was measured, and what came out.

Written on 30 November 2026, before the first run of ``memlab bench landscape`` on the real model. Not changed since.
The two lines of the vector in every layer were added later that day, before its run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from memlab.measures.landscape import shares
from memlab.measures.predictions import compared


@dataclass(frozen=True)
class Prediction:
    """An interval that the mean of a quantity over passages should lie in."""

    system: str
    decoder: str
    words: tuple[str, ...]
    """Words that the names of its methods have."""
    texts: str
    quantity: str
    """A column of ``measures.landscape.shares``."""
    low: float
    high: float


PREDICTIONS = (
    Prediction("arithmetic coding", "code", (), "originals", "efficiency", 0.95, 1.0),
    Prediction("mem vector", "read", ("float32",), "originals", "recovered_share", 0.95, 1.0),
    Prediction("mem vector", "read", ("float32",), "originals", "stored_share", 38, 50),
    Prediction("mem vector", "read", ("float32",), "random", "stored_share", 20, 28),
    Prediction("mem vector", "read", ("fewest",), "originals", "stored_share", 6.5, 8.5),
    Prediction("mem vector", "read", ("fewest",), "originals", "recovered_share", 0.6, 0.95),
    Prediction("mem vector", "read", ("every layer",), "originals", "recovered_share", 0.9, 1.0),
    Prediction("mem vector", "read", ("every layer",), "originals", "stored_share", 1200, 1500),
    Prediction("full text", "read", (), "originals", "recovered_share", 0.75, 0.97),
    Prediction("full text", "read", (), "random", "recovered_share", 0.75, 0.97),
    Prediction("LLMLingua-2", "read", ("surprisal", "50"), "originals", "recovered_share", 0.3, 0.65),
    Prediction("LLMLingua-2", "fill", ("surprisal", "50"), "originals", "efficiency", 0.6, 0.95),
    Prediction("LLMLingua-2", "fill", ("surprisal", "50"), "originals", "recovered_share", 0.75, 0.95),
    Prediction("random tokens", "read", ("50",), "originals", "recovered_share", 0.2, 0.5),
    Prediction("SCOPE", "read", ("50",), "originals", "recovered_share", 0.05, 0.35),
    Prediction("TCRA-LLM", "read", ("50",), "originals", "recovered_share", 0.25, 0.55),
    Prediction("RECOMP", "read", ("50",), "originals", "recovered_share", 0.35, 0.6),
    Prediction("EXIT", "read", ("50",), "originals", "recovered_share", 0.2, 0.55),
    Prediction("Semantic compression", "read", ("50",), "originals", "recovered_share", 0.25, 0.55),
    Prediction("PODTILE", "read", ("titles",), "originals", "recovered_share", -0.05, 0.15),
    Prediction("full cache", "read", (), "originals", "recovered_share", 0.75, 0.97),
    Prediction("StreamingLLM", "read", ("50",), "originals", "recovered_share", 0.2, 0.5),
    Prediction("SnapKV", "read", ("50",), "originals", "recovered_share", 0.3, 0.8),
    Prediction("KVzip", "read", ("50",), "originals", "recovered_share", 0.6, 0.95),
    Prediction("key norm", "read", ("50",), "originals", "recovered_share", 0.1, 0.6),
    Prediction("random", "read", ("50",), "originals", "recovered_share", 0.1, 0.5),
    Prediction("WindowKV", "read", ("50",), "originals", "recovered_share", 0.2, 0.6),
    Prediction("HACK", "read", ("50",), "originals", "recovered_share", 0.3, 0.8),
    Prediction("rounding", "read", ("4 bits",), "originals", "recovered_share", 0.6, 0.97),
    Prediction("rounding", "read", ("2 bits",), "originals", "recovered_share", -0.5, 0.5),
    Prediction("Equal-Info Windows", "code", ("16 bits", "reset"), "originals", "stored_share", 1.3, 2.5),
    Prediction("Equal-Info Windows", "code", ("256 bits", "kept"), "originals", "stored_share", 1.0, 1.3),
    Prediction("Learnable vector storage compression", "read", ("product",), "originals", "recovered_share", -9, 0.05),
    Prediction("retrieval", "find", (), "originals", "recovered_share", 0.0, 0.025),
    Prediction("LexSemBridge", "find", (), "originals", "recovered_share", 0.0, 0.025),
)
"""All of them. A share of recovered bits may be negative."""


def outcomes(table: pd.DataFrame) -> pd.DataFrame:
    """One row per prediction: ``name system decoder words texts quantity low high measured held``.

    ``measured``: mean over the passages of all methods that it is about; NaN if no row is. ``table``: the landscape.
    """
    rows, table = [], shares(table)
    for p in PREDICTIONS:
        chosen = table[(table.system == p.system) & (table.decoder == p.decoder) & (table.texts == p.texts)]
        for word in p.words:
            chosen = chosen[chosen.method.str.contains(word, regex=False)]
        value = float(chosen[p.quantity].replace([np.inf, -np.inf], np.nan).mean()) if len(chosen) else np.nan
        rows.append({"name": _name(p)} | compared(p, value) | {"words": ", ".join(p.words)})
    return pd.DataFrame(rows)


def _name(p: Prediction) -> str:
    words = [f"{word} %" if word.isdigit() else word for word in p.words]
    given = {"read": [], "fill": ["gaps filled"], "code": [], "find": []}[p.decoder]
    return ", ".join([p.system, *words, *given, *(["random words"] if p.texts == "random" else [])])
