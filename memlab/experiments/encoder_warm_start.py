"""Whether the per-sample search needs fewer steps if it starts from an encoder's vector instead of noise.

Five arms, on the same passages:

- **cold**: noise, the default recipe. Its first turn, by a right angle, ends at the first gradient.
- **own**: the passage's own encoding.
- **another**: the encoding of the next passage of its kind.
- **constant**: the mean direction of the encodings of other texts, the same for all passages.
- **gradient**: the vector after the first turn of the cold search. Its one gradient counts as a step.

Warm arms have no schedule behind them. Their first angle is one of ``RATES``; it is chosen on one half of the passages
and told on the other, see ``measures.encoder_gap``. What was expected is in ``measures.encoder_predictions``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from memlab.experiments.encoder_gap import searches
from memlab.experiments.landscape.soft import one_gradient
from memlab.experiments.session import Session
from memlab.experiments.tables import require_columns
from memlab.measures.encoder_gap import ARMS, WARM_COLUMNS
from memlab.models import FrozenLM, Passage
from memlab.recipes import Recipe
from memlab.texts import Text
from memlab.training.encoders import Encoder
from memlab.training.starts import on_sphere

LENGTHS = (16, 32, 64)
"""Tokens of the passages."""
RATES = (0.1, 0.2, 0.4)
"""First angles of the warm arms, radians. The cold arm keeps the recipe's own."""


def warm_start(
    session: Session,
    texts: Mapping[str, Sequence[Text]],
    encoder: Encoder,
    *,
    others: Sequence[Text],
    lengths: Sequence[int] = LENGTHS,
    rates: Sequence[float] = RATES,
    arms: Sequence[str] = ARMS,
    recipe: Recipe | None = None,
) -> pd.DataFrame:
    """One row per passage, arm and first angle, with the columns ``measures.encoder_gap.WARM_COLUMNS``.

    ``texts``: {kind: at least two texts}; passages are their first tokens. ``others``: the texts of the constant
    vector. Rows of ``session.resume_from`` are not measured again.
    """
    lm, recipe = session.lm, recipe or Recipe.default()
    table = session.resume_from if session.resume_from is not None else pd.DataFrame(columns=list(WARM_COLUMNS))
    require_columns(table, WARM_COLUMNS)
    for n in lengths:
        for kind, some in texts.items():
            passages = [lm.passage(text, n) for text in some]
            for arm in arms:
                for lr in (recipe.lr,) if arm == "cold" else rates:
                    here = (table.texts == kind) & (table.tokens == n) & (table.arm == arm) & (table.lr == lr)
                    if {p.span.id for p in passages} <= set(table.text_id[here]):
                        continue
                    starts = starts_of(encoder, arm, passages, others, recipe)
                    new = _rows(lm, passages, recipe.replace(lr=lr), starts, 1 if arm == "gradient" else 0)
                    new = new.assign(texts=kind, tokens=n, arm=arm, lr=lr, model=lm.name)[list(WARM_COLUMNS)]
                    table = pd.concat([table[~here], new], ignore_index=True) if len(table) else new
                    session.on_rows(table)
                    session.log(
                        f"{n} tokens, {kind}, {arm} {lr}: {new.steps.mean():.1f} steps, {int(new.exact.sum())} of "
                        f"{len(new)} exact, from {new.start_bits.mean() / n:.1f} bits a token, "
                        f"{new.seconds.mean():.1f} s a passage"
                    )
    return table


def starts_of(
    encoder: Encoder, arm: str, passages: Sequence[Passage], others: Sequence[Text], recipe: Recipe
) -> list[torch.Tensor] | None:
    """Where the searches of an arm start, (k, d) each; None: from noise."""
    lm = encoder.lm
    if arm == "cold":
        return None
    if arm == "gradient":
        return [one_gradient(lm, passage, recipe) for passage in passages]
    if arm == "constant":
        n = len(passages[0])
        encoded = torch.stack([encoder.encode(lm.passage(text, n).ids, recipe.k) for text in others])
        mean = torch.nn.functional.normalize(encoded, dim=-1).mean(0)
        steady = on_sphere(mean, recipe)
        return [steady] * len(passages)
    own = [on_sphere(encoder.encode(passage.ids, recipe.k), recipe) for passage in passages]
    return own[1:] + own[:1] if arm == "another" else own


def _rows(
    lm: FrozenLM, passages: Sequence[Passage], recipe: Recipe, starts: list[torch.Tensor] | None, before: int
) -> pd.DataFrame:
    rows = []
    for i, (passage, found) in enumerate(zip(passages, searches(lm, passages, recipe, starts), strict=True)):
        n, last = len(passage), torch.from_numpy(found.mem.mem.copy())
        first = starts[i] if starts is not None else None
        turned = np.nan
        if first is not None:
            turned = float(torch.nn.functional.cosine_similarity(first, last, dim=-1).mean())
        rows.append(
            {
                "text_id": passage.span.id,
                "steps": found.mem.steps + before,
                "exact": found.mem.exact,
                "start_bits": n * found.losses[0],
                "bits": n * found.losses[-1],
                "turned": turned,
                "seconds": found.seconds,
            }
        )
    return pd.DataFrame(rows)
