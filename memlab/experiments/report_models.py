"""Tables of the report about model types: where memlab works, and what is unusual. See ``report_tables``."""

from __future__ import annotations

import pandas as pd

from memlab.experiments.families import PASSAGES
from memlab.experiments.report_tables import Rows, table
from memlab.experiments.tables import stored

SAME = 1e-3
"""Largest relative difference of logits that the report does not mention."""


def _names(rows: pd.DataFrame) -> str:
    return ", ".join(f"`{name}`" for name in rows.model_type) or "–"


@table("families", "verdict | types | which")
def _families() -> Rows:
    measured = stored("families")
    works = measured[measured.verdict == "works"]
    yield "works", len(works), "all others"
    for verdict in ("hard", "refused", "not built", "failed"):
        some = measured[measured.verdict == verdict]
        yield verdict, len(some), _names(some)


@table("families-exact", "training in | types that can | vectors exact | confirmed without memlab and cache")
def _exact() -> Rows:
    measured = stored("families")
    for dtype in ("float32", "bfloat16"):
        some = measured.dropna(subset=[f"exact_{dtype}"])
        exact = some[f"exact_{dtype}"].sum()
        yield dtype, len(some), f"{exact:.0f} of {PASSAGES * len(some)}", f"{some[f'independent_{dtype}'].sum():.0f}"


@table("families-unusual", "among the types that work | types | which")
def _unusual() -> Rows:
    works = stored("families").query("verdict == 'works'")
    for what, some in (
        ("no usable cache, so each token is decoded from all earlier ones", works.cache == "none"),
        ("`logits_to_keep` takes no mask, so all logits are computed", works.logits_to_keep != "mask"),
        ("`generate` from embeddings writes other tokens than a greedy loop", works.generate == "differs"),
        ("`generate` refuses embeddings", works.generate.str.startswith("refuses")),
        (
            "cached and uncached logits differ by more than 0.001 within 48 tokens or the context",
            works.cached_vs_uncached > SAME,
        ),
        ("cannot run in bfloat16, so training uses float32", works.exact_bfloat16.isna()),
    ):
        yield what, int(some.sum()), _names(works[some])


@table("families-reasons", "type | why memlab does not work on it")
def _reasons() -> Rows:
    for row in stored("families").query("verdict in ('refused', 'not built', 'failed')").itertuples():
        reason = " ".join(row.reason.split()).removeprefix(f"tiny {row.model_type} cannot be used: ")
        yield f"`{row.model_type}`", reason.removesuffix(" Use a model of another family.").replace("|", "/")
