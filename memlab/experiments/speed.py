"""memlab and two published methods on the same passages, machine and run: time and token passes per decoded passage.

The published methods run as published: one passage at a time, float32, torch's AdamW, the model's own forward with all
its logits. They use no part of memlab's training engine.
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
from memlab.recipes import Recipe, RecipeError
from memlab.results.mem_vector import MemVector
from memlab.scoring.timing import device_name, machine_rate, peak_memory, step_flops, training_step
from memlab.training.cram import cram
from memlab.training.preconditioner import measure_preconditioner
from memlab.training.starts import initial_mem

PUBLISHED = {"paper2025": Recipe.paper2025, "progressive2026": Recipe.progressive2026}
MACHINE = ("device", "threads", "model", "fingerprint")
"""Columns that identify the machine and the model. Seconds are compared only between rows that agree in them."""


def published(lm: FrozenLM, passage: Passage, recipe: Recipe) -> dict[str, Any]:
    """Train as the research code does: (k, d) vectors in float32, batch 1, until every scored token is the argmax.

    ``recipe``: ``Recipe.paper2025`` (arXiv 2502.13063) or ``Recipe.progressive2026`` (arXiv 2607.21231), or a variant.
    Returns the best vectors as they were scored (not after the next update), and steps, token passes and seconds.
    """
    began = time.perf_counter()
    ids = torch.tensor(passage.ids, device=lm.device)
    embedded = lm.embed(ids)
    mem = torch.nn.Parameter(initial_mem(lm, passage, recipe).to(lm.device))
    optimizer = torch.optim.AdamW([mem], lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)
    first = recipe.first_scored - 1
    length = recipe.grow or len(ids)
    best, best_step, reached, best_mem, passes = -1, 0, 0, mem.detach().clone(), 0
    for step in range(recipe.budget + 1):
        fed = torch.cat([mem, embedded[:length]])[None]
        logits = lm.model(inputs_embeds=fed, use_cache=False).logits[0, recipe.k - 1 + first : -1]
        loss = cross_entropy(logits, ids[first:length])
        right = int((logits.argmax(-1) == ids[first:length]).sum())
        passes += length
        done = right == length - first
        if done or (right > best and not (recipe.grow and reached)):
            best, best_mem = right, mem.detach().clone()
            if done or not recipe.grow:  # a growing text counts its patience from the start of a stage
                best_step = step
        if done:
            reached = length
            if length == len(ids):
                break
            length = min(len(ids), length + recipe.grow)  # the text grows; the optimizer keeps its state
        if step == recipe.budget or step - best_step >= recipe.patience:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {
        "mem": best_mem.cpu().numpy(),
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
    """One row per method and passage. ``out`` (Parquet) is written after each and read first, so a run can resume.

    ``seconds`` covers training and the final decode. memlab trains all passages together, ``repeats`` times, and a
    passage's seconds are its share, by token passes, of the median wall time. ``fastest`` and ``slowest``: the extreme
    wall times, relative to the median. ``once_seconds``: time to measure the preconditioner, once per model.
    ``decode_seconds``: the final decode at batch 1, a part of ``seconds``. ``decoded``: for ``paper2025`` with the
    first token given, because its code never trains that token; for the others from the vector alone. ``changes``:
    changes to the published recipes, which tests use to shorten them.
    """
    if unknown := [method for method in against if method not in PUBLISHED]:
        raise RecipeError(f"There is no published recipe {unknown[0]!r}. Use one of: {', '.join(PUBLISHED)}.")
    machine_values = (device_name(lm.device), torch.get_num_threads(), lm.name, lm.fingerprint)
    machine = dict(zip(MACHINE, machine_values, strict=True))
    table, others = _resumed(out, machine, log)
    names = [f"{p.span.id}:{len(p)}" for p in passages]

    def add(rows: list[dict[str, Any]]) -> None:
        nonlocal table
        table = pd.concat([table, pd.DataFrame([row | machine for row in rows])], ignore_index=True)
        write_table(pd.concat([table, others], ignore_index=True), out)

    ours = recipe or Recipe.default()
    mine = table[(table.method == "memlab") & (table.recipe == ours.canonical())]
    if set(mine.passage) != set(names):  # times depend on which passages train together
        table = table[table.method != "memlab"]
        add(_ours(lm, passages, names, ours, repeats))
        log(f"memlab: {table.seconds[table.method == 'memlab'].sum():.0f} s for {len(passages)} passages")
    for passage, name in sorted(zip(passages, names, strict=True), key=lambda pair: len(pair[0])):
        for method in against:
            theirs = PUBLISHED[method](**(changes or {}))
            present = (table.method == method) & (table.passage == name) & (table.recipe == theirs.canonical())
            if present.any():
                continue
            add([_theirs(lm, passage, name, method, theirs)])
            log(f"{method} {name}: {table.seconds.iloc[-1]:.0f} s, decoded: {bool(table.decoded.iloc[-1])}")
    return table[table.passage.isin(names)].reset_index(drop=True)


def _resumed(
    out: Path | None, machine: dict[str, Any], log: Callable[[str], object]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of ``out`` that this machine made with these weights, and the others, which stay in the file.

    Times of different machines cannot be compared.
    """
    table = read_table(out)
    if table is None:
        none = pd.DataFrame({"method": [], "passage": [], "recipe": []})
        return none, none.iloc[:0]
    require_columns(table, ("method", "passage", "recipe"))
    fits = np.all([table[name] == value if name in table else False for name, value in machine.items()], axis=0)
    if not fits.all():
        log(f"{(~fits).sum()} rows of {out} are from another machine or other weights: they stay, but do not count")
    return table[fits].reset_index(drop=True), table[~fits]


def _ours(
    lm: FrozenLM, passages: Sequence[Passage], names: Sequence[str], recipe: Recipe, repeats: int
) -> list[dict[str, Any]]:
    # This first run is not timed: a process sets up only once (weights in bfloat16, first pass).
    cram(lm, passages[0], recipe.replace(budget=1), progress=False)
    once = _seconds(lambda: measure_preconditioner(lm)) if recipe.whiten else 0.0
    mems: list[MemVector] = []
    walls = [_seconds(lambda: cram(lm, list(passages), recipe, progress=False)) for _ in range(repeats - 1)]
    # Memory sampling slows this run slightly. It still counts as one of the repeats, without correction.
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
    trained: dict[str, Any] = {}
    peak = peak_memory(lambda: trained.update(published(lm, passage, recipe)), lm.device)
    mem = MemVector(
        mem=trained["mem"],
        token_ids=passage.ids,
        prefix_ids=np.array([], np.int64),
        suffix_ids=np.array([], np.int64),
        model=lm.name,
        revision=lm.revision,
        fingerprint=lm.fingerprint,
        recipe=recipe,
        text=passage.span,
        steps=trained["steps"],
        seconds=trained["seconds"],
    )
    forward = step_flops(lambda: published(lm, passage, recipe.replace(budget=0, grow=0)))
    # The backward pass to the vectors costs as much as the forward pass.
    flops = 2 * forward * trained["token_passes"] / len(passage)
    began = time.perf_counter()
    check = decoding.check(lm, mem, first_given=recipe.first_scored > 1)
    decode = time.perf_counter() - began
    return {
        "method": method,
        "passage": name,
        "text_id": passage.span.id,
        "tokens": len(passage),
        "decoded": check.passed,
        "steps": trained["steps"],
        "token_passes": trained["token_passes"],
        "seconds": trained["seconds"] + decode,
        "decode_seconds": decode,
        # A failure costs its whole budget, even if patience ended it early. For a growing text, patience is the budget.
        "full_seconds": decode
        + trained["seconds"] * (1 if check.passed or recipe.grow else recipe.budget / max(1, trained["steps"])),
        "accuracy": trained["accuracy"],
        "tokens_per_second": trained["token_passes"] / trained["seconds"],
        "machine_share": flops / trained["seconds"] / machine_rate(lm.device, torch.float32),
        "peak_gib": peak / 2**30,
        "dtype": "float32",
        "recipe": recipe.canonical(),
    }


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ratios(table: pd.DataFrame, *, draws: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Time per decoded passage: published method over memlab, with 95 % bootstrap intervals over texts.

    Texts are drawn with all their lengths, the same texts for both methods. Machines are compared separately.

    ``both decode``: over passages that both methods decode. ``with failures``: seconds of all passages, failures at
    their full budget, over the number that decode. ``with failures, as they stopped``: failures at the time they took,
    because published code may stop before its budget is spent. ``with failures, and the metric``: as if memlab had to
    measure the preconditioner for these passages alone.
    """
    if machine := [name for name in MACHINE if name in table]:
        by_machine = [
            ratios(rows.drop(columns=machine), draws=draws, seed=seed).assign(**dict(zip(machine, values, strict=True)))
            for values, rows in table.groupby(machine, sort=False, dropna=False)
        ]
        return pd.concat(by_machine, ignore_index=True)
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
            numbers = np.array(columns, float)

            def ratio(i: np.ndarray, numbers: np.ndarray = numbers, once: float = once) -> Any:
                their_seconds, our_seconds, they_decode, we_decode = numbers[:, i].sum(1)
                with np.errstate(divide="ignore", invalid="ignore"):
                    return (their_seconds / they_decode) / ((our_seconds + once) / we_decode)

            values = np.array([ratio(i) for i in drawn])
            enough = np.isnan(values).mean() <= 0.05  # NaN: a draw in which no passage decodes
            low, high = np.nanquantile(values, [0.025, 0.975]) if enough else (np.nan, np.nan)
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
