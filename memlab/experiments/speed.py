"""Ours against the published ways, on the same passages, machine and run: time and passes per passage that decodes.

The published ways are run as published: one passage at a time, float32, torch's AdamW, the model's own forward with
all its logits. Nothing of memlab's engine is in them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cross_entropy

from memlab.decoding import decode as decoding
from memlab.experiments.tables import read_table, require_columns, write_table
from memlab.models import FrozenLM, Passage
from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector
from memlab.scoring.timing import device_name, machine_rate, peak_memory, step_flops, training_step
from memlab.training.cram import cram
from memlab.training.job import initial_mem
from memlab.training.preconditioner import measure_preconditioner

PUBLISHED = {"paper2025": Recipe.paper2025, "progressive2026": Recipe.progressive2026}
MACHINE = ("device", "threads", "model", "fingerprint")
"""Columns that say whose seconds a row has: only rows that agree in them are compared."""


def published(lm: FrozenLM, passage: Passage, recipe: Recipe) -> dict[str, Any]:
    """Train as research code does: (k, d) vectors in float32, batch 1, until all scored tokens are argmax.

    ``recipe``: ``Recipe.paper2025`` (arXiv 2502.13063) or ``Recipe.progressive2026`` (arXiv 2607.21231), or like them.
    Returns the vectors that were measured (not those one step newer), steps, token passes and seconds of training.
    """
    began = time.perf_counter()
    ids = torch.tensor(passage.ids, device=lm.device)
    embedded = lm.embed(ids)
    mem = torch.nn.Parameter(initial_mem(lm, passage, recipe).to(lm.device))
    optimiser = torch.optim.AdamW([mem], lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)
    first = recipe.first_scored - 1
    length = recipe.grow or len(ids)
    best, best_step, reached, kept, passes = -1, 0, 0, mem.detach().clone(), 0
    for step in range(recipe.budget + 1):
        fed = torch.cat([mem, embedded[:length]])[None]
        logits = lm.model(inputs_embeds=fed, use_cache=False).logits[0, recipe.k - 1 + first : -1]
        loss = cross_entropy(logits, ids[first:length])
        right = int((logits.argmax(-1) == ids[first:length]).sum())
        passes += length
        done = right == length - first
        if done or (right > best and not (recipe.grow and reached)):
            best, kept = right, mem.detach().clone()
            best_step = step if done or not recipe.grow else best_step  # a stage's steps count from its start
        if done:
            reached = length
            if length == len(ids):
                break
            length = min(len(ids), length + recipe.grow)  # grown: the optimiser goes on as it is
        if step == recipe.budget or step - best_step >= recipe.patience:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {
        "mem": kept.cpu().numpy(),
        "steps": step,
        "token_passes": passes,
        "seconds": time.perf_counter() - began,
        "accuracy": best / (len(ids) - first),
        "reached": reached,
    }


def speed(
    lm: FrozenLM,
    passages: Sequence[Passage],
    *,
    out: Path | None = None,
    against: Sequence[str] = ("paper2025", "progressive2026"),
    recipe: Recipe | None = None,
    changes: dict[str, Any] | None = None,
    repeats: int = 3,
    log: Callable[[str], object] = lambda line: None,
) -> pd.DataFrame:
    """One row a method and passage; ``out`` (Parquet) is written after each and read first, so it can be resumed.

    ``seconds`` covers training and the final decode. Ours trains all passages together, ``repeats`` times: a passage's
    seconds are its share of the median wall time, by token passes; ``fastest`` and ``slowest`` say how far the walls
    lay apart, ``once_seconds`` what the model's metric took, which is measured once a model, and ``decode_seconds``,
    a part of ``seconds``, what the final decode takes at batch 1. ``decoded`` is, for ``paper2025``, with the first
    token given (its code never trains that one); for the others from the vector alone. ``changes`` shortens the
    published recipes, in tests.
    """
    here = (device_name(lm.device), torch.get_num_threads(), lm.name, lm.fingerprint)
    machine = dict(zip(MACHINE, here, strict=True))
    table, others = _resumed(out, machine, log)
    names = [f"{p.span.id}:{len(p)}" for p in passages]

    def keep(rows: list[dict[str, Any]]) -> None:
        nonlocal table
        table = pd.concat([table, pd.DataFrame([row | machine for row in rows])], ignore_index=True)
        write_table(pd.concat([table, others], ignore_index=True), out)

    ours = recipe or Recipe.default()
    mine = table[(table.method == "memlab") & (table.recipe == ours.canonical())]
    if set(mine.passage) != set(names):  # they shared their passes: other company, other times
        table = table[table.method != "memlab"]
        keep(_ours(lm, passages, names, ours, repeats))
        log(f"memlab: {table.seconds[table.method == 'memlab'].sum():.0f} s for {len(passages)} passages")
    for passage, name in sorted(zip(passages, names, strict=True), key=lambda pair: len(pair[0])):
        for method in against:
            theirs = PUBLISHED[method](**(changes or {}))
            there = (table.method == method) & (table.passage == name) & (table.recipe == theirs.canonical())
            if there.any():
                continue
            keep([_theirs(lm, passage, name, method, theirs)])
            log(f"{method} {name}: {table.seconds.iloc[-1]:.0f} s, decoded: {bool(table.decoded.iloc[-1])}")
    return table[table.passage.isin(names)].reset_index(drop=True)


def _resumed(
    out: Path | None, machine: dict[str, Any], log: Callable[[str], object]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of ``out`` that this machine made with these weights, and the others: they stay, but their times are not
    to be set beside ours.
    """
    table = read_table(out)
    if table is None:
        none = pd.DataFrame({"method": [], "passage": [], "recipe": []})
        return none, none.iloc[:0]
    require_columns(table, ("method", "passage", "recipe"))
    fits = np.all([table[name] == value if name in table else False for name, value in machine.items()], axis=0)
    if not fits.all():
        log(f"{(~fits).sum()} rows of {out} are of another machine or other weights: they stay, uncounted")
    return table[fits].reset_index(drop=True), table[~fits]


def _ours(
    lm: FrozenLM, passages: Sequence[Passage], names: Sequence[str], recipe: Recipe, repeats: int
) -> list[dict[str, Any]]:
    # What a process needs once is not a passage's time: weights in bf16, the first pass's own set-up.
    cram(lm, passages[0], recipe.replace(budget=1), progress=False)
    once = _seconds(lambda: measure_preconditioner(lm)) if recipe.whiten else 0.0
    mems: list[MemVector] = []
    walls = [_seconds(lambda: cram(lm, list(passages), recipe, progress=False)) for _ in range(repeats - 1)]
    # Its watching takes a little time, too: that run is one of those counted, and is told from none.
    peak = peak_memory(
        lambda: walls.append(_seconds(lambda: mems.extend(cram(lm, list(passages), recipe, progress=False)))), lm.device
    )
    wall = float(np.median(walls))
    decodes = [_seconds(partial(decoding.check, lm, mem)) for mem in mems]
    passes = np.array([mem.provenance["token_passes"] for mem in mems], float)
    flops = step_flops(training_step(lm, 8, 32)) / (8 * 32)  # a token pass
    rate = machine_rate(lm.device, lm.dtype)
    return [
        {
            "method": "memlab",
            "passage": name,
            "text_id": mem.text.id,
            "tokens": mem.n,
            "decoded": mem.exact,
            "steps": mem.steps,
            "token_passes": int(n),
            "seconds": wall * n / passes.sum(),
            "full_seconds": wall * n / passes.sum(),
            "fastest": min(walls) / wall,
            "slowest": max(walls) / wall,
            "once_seconds": once,
            "decode_seconds": decode,
            "accuracy": mem.teacher_forced,
            "tokens_per_second": passes.sum() / wall,
            "machine_share": flops * passes.sum() / wall / rate,
            "peak_gib": peak / 2**30,
            "dtype": str(lm.dtype).removeprefix("torch."),
            "recipe": recipe.canonical(),
        }
        for name, mem, n, decode in zip(names, mems, passes, decodes, strict=True)
    ]


def _theirs(lm: FrozenLM, passage: Passage, name: str, method: str, recipe: Recipe) -> dict[str, Any]:
    made: dict[str, Any] = {}
    peak = peak_memory(lambda: made.update(published(lm, passage, recipe)), lm.device)
    mem = MemVector(
        mem=made["mem"],
        token_ids=passage.ids,
        prefix_ids=np.array([], np.int64),
        suffix_ids=np.array([], np.int64),
        model=lm.name,
        revision=lm.revision,
        fingerprint=lm.fingerprint,
        recipe=recipe,
        parent=None,
        text=passage.span,
        steps=made["steps"],
        seconds=made["seconds"],
        trace={},
        provenance={},
    )
    forward = step_flops(lambda: published(lm, passage, recipe.replace(budget=0, grow=0)))
    flops = 2 * forward * made["token_passes"] / len(passage)  # the way back to the vectors costs the same again
    began = time.perf_counter()
    check = decoding.check(lm, mem, first_given=recipe.first_scored > 1)
    decode = time.perf_counter() - began
    return {
        "method": method,
        "passage": name,
        "text_id": passage.span.id,
        "tokens": len(passage),
        "decoded": check.passed,
        "steps": made["steps"],
        "token_passes": made["token_passes"],
        "seconds": made["seconds"] + decode,
        "decode_seconds": decode,
        # A failure costs its whole budget, whatever a rule of patience spared. A growing text's budget is its patience.
        "full_seconds": decode
        + made["seconds"] * (1 if check.passed or recipe.grow else recipe.budget / max(1, made["steps"])),
        "accuracy": made["accuracy"],
        "tokens_per_second": made["token_passes"] / made["seconds"],
        "machine_share": flops / made["seconds"] / machine_rate(lm.device, torch.float32),
        "peak_gib": peak / 2**30,
        "dtype": "float32",
        "recipe": recipe.canonical(),
    }


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ratios(table: pd.DataFrame, *, draws: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Time per decoded passage, published over ours, with 95 % bootstrap intervals over texts (paired): the lengths of
    one text are drawn together. Each machine by itself: seconds of two are not to be set beside each other.

    ``both decode``: over passages that both decode. ``with failures``: seconds of all passages, failures at the full
    budget, over the number that decode. ``with failures, as they stopped``: at what they took, since published code may
    give up before its budget is spent. ``with failures, and the metric``: as if ours had to measure the model's metric
    for these passages alone.
    """
    if machine := [name for name in MACHINE if name in table]:
        of_each = [
            ratios(rows.drop(columns=machine), draws=draws, seed=seed).assign(**dict(zip(machine, values, strict=True)))
            for values, rows in table.groupby(machine, sort=False, dropna=False)
        ]
        return pd.concat(of_each, ignore_index=True)
    rng = np.random.default_rng(seed)
    ours = table[table.method == "memlab"].set_index("passage")
    rows = []
    for method in [m for m in table.method.unique() if m != "memlab"]:
        theirs = table[table.method == method].set_index("passage")
        names = [name for name in ours.index if name in theirs.index]
        a, b = theirs.loc[names], ours.loc[names]
        both = (a.decoded & b.decoded).to_numpy(bool)
        texts = [np.flatnonzero((b.text_id == name).to_numpy()) for name in b.text_id.unique()]
        drawn = [np.concatenate([texts[i] for i in pick]) for pick in rng.integers(0, len(texts), (draws, len(texts)))]
        failing = (a.full_seconds, b.full_seconds, a.decoded, b.decoded)
        spent = {
            "both decode": (a.seconds * both, b.seconds * both, both, both, 0.0),
            "with failures": (*failing, 0.0),
            "with failures, as they stopped": (a.seconds, b.seconds, a.decoded, b.decoded, 0.0),
            "with failures, and the metric": (*failing, float(b.once_seconds.iloc[0])),
        }
        for name, (*columns, once) in spent.items():
            their, our, they_decode, we_decode = (np.asarray(column, float) for column in columns)

            def ratio(i: np.ndarray, t: Any = (their, they_decode), o: Any = (our, we_decode), once: Any = once) -> Any:
                with np.errstate(divide="ignore", invalid="ignore"):
                    return (t[0][i].sum() / t[1][i].sum()) / ((o[0][i].sum() + once) / o[1][i].sum())

            each = np.array([ratio(i) for i in drawn])
            told = np.isnan(each).mean() <= 0.05  # draws in which no passage decodes say nothing
            low, high = np.nanquantile(each, [0.025, 0.975]) if told else (np.nan, np.nan)
            count = int(both.sum()) if name == "both decode" else len(names)
            rows.append((method, name, float(ratio(np.arange(len(names)))), float(low), float(high), count))
    return pd.DataFrame(rows, columns=["method", "over", "ratio", "low", "high", "passages"])


def by_method(table: pd.DataFrame) -> pd.DataFrame:
    """One row per method: passages, how many decode, and medians over passages; peak memory is the largest."""
    columns = ("seconds", "steps", "token_passes", "tokens_per_second", "machine_share")
    summary = table.groupby("method", sort=False).agg(
        passages=("decoded", "size"),
        decoded=("decoded", "sum"),
        **{name: (name, "median") for name in columns},
        peak_gib=("peak_gib", "max"),
    )
    return summary.round(2).reset_index()
