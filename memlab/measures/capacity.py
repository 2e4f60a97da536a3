"""How much a mem vector holds: each measure with its formula, its unit and its source.

Arrays and tables in, numbers and tables out, no model. Information is in **bits**, unless a name says nats.

There are two protocols. ``paper2025`` (arXiv 2502.13063) counts the tokens that are argmax while the true text is fed.
``exact`` counts the tokens that the model writes freely from the stored vector alone.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from memlab.errors import MemlabError
from memlab.measures.statistics import median_interval
from memlab.recipes import Recipe, RecipeError


class MixedRecipesError(MemlabError, ValueError):
    """A table has runs of several recipes, but the measure needs runs of one. The message names the recipes."""

    exit_code = 2


# One run ---------------------------------------------------------------------------------------------------------


def theoretical_tokens(d: int, vocabulary: int, *, bits: float = 16, k: int = 1) -> float:
    """Upper limit in tokens for k·d numbers of ``bits`` b each: k·d·b / log2|V| (arXiv 2502.13063, eq. 4).

    The paper takes b = 16. ``experiments.precision`` measures how many bits a vector needs.
    """
    return k * d * bits / np.log2(vocabulary)


def token_gain(hits_with: Any, hits_without: Any) -> Any:
    """Tokens that are argmax with the vector minus those without it, teacher-forced (arXiv 2502.13063)."""
    return hits_with - hits_without


def information_gain(bits_without: Sequence[float] | Any, bits_with: Sequence[float] | Any) -> float:
    """Cost (n,) without the vector minus cost with it, bits, summed over the tokens that are scored in both.

    NaN marks a token that was not scored. This is C_H of arXiv 2502.13063 in bits; the paper's tables are in nats.
    """
    before, after = np.asarray(bits_without, float), np.asarray(bits_with, float)
    if before.shape != after.shape:
        raise ValueError(
            f"There are {before.size} tokens without the vector and {after.size} with it. Give the same tokens twice."
        )
    return float(np.nansum(before - after))


def nats(bits: float) -> float:
    """Bits converted to nats: bits · ln 2."""
    return float(bits * np.log(2))


def bits_of_nats(nats: Any) -> Any:
    """Nats (a number, array or column) converted to bits: nats / ln 2."""
    return nats / np.log(2)


def token_utilisation(gain: Any, d: int, vocabulary: int, *, bits: float = 16, k: int = 1) -> Any:
    """Token gain divided by ``theoretical_tokens``, a share (arXiv 2502.13063)."""
    return gain / theoretical_tokens(d, vocabulary, bits=bits, k=k)


def bits_per_dimension(gain_bits: Any, d: Any, *, k: int = 1) -> Any:
    """Information gain divided by the k·d numbers that carry it, bits per number."""
    return gain_bits / (k * d)


def compression_ratio(text_bytes: int, stored_bits: float) -> float:
    """Size of the UTF-8 text divided by the stored size. If it is below 1, the text itself is smaller."""
    return 8 * text_bytes / stored_bits


def explain(
    bits_without: Sequence[float],
    bits_with: Sequence[float],
    right_without: Sequence[bool],
    right_with: Sequence[bool],
    decoded_right: Sequence[bool],
) -> pd.DataFrame:
    """Where the two protocols differ for one run. All arrays are (n,), one entry per token of the passage.

    ``right_*``: argmax while the true text is fed. ``decoded_right``: right in the free-running decode. Columns:
    ``measure paper2025 exact``, and ``why`` the two differ.
    """
    bits_before, bits_after = np.asarray(bits_without, float), np.asarray(bits_with, float)
    right_before, fed = np.asarray(right_without, bool), np.asarray(right_with, bool)
    free = np.asarray(decoded_right, bool)
    n = len(fed)
    wrong = np.flatnonzero(~free)
    reached = int(wrong[0]) if len(wrong) else n
    accuracy = float(fed[1:].mean()) if n > 1 else float("nan")
    why_lower = "token 1 is never scored, and the true text is fed" if n > 1 else "with one token, nothing is scored"
    gain_1 = bits_before[0] - bits_after[0]
    why_first = f"token 1 gains {gain_1:.1f} bits" if np.isfinite(gain_1) else "without a vector, token 1 has no cost"
    rows = [
        ("tokens scored", n - 1, n, "the published code leaves token 1 out"),
        ("accuracy", accuracy, float(free.mean()), why_lower),
        ("holds the passage", accuracy >= 0.99, bool(free.all()), _verdict(accuracy >= 0.99, fed, reached, n)),
        (
            "tokens gained",
            token_gain(fed[1:].sum(), right_before[1:].sum()),
            token_gain(reached, right_before[:reached].sum()),
            "the published count feeds the true text; here only tokens before the first wrong one count",
        ),
        (
            "information gained, bits",
            information_gain(bits_before[1:], bits_after[1:]),
            information_gain(bits_before[:reached], bits_after[:reached]),
            f"{why_first}; the exact column ends at the first wrong token",
        ),
    ]
    return pd.DataFrame(rows, columns=["measure", "paper2025", "exact", "why"])


def _verdict(passes: bool, fed: np.ndarray, reached: int, n: int) -> str:
    if reached == n:
        return "decoded freely to the end" + ("" if passes else ", but below 99 % by the published count")
    where = f"decoding fails at token {reached + 1} of {n}"
    if not passes:
        return where
    if reached == 0:
        return f"{where}, which the published count leaves out"
    if not fed[reached]:
        return f"{where}; the published count allows one wrong token in a hundred"
    return f"{where}, although that token is right while the true text is fed: rounding, or a very small margin"


# Many runs -------------------------------------------------------------------------------------------------------


def require_one_recipe(runs: pd.DataFrame) -> None:
    """Raise ``MixedRecipesError`` if one model's runs use several recipes: pooled, they would describe no recipe.

    ``runs``: ``recipe`` (its name), and ``model`` if there are several. The seed may differ, and k with the growth that
    follows from k. The token budget may differ too: a run that it ends is censored, not worse.
    """
    if "recipe" not in runs:
        return
    plain = runs.recipe.map(lambda name: _with_one_vector(str(name)))
    models = runs.model if "model" in runs else pd.Series("", runs.index)
    for model, names in plain.groupby(models, dropna=False):
        if len(mixed := names.unique()) > 1:
            raise MixedRecipesError(
                f"The table has runs of several recipes{f' of {model}' if model else ''} ({', '.join(mixed)}). Keep "
                "the rows of one recipe, or write each recipe to its own table (--out)."
            )


def paper_estimates(runs: pd.DataFrame, *, threshold: float = 0.99) -> pd.DataFrame:
    """The published table's estimators (arXiv 2502.13063), one row per group (by ``model texts k``, if present).

    ``runs``, one row per run: ``length accuracy hits_with hits_without bits_with bits_without``, all over the tokens
    that the published code scores. ``max_tokens``: the largest length with a mean accuracy of at least ``threshold``.
    Gains: mean and standard deviation (n - 1) over the runs of any length with accuracy at most ``threshold``.
    """
    rows = []
    require_one_recipe(runs)
    for names, group in _groups(runs):
        means = group.groupby("length").accuracy.mean()
        # 1e-9, because the mean of seventeen times 0.99 is below 0.99 by a rounding error.
        passing = means[means >= threshold - 1e-9]
        failing = group[group.accuracy <= threshold + 1e-9]
        tokens = token_gain(failing.hits_with, failing.hits_without)
        gained = failing.bits_without - failing.bits_with
        rows.append(
            names
            | {
                "max_tokens": int(passing.index.max()) if len(passing) else 0,
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


@functools.cache
def _with_one_vector(name: str) -> str:
    """A recipe's name if it had one vector, seed 0 and no token budget. A name that is not a recipe's is unchanged.

    Tables hold a recipe's name only (``default k=2 seed=1``), so the recipe is read back from its name.
    """
    base, *fields = re.split(r" (?=\w+=)", name)
    try:
        changes = {field: _literal(value) for field, value in (pair.split("=", 1) for pair in fields)}
        recipe = Recipe.named(base, **changes)
    except (RecipeError, TypeError):
        return name
    grow = recipe.grow // recipe.k if recipe.grow % recipe.k == 0 else recipe.grow
    return recipe.replace(k=1, seed=0, token_budget=0, grow=grow).name


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # a word, such as ``sink``


def horizons(attempts: pd.DataFrame) -> pd.DataFrame:
    """One row per passage (and model, k, kind of text): its horizon, the cost of finding it, and where it failed.

    ``horizon``: tokens of the longest prefix that a stored vector decodes freely, also if the text was longer and not
    exact to its end. The horizon is a certified lower bound. ``failed_at``: the shortest ``tried`` length (tokens)
    above the horizon; no vector was exact there. If it is missing, the horizon is censored. A failure does not prove
    that no vector could hold that length. ``tried`` is the length of an attempt; if the text grew, the stage at which
    growth ended. ``bits_at_failure``: the cost with the best vector at ``failed_at``, bits per token.

    All attempts must be of one recipe (``require_one_recipe``).

    With the columns of ``probes.token_costs`` there are more: ``horizon_bits`` and ``failed_bits``, the cost of the two
    prefixes without the vector, and the gains on the horizon, ``token_gain`` and ``information_gain_bits``.
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
            after = np.asarray(best.token_bits_with, float)[:reached]
            row["token_gain"] = token_gain(reached, int(np.sum(np.asarray(best.token_right_without)[:reached])))
            row["information_gain_bits"] = information_gain(without, after)
        rows.append(row)
    return pd.DataFrame(rows)


def outcomes(attempts: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(exact, failed): one passage's exact attempts, and its failed attempts that are longer than every exact one."""
    exact = attempts[attempts.exact]
    return exact, attempts[~attempts.exact & (attempts.tokens > (exact.tokens.max() if len(exact) else 0))]


def exact_estimates(horizons: pd.DataFrame) -> pd.DataFrame:
    """Median exact horizon in tokens and bits, with 95 % intervals over passages, one row per group.

    ``horizons``, one row per passage: ``horizon`` (tokens), ``horizon_bits``, ``failed_at`` (tokens). If ``failed_at``
    is missing, no attempt failed above the horizon: the horizon is a lower bound, and an interval may be open.
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


def utilisations(horizons: pd.DataFrame, *, d: int, vocabulary: int) -> pd.DataFrame:
    """How much of one vector is used, by kind of text: median gains over passages, and gains relative to its size.

    ``horizons``, with one vector each: ``texts token_gain information_gain_bits``. Columns: ``token_gain`` (tokens),
    ``token_utilisation`` (a share, arXiv 2502.13063), ``information_gain_bits``, ``bits_per_dimension``.
    """
    gains = horizons.groupby("texts", sort=False)[["token_gain", "information_gain_bits"]].median()
    return pd.DataFrame(
        {
            "token_gain": gains.token_gain,
            "token_utilisation": token_utilisation(gains.token_gain, d, vocabulary),
            "information_gain_bits": gains.information_gain_bits,
            "bits_per_dimension": bits_per_dimension(gains.information_gain_bits, d),
        }
    )


def _groups(table: pd.DataFrame) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    names = [name for name in ("model", "texts", "k") if name in table]
    if not names:
        return [({}, table)]
    return [
        (dict(zip(names, key, strict=True)), group) for key, group in table.groupby(names, sort=False, observed=True)
    ]
