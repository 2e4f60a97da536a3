"""Tables of the report about trained encoders and smaller models. See ``report_tables``."""

from __future__ import annotations

import numpy as np
import pandas as pd

from memlab.charts.encoders import ARMS
from memlab.experiments.report_tables import Rows, percent, table
from memlab.experiments.tables import stored
from memlab.measures import smaller_models
from memlab.measures.encoder_gap import encoder_summary, gap_in_units, of_the_search, savings
from memlab.measures.statistics import Estimate


@table(
    "encoder-gap",
    "tokens in vectors | texts | passages | recovered | net of another text's | beyond the constant | exact prefix | "
    "steps of the search to this loss | its steps to exact",
)
def _encoder_gap() -> Rows:
    gap = stored("encoder-gap")
    found = encoder_summary(gap[gap.encoder == "slots"])
    for row in found.sort_values(["k", "tokens"], kind="stable").itertuples():
        reached = "–" if np.isnan(row.steps_to_loss) else _interval(_estimate(row, "steps"), "{:.1f}")
        yield (
            f"{row.tokens} in {row.k}", row.texts, row.passages, _share(row.recovered, row.low, row.high),
            percent(row.net), _or_dash(row.beyond_constant), f"{row.exact_prefix:.1f}", reached,
            f"{row.search_steps:g}",
        )  # fmt: skip


@table("encoder-variants", "encoder | tokens in vectors | recovered, prose | net of another text's | exact prefix")
def _encoder_variants() -> Rows:
    gap = stored("encoder-gap")
    found = encoder_summary(gap[(gap.texts == "originals") & (gap.encoder != "slots")])
    for row in found.sort_values(["encoder", "k", "tokens"], kind="stable").itertuples():
        recovered = _share(row.recovered, row.low, row.high)
        yield row.encoder, f"{row.tokens} in {row.k}", recovered, percent(row.net), f"{row.exact_prefix:.1f}"


@table("encoder-units", "unit | the search | the encoder | ratio")
def _encoder_units() -> Rows:
    gap = stored("encoder-gap")
    for row in gap_in_units(gap[gap.encoder == "slots"], *of_the_search(stored("capacity"))).itertuples():
        yield (
            row.unit, f"{row.search:.4g}", f"{row.encoder:.3g}", f"{row.ratio:.3g} [{row.low:.3g}, {row.high:.3g}]"
        )  # fmt: skip


@table("warm-start", "start | tokens | passages | steps from noise | steps | saved | first angle")
def _warm_start() -> Rows:
    told = savings(stored("warm-start"))
    told = told[told.texts == "all"]
    for arm in [name for name in ARMS if name in set(told.arm)]:
        for row in told[told.arm == arm].itertuples():
            yield (
                ARMS[arm], row.tokens, row.passages, f"{row.cold:.1f}", f"{row.steps:.1f}",
                _share(row.saved, row.low, row.high), f"{row.lr:g}",
            )  # fmt: skip


@table(
    "smaller-models",
    "model | kind | bits per weight | bits more per token | stored vectors exact | their bits recovered | "
    "new vectors exact | steps | bits a new vector takes off, over the full model's",
)
def _smaller_models() -> Rows:
    for row in smaller_models.summary(stored("smaller-models")).itertuples():
        held = "–" if np.isnan(row.held_share) else f"{row.held_share:.2f} [{row.held_low:.2f}, {row.held_high:.2f}]"
        yield (
            row.model, row.kind, f"{row.weight_bits:.1f}", f"{row.more_bits:+.2f}", _or_dash(row.transfer_exact),
            _or_dash(row.transfer_recovered), _or_dash(row.search_exact),
            "–" if np.isnan(row.search_steps) else f"{row.search_steps:g}", held,
        )  # fmt: skip


def _estimate(row: object, name: str) -> Estimate:
    to = "steps_to_loss" if name == "steps" else name
    return Estimate(*(float(getattr(row, part)) for part in (to, f"{name}_low", f"{name}_high")))


def _interval(value: Estimate, spec: str) -> str:
    return f"{spec.format(value.value)} [{spec.format(value.low)}, {spec.format(value.high)}]"


def _share(value: float, low: float, high: float) -> str:
    return "–" if pd.isna(value) else f"{percent(value)} [{100 * low:.0f}, {100 * high:.0f}]"


def _or_dash(value: float) -> str:
    return "–" if pd.isna(value) else percent(value)
