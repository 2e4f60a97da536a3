"""How much a mem vector holds: each measure with its formula, its unit and where it is from.

Arrays and tables in, numbers and tables out; no model here. Information is in **bits**, unless a name says nats.

Two protocols stand side by side. ``paper2025`` (arXiv 2502.13063) asks, while the true text is fed, how many tokens
are argmax. ``exact`` asks what comes back when the model writes freely from the stored vector alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from memlab.errors import MemlabError
from memlab.measures.statistics import median_interval
from memlab.recipes import NAMED, Recipe


class MixedRecipesError(MemlabError, ValueError):
    """A table of runs of several recipes, where those of one search are wanted; the message names them."""

    exit_code = 2


# One run ---------------------------------------------------------------------------------------------------------


def theoretical_tokens(d: int, vocabulary: int, *, bits: float = 16, k: int = 1) -> float:
    """Tokens that k·d numbers of so many ``bits`` could name at most: k·d·b / log2|V| (arXiv 2502.13063, eq. 4).

    The paper takes b = 16; what a vector needs is measured by ``experiments.precision``.
    """
    return k * d * bits / np.log2(vocabulary)


def token_gain(hits_with: Any, hits_without: Any) -> Any:
    """Tokens: those that are argmax with the vector less those without, while the true text is fed (2502.13063)."""
    return hits_with - hits_without


def information_gain(bits_without: Sequence[float] | Any, bits_with: Sequence[float] | Any) -> float:
    """Bits: cross-entropy (n,) without the vector less that with it, summed over the tokens scored in both.

    A token that was not scored is NaN. The paper's C_H (arXiv 2502.13063) in bits; its tables print nats.
    """
    without, given = np.asarray(bits_without, float), np.asarray(bits_with, float)
    if without.shape != given.shape:
        raise ValueError(f"{without.size} tokens without the vector, {given.size} with it; expected the same tokens")
    return float(np.nansum(without - given))


def nats(bits: float) -> float:
    """Nats of so many bits."""
    return float(bits * np.log(2))


def token_utilisation(gain: float, d: int, vocabulary: int, *, bits: float = 16, k: int = 1) -> float:
    """Token gain over ``theoretical_tokens`` (arXiv 2502.13063)."""
    return gain / theoretical_tokens(d, vocabulary, bits=bits, k=k)


def bits_per_dimension(gain_bits: float, d: int, *, k: int = 1) -> float:
    """Information gain over the k·d numbers that carry it, bits."""
    return gain_bits / (k * d)


def compression_ratio(text_bytes: int, stored_bits: float) -> float:
    """Size of the UTF-8 text over what is stored in its place; below 1 the text would have been smaller."""
    return 8 * text_bytes / stored_bits


def explain(
    bits_without: Sequence[float],
    bits_with: Sequence[float],
    right_without: Sequence[bool],
    right_with: Sequence[bool],
    decoded_right: Sequence[bool],
) -> pd.DataFrame:
    """Where the two protocols differ for one run; all arrays (n,), one entry a token of the passage.

    ``right_*``: argmax while the true text is fed; ``decoded_right``: in the free-running decode. Rows: measure,
    ``paper2025``, ``exact``, and why they differ.
    """
    without, given = np.asarray(bits_without, float), np.asarray(bits_with, float)
    fed = np.asarray(right_with, bool)
    free = np.asarray(decoded_right, bool)
    before = np.asarray(right_without, bool)
    n = len(fed)
    wrong = np.flatnonzero(~free)
    reached = int(wrong[0]) if len(wrong) else n
    accuracy = float(fed[1:].mean()) if n > 1 else float("nan")
    lost = "token 1 is never scored there, and the true text is fed" if n > 1 else "one token leaves nothing to score"
    first = without[0] - given[0]
    at_first = f"token 1 holds {first:.1f} bits" if np.isfinite(first) else "without a vector nothing foretells token 1"
    rows = [
        ("tokens scored", n - 1, n, "the published code leaves token 1 out"),
        ("accuracy", accuracy, float(free.mean()), lost),
        ("holds the passage", accuracy >= 0.99, bool(free.all()), _verdict(accuracy >= 0.99, fed, reached, n)),
        (
            "tokens gained",
            token_gain(fed[1:].sum(), before[1:].sum()),
            token_gain(reached, before[:reached].sum()),
            "argmax under the true text, against tokens decoded before the first wrong one",
        ),
        (
            "information gained, bits",
            information_gain(without[1:], given[1:]),
            information_gain(without[:reached], given[:reached]),
            f"{at_first}; the right column ends where decoding goes wrong",
        ),
    ]
    return pd.DataFrame(rows, columns=["measure", "paper2025", "exact", "why"])


def _verdict(held: bool, fed: np.ndarray, reached: int, n: int) -> str:
    if reached == n:
        return "decoded freely to the end" + ("" if held else ", yet below 99 % by the published count")
    where = f"decoding goes wrong at token {reached + 1} of {n}"
    if not held:
        return where
    if reached == 0:
        return f"{where}, which the published count leaves out"
    if not fed[reached]:
        return f"{where}, and one miss in a hundred is let pass"
    return f"{where}, though it is right while the true text is fed: rounding, or a hair's breadth"


# Many runs -------------------------------------------------------------------------------------------------------


def require_one_recipe(runs: pd.DataFrame) -> None:
    """Raise ``MixedRecipesError`` where a model's runs are of several recipes, whose estimates would be none's.

    ``runs``: ``recipe`` (its name), ``model`` and ``k``, if there. May differ: the seed, k and the growth that goes
    with it, and the token budget, since what ended by it is censored and no worse.
    """
    if "recipe" not in runs:
        return
    ks = runs.k if "k" in runs else pd.Series(1, runs.index)
    plain = pd.Series(
        [_with_one_vector(str(name), int(k)) for name, k in zip(runs.recipe, ks, strict=True)], runs.index
    )
    of = runs.model if "model" in runs else pd.Series("", runs.index)
    for model, names in plain.groupby(of, dropna=False):
        if len(mixed := names.unique()) > 1:
            raise MixedRecipesError(
                f"the table has runs of several recipes ({', '.join(mixed)}){f' of {model}' if model else ''}: keep "
                "the rows of one, or give each recipe a table of its own (--out)"
            )


def paper_estimates(runs: pd.DataFrame, *, threshold: float = 0.99) -> pd.DataFrame:
    """The published table's estimators (arXiv 2502.13063), one row a group (``model texts k``, those there are).

    ``runs``, one row a run: ``length accuracy hits_with hits_without bits_with bits_without``, all over the tokens
    that the published code scores. ``max_tokens``: the largest length whose mean accuracy is at least ``threshold``.
    Gains: mean and standard deviation (n - 1) over the runs, of whatever length, with accuracy at most ``threshold``.
    """
    rows = []
    require_one_recipe(runs)
    for names, group in _groups(runs):
        means = group.groupby("length").accuracy.mean()
        # Seventeen times 0.99 is 16.83 but for the last bit of a float.
        held = means[means >= threshold - 1e-9]
        failing = group[group.accuracy <= threshold + 1e-9]
        tokens = token_gain(failing.hits_with, failing.hits_without)
        gained = failing.bits_without - failing.bits_with
        rows.append(
            names
            | {
                "max_tokens": int(held.index.max()) if len(held) else 0,
                "runs": len(group),
                "failing": len(failing),
                "token_gain": tokens.mean(),
                "token_gain_sd": tokens.std(),
                "information_gain_bits": gained.mean(),
                "information_gain_bits_sd": gained.std(),
                "information_gain_nats": nats(gained.mean()),
                "information_gain_nats_sd": nats(gained.std()),
            }
        )
    return pd.DataFrame(rows)


def _with_one_vector(name: str, k: int) -> str:
    """A recipe's name as it would be with one vector, the first seed and no token budget."""
    name = re.sub(r" (seed|k|token_budget)=\d+", "", name)
    grown = re.search(r" grow=(\d+)", name)
    if not grown or int(grown[1]) % k:
        return name
    base = name.split()[0]
    usual = Recipe.named(base).grow if base in NAMED else 0
    one = int(grown[1]) // k
    return name.replace(grown[0], "" if one == usual else f" grow={one}")


def horizons(attempts: pd.DataFrame) -> pd.DataFrame:
    """One row a passage (and model, k, kind of text): horizon, what it took to find, loss left where it first failed.

    The horizon (tokens) is the longest prefix that one of the stored vectors decodes to, freely: also that of a longer
    text that was not exact to its end. It is a certified lower end. ``failed_at`` is the shortest length (tokens) above
    it that was ``tried`` and never exact (missing: there is none, the horizon is censored), no proof that no vector
    could: all of an attempt's tokens, or of a text that grew, the stage at which it gave up.
    ``bits_at_failure`` is what the best vector still cost there, bits a token.

    All attempts must be of one recipe (``require_one_recipe``).

    With the columns of ``experiments.gains`` also ``horizon_bits`` and ``failed_bits``, what those prefixes cost the
    model without the vector, and what the vector gains on the first: ``token_gain``, ``information_gain_bits``.
    """
    rows = []
    require_one_recipe(attempts)
    if "tried" not in attempts:
        attempts = attempts.assign(tried=attempts.tokens)
    names = [name for name in ("model", "texts", "k", "text_id", "source", "start") if name in attempts]
    for labels, group in attempts.groupby(names, sort=False, observed=True, dropna=False):
        exact = group[group.exact]
        best = group.loc[group.exact_prefix.idxmax()]
        failed = group[~group.exact & (group.tried > best.exact_prefix)]
        first = failed[failed.tried == failed.tried.min()]
        reached = int(best.exact_prefix)
        row = dict(zip(names, labels, strict=True)) | {
            "horizon": reached,
            "longest_exact": int(exact.tokens.max()) if len(exact) else 0,
            "failed_at": int(failed.tried.min()) if len(failed) else None,
            "attempts": len(group),
            "token_passes": int(group.token_passes.sum()),
            "bits_at_failure": float(first.bits.min()) if len(first) and (first.tried == first.tokens).all() else None,
        }
        if "token_bits_without" in group:
            without = np.asarray(best.token_bits_without, float)[:reached]
            row["horizon_bits"] = float(np.nansum(without))
            tried = int(first.tried.iloc[0]) if len(first) else 0
            row["failed_bits"] = float(np.nansum(first.token_bits_without.iloc[0][:tried])) if tried else None
        if "token_right_without" in group:
            given = np.asarray(best.token_bits_with, float)[:reached]
            row["token_gain"] = token_gain(reached, int(np.sum(np.asarray(best.token_right_without)[:reached])))
            row["information_gain_bits"] = information_gain(without, given)
        rows.append(row)
    return pd.DataFrame(rows)


def outcomes(attempts: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One passage's exact attempts, and those that failed at a length above all of them."""
    exact = attempts[attempts.exact]
    return exact, attempts[~attempts.exact & (attempts.tokens > (exact.tokens.max() if len(exact) else 0))]


def exact_estimates(horizons: pd.DataFrame) -> pd.DataFrame:
    """Median exact horizon in tokens and bits with intervals over passages, one row a group.

    ``horizons``, one row a passage: ``horizon`` (tokens), ``horizon_bits``, and ``failed_at`` (tokens, missing where
    no attempt failed above it: the horizon is then only known to be at least that, and an interval may be open).
    """
    rows = []
    for names, group in _groups(horizons):
        rows.append(
            names
            | {
                "passages": len(group),
                "tokens": median_interval(group.horizon, open_above=group.failed_at.isna()),
                "bits": median_interval(group.horizon_bits, open_above=group.failed_at.isna()),
                "least": int(group.horizon.min()),
                "most": int(group.horizon.max()),
                "censored": int(group.failed_at.isna().sum()),
            }
        )
    return pd.DataFrame(rows)


def _groups(table: pd.DataFrame) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    names = [name for name in ("model", "texts", "k") if name in table]
    if not names:
        return [({}, table)]
    return [
        (dict(zip(names, key, strict=True)), group) for key, group in table.groupby(names, sort=False, observed=True)
    ]
