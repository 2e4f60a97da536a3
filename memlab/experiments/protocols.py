"""Capacity by two protocols on the same texts: what comes back exactly, and what arXiv 2502.13063 counts.

``exact`` climbs to each passage's horizon; ``fixed_lengths`` crams every passage at every length, with the published
recipe or another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from memlab.experiments.gains import gains
from memlab.experiments.horizon import attempt_row, horizon
from memlab.models import FrozenLM, PassageError
from memlab.recipes import Recipe
from memlab.runs import Plan, run
from memlab.store import Store
from memlab.texts import Text

GRID = range(32, 257, 16)
"""Lengths the exact protocol tries with one vector, tokens; k vectors try k times these."""
FIRST = 128
"""The one it begins with."""


def exact(
    lm: FrozenLM,
    texts: Mapping[str, Sequence[Text]],
    store: Store,
    *,
    ks: Sequence[int] = (1,),
    counts: Sequence[int] | None = None,
    lengths: Sequence[int] = GRID,
    first: int = FIRST,
    attempts: int = 2,
    recipe: Recipe | None = None,
    start: int | str = 0,
    progress: bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """``horizon`` for each kind of text and each k, with ``gains``: one row an attempt.

    ``texts`` by kind. ``counts``: passages of each kind, one number for each k; the first that are long enough for the
    first length tried.
    """
    recipe = recipe or Recipe.default()
    tables = []
    for k, count in zip(ks, counts or [0] * len(ks), strict=True):
        for kind, given in texts.items():
            long_enough = [text for text in given if _has(lm, text, k * first, start)]
            chosen = long_enough[: count or None]
            if len(chosen) < (count or len(given)):
                wanted = count or len(given)
                tell(f"{kind}, k = {k}: {len(chosen)} of {wanted} texts have the {k * first} tokens to begin with")
            if chosen:
                tell(f"{kind}, k = {k}: {len(chosen)} passages")
                found = horizon(
                    lm, chosen, store, lengths=[k * n for n in lengths], first=k * first, attempts=attempts,
                    recipe=recipe.replace(k=k), start=start, progress=progress, tell=tell,
                )  # fmt: skip
                tables.append(found.assign(texts=kind))
    return _measured(lm, store, tables, "exact")


def fixed_lengths(
    lm: FrozenLM,
    texts: Mapping[str, Sequence[Text]],
    store: Store,
    *,
    recipe: Recipe,
    protocol: str,
    ks: Sequence[int] = (1,),
    counts: Sequence[int] | None = None,
    lengths: Sequence[int] = (16, 32),
    start: int | str = 0,
    progress: bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """Every passage at every length, with ``gains``: one row a run, under the name ``protocol``.

    ``capacity.paper_estimates`` makes the published table of it. With ``Recipe.paper2025`` this is the published
    mathematics in our batching: their code takes one passage a time, and loss and gradient are the same.
    """
    tables = []
    for k, count in zip(ks, counts or [0] * len(ks), strict=True):
        for kind, given in texts.items():
            chosen = list(given)[: count or None]
            # By the length that was asked for: where a cut is moved back by a token, it is still that length's run.
            plans = [
                (t, n, Plan.grid(lm, [t], tokens=n, recipes=recipe.replace(k=k), start=start))
                for t in chosen
                for n in lengths
            ]
            pairs = [(text, n, job) for text, n, plan in plans for job in plan]
            for what, why in (left for *_, plan in plans for left in plan.rejected):
                tell(f"left out: {what}: {why}")
            report = run(Plan(tuple({job.key: job for *_, job in pairs}.values())), store, progress=progress)
            found = {mem.key: mem for mem in report.results}
            for key, why in report.failed.items():
                tell(f"failed: {key[:12]}: {why}")
            rows = [attempt_row(text, n, job.recipe.seed, found[job.key]) for text, n, job in pairs if job.key in found]
            tell(f"{kind}, k = {k}: {len(rows)} runs, {report.trained} of them now, {report.seconds:.0f} s")
            tables.append(pd.DataFrame(rows).assign(texts=kind, k=k))
    return _measured(lm, store, tables, protocol)


def _measured(lm: FrozenLM, store: Store, tables: Sequence[pd.DataFrame], protocol: str) -> pd.DataFrame:
    """The runs with what their tokens cost; accuracy is that of the tokens scored."""
    tables = [table for table in tables if len(table)]
    if not tables:
        return pd.DataFrame({"protocol": []})
    runs = pd.concat(tables, ignore_index=True)
    # Two texts may begin alike, and then share a vector: whose run it is, the run says.
    measured = gains(lm, [store.get(key) for key in runs.key]).drop(columns=["key", "text_id", "length"])
    kept = runs[[name for name in runs if name not in measured]]
    return pd.concat([kept, measured], axis=1).assign(protocol=protocol, model=lm.name)


def _has(lm: FrozenLM, text: Text, tokens: int, start: int | str) -> bool:
    try:
        lm.passage(text, tokens, start=start)
    except PassageError:
        return False
    return True
