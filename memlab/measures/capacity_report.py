"""Summaries of a table of runs, as ``memlab capacity`` prints them. Intervals are 95 % over passages."""

from __future__ import annotations

import pandas as pd

from memlab.measures import capacity, capacity_fits
from memlab.measures.statistics import Estimate, median_interval, share_label


def summaries(runs: pd.DataFrame, d: int, vocabulary: int) -> dict[str, pd.DataFrame]:
    """Summaries of runs, by title. ``d`` (numbers per vector) and ``vocabulary`` (tokens) are the model's."""
    tables: dict[str, pd.DataFrame] = {}
    if not len(runs):
        return tables
    exact = runs[runs.protocol == "exact"]
    if len(exact):
        horizons = capacity.horizons(exact)
        tables["exact horizon: median, 95 % interval over passages; gains at the horizon, medians"] = _horizon_table(
            horizons, d, vocabulary
        ).round(3)
        tables["length at which half of the passages come back (n50)"] = _n50_of_horizons(exact, horizons)
        fewest_vectors = horizons[horizons.k == horizons.k.min()]
        if fewest_vectors.texts.nunique() > 1:
            tables["do kinds of text differ less in bits than in tokens? (spread in octaves)"] = (
                capacity_fits.information_not_length(fewest_vectors).round(3)
            )
        if horizons.k.nunique() > 1:
            tables["twice the vectors: ratio of horizons, passage by passage; medians"] = capacity_fits.doublings(
                horizons
            ).round(2)
    if len(fits := capacity_fits.saturations(runs)):
        fits["C"] = [format(estimate, ".0f") for estimate in fits.C]
        tables["a vector takes C bits off a text: with = max(0, without - C)"] = fits.round(3)
    fixed = runs[runs.protocol == "fixed"]
    if len(fixed):
        tables["length at which half of the passages come back (n50): logistic fit over the lengths tried"] = (
            n50_of_fixed_lengths(fixed)
        )
    equal = runs[runs.protocol == "equal"]
    if len(equal):
        tables["passages of equal bits: how many come back"] = exact_at_equal_bits(equal)
    for name in ("paper2025", "fixed"):
        paper = runs[runs.protocol == name]
        if not len(paper):
            continue
        table = capacity.paper_estimates(paper)
        table["utilisation"] = [
            capacity.token_utilisation(gain, d, vocabulary, k=k)
            for gain, k in zip(table.token_gain, table.k, strict=True)
        ]
        tables[f"{name}: largest length with mean accuracy >= 0.99; gains pooled over failing runs"] = table.round(3)
    return tables


def _horizon_table(horizons: pd.DataFrame, d: int, vocabulary: int) -> pd.DataFrame:
    table = capacity.exact_estimates(horizons)
    gains = horizons.groupby(["texts", "k"], sort=False)[["token_gain", "information_gain_bits"]].median()
    groups = list(zip(table.texts, table.k, strict=True))
    table["token gain"] = [gains.token_gain[group] for group in groups]
    table["utilisation"] = [
        capacity.token_utilisation(gains.token_gain[group], d, vocabulary, k=group[1]) for group in groups
    ]
    table["bits gained per dimension"] = [
        capacity.bits_per_dimension(gains.information_gain_bits[group], d, k=group[1]) for group in groups
    ]
    table["token gain per vector"] = [gains.token_gain[group] / group[1] for group in groups]
    for column in ("tokens", "bits"):
        table[column] = [format(estimate, ".0f") for estimate in table[column]]
    return table


def _n50_of_horizons(runs: pd.DataFrame, horizons: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for kind, k in runs[["texts", "k"]].drop_duplicates().itertuples(index=False):
        group = horizons[(horizons.texts == kind) & (horizons.k == k)]
        n50 = [format(capacity_fits.n50_of_search_interval(group, unit), ".0f") for unit in ("horizon", "horizon_bits")]
        rows.append((kind, k, *n50))
    return pd.DataFrame(rows, columns=["texts", "k", "n50, tokens", "n50, bits"])


def n50_of_fixed_lengths(runs: pd.DataFrame) -> pd.DataFrame:
    """n50 in tokens and in bits, if every passage was tried at every length: one row per k and kind of text, and all.

    Raises ``MixedRecipesError`` if the runs are of several recipes.
    """
    rows = []
    capacity.require_one_recipe(runs)
    for k, of_k in runs.groupby("k", sort=False):
        kinds = dict(tuple(of_k.groupby("texts", sort=False)))
        for kind, group in {**kinds, **({"all": of_k} if len(kinds) > 1 else {})}.items():
            n50 = [
                format(capacity_fits.n50_interval(group, size, draws=300), ".0f") for size in ("length", "bits_without")
            ]
            rows.append((kind, k, group.text_id.nunique(), *n50))
    return pd.DataFrame(rows, columns=["texts", "k", "passages", "n50, tokens", "n50, bits"])


def exact_at_equal_bits(runs: pd.DataFrame) -> pd.DataFrame:
    """How many passages of equal bits come back: one row per number of bits, kind of text and k.

    Raises ``MixedRecipesError`` if the runs are of several recipes.
    """
    rows = []
    capacity.require_one_recipe(runs)
    for (bits, kind, k), group in runs.groupby(["bits_asked", "texts", "k"], sort=False):
        rows.append((bits, kind, k, f"{group.length.median():.0f}", share_label(group.exact)))
    return pd.DataFrame(rows, columns=["bits", "texts", "k", "tokens, median", "exact"])


def ratio_of_horizons(horizons: pd.DataFrame, others: pd.DataFrame) -> Estimate:
    """Horizon in ``horizons`` divided by horizon in ``others``: median over passages, with a 95 % interval."""
    pairs = horizons.merge(others, on="text_id", suffixes=("", "_other"))
    # A horizon of 0 in ``others`` gives an infinite ratio, which a median allows. 0 over 0 counts as equal.
    return median_interval((pairs.horizon / pairs.horizon_other.astype(float)).fillna(1))
