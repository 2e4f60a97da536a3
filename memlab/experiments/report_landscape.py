"""Tables of the report about the landscape: ways to store a text, side by side. See ``report_tables``."""

from __future__ import annotations

import numpy as np
import pandas as pd

from memlab.experiments.fewer_bits import ratios
from memlab.experiments.landscape.prefix_tuning import summary as places
from memlab.experiments.report_tables import Rows, percent, table
from memlab.experiments.tables import stored, stored_landscape
from memlab.measures import landscape
from memlab.measures.systems import FAMILIES


@table(
    "landscape",
    "after | its cheapest method per recovered bit | what it is | bits stored per bit | recovered, prose | "
    "net of the control | exact | recovered, random words",
)
def _landscape() -> Rows:
    points = landscape.summary(stored_landscape())
    points = points.assign(price=(points.stored_share / points.recovered_share.where(points.recovered_share > 0.05)))
    prose, words = (points[points.texts == kind].set_index("method") for kind in ("originals", "random"))
    for (family, system), some in prose.groupby(["family", "system"], sort=False):
        name = some.price.idxmin() if some.price.notna().any() else some.recovered_share.idxmax()
        best, other = some.loc[name], words.loc[name] if name in words.index else None
        recovered = f"{percent(best.recovered_share)} [{100 * best.low:.0f}, {100 * best.high:.0f}]"
        net = "–" if pd.isna(best.net_share) else percent(best.net_share)
        yield (
            system, name, FAMILIES[family], f"{best.stored_share:,.3g}", recovered, net,
            f"{best.exact} of {best.passages}", "–" if other is None else percent(other.recovered_share),
        )  # fmt: skip


@table("fewer-bits", "method | tokens | vectors | stored bits over those of signed integers, median | bits per number")
def _fewer_bits() -> Rows:
    found = ratios(stored("fewer-bits"))
    for row in found[found.texts == "all"].sort_values("tokens", ascending=False, kind="stable").itertuples():
        yield (
            row.method,
            row.tokens,
            row.vectors,
            f"{row.ratio:.2f} [{row.low:.2f}, {row.high:.2f}]",
            f"{row.bits_a_number:.2f}",
        )


@table(
    "every-layer",
    "place of the vector | passages | numbers | exact horizon, tokens, median | times an input vector | "
    "numbers per token | bits per number | steps, median | exact at the longest length tried",
)
def _every_layer() -> Rows:
    for row in places(stored("prefix-tuning")).rename(columns=lambda name: name.replace(" ", "_")).itertuples():
        times = "–" if np.isnan(row.times_an_input_vector) else f"{row.times_an_input_vector:.1f}"
        yield (
            row.where, row.passages, f"{row.numbers:,}", f"{row.horizon:g}", times, f"{row.numbers_a_token:.1f}",
            f"{row.bits_a_number:.2f}", f"{row.steps:g}", row.open,
        )  # fmt: skip


@table(
    "information-capacity",
    "model | bits of text per token | bits of its code per token | FLOPs per token | capacity, mixed bias | "
    "without bias",
)
def _information_capacity() -> Rows:
    for row in stored("information-capacity").itertuples():
        yield (
            row.model, f"{row.text_bits:.2f}", f"{row.code_bits:.2f}", f"{row.flops:.3g}",
            f"{row.capacity_mixed:.3f}", f"{row.capacity_without_bias:.3f}",
        )  # fmt: skip
