"""What came out of ``encoder_predictions``: each quantity, measured from the tables of the gap and of warm starts."""

from __future__ import annotations

import re
from collections.abc import Callable

import pandas as pd

from memlab.measures.encoder_gap import gap_in_bits, gap_in_tokens, recovered, savings
from memlab.measures.encoder_predictions import EXPECTED
from memlab.measures.predictions import compared

ARM_WORDS = {
    "own encoding": "own",
    "another passage's encoding": "another",
    "the constant vector": "constant",
    "one gradient": "gradient",
}
"""{words of a prediction: the arm of the warm starts}."""


def outcomes(
    gap: pd.DataFrame, horizons: pd.DataFrame, runs: pd.DataFrame, warm: pd.DataFrame | None = None
) -> pd.DataFrame:
    """One row per prediction: ``quantity unit low high measured held``. Without rows: NaN and None.

    ``gap``, ``warm``: tables of the experiments. ``horizons`` and ``runs``: as in ``gap_in_tokens`` and
    ``gap_in_bits``. Means are over originals, but those of the gap in three units and of warm starts over all texts.
    """
    told = savings(warm, draws=1) if warm is not None and len(warm) else pd.DataFrame()
    rows = []
    for one in EXPECTED:
        value = _measured(one.quantity, recovered(gap), horizons, runs, told)
        rows.append(compared(one, value))
    return pd.DataFrame(rows)


def _measured(
    quantity: str, gap: pd.DataFrame, horizons: pd.DataFrame, runs: pd.DataFrame, told: pd.DataFrame
) -> float:
    shape = re.search(r"(\d+) tokens(?: in (\d+) vector)?", quantity)
    n, k = (int(shape[1]), int(shape[2] or 1)) if shape else (0, 1)

    def mean(column: str, texts: str = "originals", encoder: str = "slots", length: int = n) -> float:
        chosen = gap[(gap.texts == texts) & (gap.encoder == encoder) & (gap.tokens == length) & (gap.k == k)]
        return float(chosen[column].mean())

    own = gap[gap.encoder == "slots"]
    special: dict[str, Callable[[], float]] = {
        "random words": lambda: mean("net", "random") / mean("net"),
        "MiniLM bridge": lambda: mean("net", encoder="bridge"),
        "constant vector, 16": lambda: mean("recovered", encoder="constant"),
        "training text chosen": lambda: (
            mean("net", encoder="chosen", length=16) / mean("net", encoder="unchosen", length=16)
        ),
        "exact horizon": lambda: gap_in_tokens(own, horizons, draws=1).value,
        "bits that the search": lambda: gap_in_bits(own, runs, draws=1)[2],
        "steps of a cold search": lambda: float(own[(own.tokens == n) & (own.k == 1)].steps_to_loss.median()),
    }
    for words, measure in special.items():
        if quantity.startswith(words):
            return measure()
    if "start from" in quantity:
        arm = next(arm for words, arm in ARM_WORDS.items() if words in quantity)
        if told.empty:
            return float("nan")
        found = told[(told.arm == arm) & (told.tokens == n) & (told.texts == "all")].saved
        return float(found.iloc[0]) if len(found) else float("nan")
    return mean("exact_prefix" if "exact prefix" in quantity else "net")
