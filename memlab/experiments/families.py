"""Compatibility: which causal model types of transformers memlab works on, tiny and random, and why not on the others.

A vector that is exact counts only if plain transformers, without memlab and without a cache, also writes its text.

Predictions, written before the run on transformers 5.23: at least 165 of 189 types can be built tiny; at least 135 of
them work; at most 15 are refused; every vector that memlab calls exact is exact for plain transformers, too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from typing import Any

import numpy as np
import pandas as pd
import torch

from memlab.errors import MemlabError
from memlab.experiments.tables import require_columns
from memlab.experiments.tiny_models import NotBuiltError, causal_types, text_type, tiny_model
from memlab.models import FrozenLM, ModelError, PassageError
from memlab.models.probe import SAME, relative
from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector
from memlab.texts import originals
from memlab.training.cram import cram

COLUMNS = (
    "model_type",
    "model_class",
    "transformers",
    "ids_vs_embeddings",
    "cached_vs_uncached",
    "cache",
    "generate",
    "logits_to_keep",
    "exact_float32",
    "independent_float32",
    "exact_bfloat16",
    "independent_bfloat16",
    "verdict",
    "reason",
)
PASSAGES, TOKENS, VECTORS, BUDGET = 3, 6, 4, 150
SECONDS, BYTES = 600, 10 << 30
"""Limits of one type."""
INDENTED = "def f(x):\n    if x:\n\treturn  x\n"


def families(
    model_types: Sequence[str] = (),
    *,
    resume_from: pd.DataFrame | None = None,
    log: Callable[[str], object] = print,
    on_rows: Callable[[pd.DataFrame], object] = lambda _: None,
) -> pd.DataFrame:
    """One row per causal model type of the installed transformers, sorted by name.

    ``ids_vs_embeddings``: relative difference of the logits. ``cached_vs_uncached``: the same, between decoding with
    the cache and one pass, over 48 tokens or the context; NaN without a usable cache. ``generate``: whether the model's
    own ``generate`` from embeddings is our greedy loop. ``exact_float32``, ``exact_bfloat16``: exact vectors of
    ``PASSAGES``, by the dtype of training; NaN if the model cannot run in it. ``independent_float32``,
    ``independent_bfloat16``: how many of them a plain greedy loop without cache confirms. ``verdict``: works, hard
    (nothing was exact within the budget), refused, not built, or failed (an exact vector was not confirmed, a trained
    one does not decode, or an error).

    Rows of ``resume_from`` are kept, if they are of this version of transformers, except those of ``model_types``.
    Each type runs in a process of its own, because configurations of transformers can need any time and memory.
    """
    import transformers

    known = causal_types()
    if unknown := [name for name in model_types if name not in known]:
        raise UnknownTypeError(f"transformers {transformers.__version__} has no causal model type {unknown[0]!r}.")
    rows: dict[str, dict[str, Any]] = {}
    if resume_from is not None and len(resume_from):
        require_columns(resume_from, COLUMNS)
        same = resume_from[resume_from.transformers == transformers.__version__]
        rows = {row["model_type"]: row for row in same.to_dict("records") if row["model_type"] not in model_types}
    missing = [name for name in model_types or known if name not in rows]
    # A type whose text part is another type has the class of that one, so it gets its row.
    parts = {name: part for name in missing if (part := text_type(name)) is not None}
    for name in dict.fromkeys([*(n for n in missing if n not in parts), *parts.values()]):
        if name not in rows:
            rows[name] = _row(name) | _measured_elsewhere(name)
            log(f"{len(rows)} of {len(known)}: {name}: {rows[name]['verdict']} {rows[name]['reason']}".rstrip())
            on_rows(_table(rows))
    for name, part in parts.items():
        rows[name] = rows[part] | {"model_type": name, "reason": f"its text part is {part}. {rows[part]['reason']}"}
    on_rows(table := _table(rows))
    return table


class UnknownTypeError(MemlabError, LookupError):
    """The installed transformers has no causal model type of this name."""

    exit_code = 2


def _table(rows: dict[str, dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([rows[name] for name in sorted(rows)], columns=list(COLUMNS))


def _row(model_type: str) -> dict[str, Any]:
    import transformers

    empty: dict[str, Any] = dict.fromkeys(COLUMNS, "")
    empty |= {name: float("nan") for name in COLUMNS if name.startswith(("ids_", "cached_", "exact_", "independent_"))}
    return empty | {
        "model_type": model_type,
        "model_class": causal_types()[model_type],
        "transformers": transformers.__version__,
    }


def _measured_elsewhere(model_type: str) -> dict[str, Any]:
    """``measure`` in a new process, with limits of time and memory."""
    context = get_context("forkserver")  # imports torch once; a plain fork would copy the threads of torch
    context.set_forkserver_preload([__name__, "transformers"])
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(model_type, writer), daemon=True)
    process.start()
    writer.close()
    try:
        if not reader.poll(SECONDS):
            return {"verdict": "failed", "reason": f"not finished within {SECONDS} seconds"}
        return reader.recv()
    except EOFError:
        process.join()
        return {"verdict": "failed", "reason": f"the process ended with code {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _child(model_type: str, writer: Any) -> None:
    import resource

    import transformers

    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        writer.send(measure(model_type))
    except Exception as error:  # a row, not a traceback: the other types still run
        writer.send({"verdict": "failed", "reason": f"{type(error).__name__}: {error}"})


def measure(model_type: str) -> dict[str, Any]:
    """What one type does: the columns of its row that are not empty."""
    try:
        model = tiny_model(model_type)
    except NotBuiltError as error:
        return {"verdict": "not built", "reason": str(error)}
    try:
        lm = FrozenLM.from_model(model, name=f"tiny {model_type}", device="cpu", dtype=torch.float32)
    except ModelError as error:
        return {"verdict": "refused", "reason": str(error)}
    row = facts(lm) | {"verdict": "hard", "reason": ""}
    for first, dtype in enumerate((torch.float32, torch.bfloat16)):
        try:
            lm.weights(dtype)
        except ModelError as error:
            return row | {"reason": str(error)}
        lm.dtype = dtype
        mems = train_some(lm, first=first * PASSAGES)
        exact = [mem for mem in mems if mem.exact]
        right = [mem for mem in exact if confirmed(model, mem)]
        name = str(dtype).removeprefix("torch.")
        row |= {f"exact_{name}": len(exact), f"independent_{name}": len(right)}
        if len(right) < len(exact):
            return row | {"verdict": "failed", "reason": f"{name}: plain transformers does not confirm every vector"}
        if [mem for mem in mems if mem.teacher_forced == 1 and not mem.exact]:
            return row | {"verdict": "failed", "reason": f"{name}: a vector was trained to the end and does not decode"}
        if right:
            row["verdict"] = "works"
    return row


def train_some(lm: FrozenLM, count: int = PASSAGES, *, first: int = 0) -> list[MemVector]:
    """Vectors for ``TOKENS`` random tokens each. ``first`` chooses other passages."""
    low = min(3, lm.vocabulary - 1)  # the first ids of a tiny model are special
    ids = [np.random.default_rng(first + i).integers(low, lm.vocabulary, TOKENS) for i in range(count)]
    passages = [lm.passage_of_ids(row, name=f"random-{first + i}") for i, row in enumerate(ids)]
    return cram(lm, passages, Recipe.default(k=VECTORS, budget=BUDGET), progress=False)


@torch.no_grad()
def confirmed(model: Any, mem: MemVector) -> bool:
    """Whether a greedy loop over whole passes of the bare model, without memlab and cache, writes the passage."""
    embedding = model.get_input_embeddings()
    parts = [embedding(torch.tensor(mem.prefix_ids)), torch.tensor(mem.mem), embedding(torch.tensor(mem.suffix_ids))]
    fed = torch.cat(parts)[None]
    for token in mem.token_ids:
        written = model(inputs_embeds=fed.clone(), use_cache=False).logits[0, -1].argmax()
        if written != token:
            return False
        fed = torch.cat([fed, embedding(written[None, None])], 1)
    return True


# One model --------------------------------------------------------------------------------------------------------


def describe(lm: FrozenLM, *, train: bool = False) -> dict[str, Any]:
    """``facts``, and the model's name, dtypes, tokenizer, context and sink prefix. ``train``: also train a vector.

    ``bfloat16``: relative difference of the logits from those of float32, or why the model cannot run in it.
    """
    out = {"model": lm.name, "model_class": type(lm.model).__name__, "model_type": lm.family.model_type, **facts(lm)}
    out |= {"bfloat16": _bfloat16(lm), "tokenizer": _tokenizer(lm)}
    out |= {"context": lm.context, "sink_prefix": list(lm.sink_prefix)}
    if train:
        (mem,) = train_some(lm, count=1)
        out |= {"trained": "exact" if mem.exact else "not exact", "steps": mem.steps}
    return out


@torch.no_grad()
def _bfloat16(lm: FrozenLM) -> float | str:
    try:
        model = lm.weights(torch.bfloat16)
    except ModelError as error:
        return str(error)
    rows = lm.embed(_random_ids(lm, min(24, lm.context or 24)))
    exact = lm.model(inputs_embeds=rows.clone(), use_cache=False).logits
    return relative(model(inputs_embeds=rows.bfloat16(), use_cache=False).logits, exact)


def _tokenizer(lm: FrozenLM) -> str:
    """Whether the tokenizer writes texts back, character for character."""
    if lm.tokenizer is None:
        return "none"
    samples = {
        "English": originals()[0].string[:60],
        "other scripts": "naïve Москва 東京 العربية 🙂",
        "code": INDENTED,
    }
    lost = []
    for name, sample in samples.items():
        try:
            passage = lm.passage(sample)
            ok = passage.string == sample and lm.decode_ids(passage.ids) == sample
        except PassageError:
            ok = False
        lost += [] if ok else [name]
    return "does not write back: " + ", ".join(lost) if lost else "writes every sample back"


def facts(lm: FrozenLM) -> dict[str, Any]:
    """How a model takes vectors: five columns of ``families``. About forty passes over few tokens."""
    return {
        "ids_vs_embeddings": lm.behaviour.ids_difference,
        "cached_vs_uncached": _cache_difference(lm) if lm.behaviour.cache_name else float("nan"),
        "cache": lm.behaviour.cache_name or "none",
        "generate": _generate(lm),
        "logits_to_keep": _logits_to_keep(lm),
    }


def _random_ids(lm: FrozenLM, count: int) -> torch.Tensor:
    low = min(3, lm.vocabulary - 1)
    return torch.from_numpy(np.random.default_rng(0).integers(low, lm.vocabulary, count)).to(lm.device)[None]


@torch.no_grad()
def _cache_difference(lm: FrozenLM, length: int = 48) -> float:
    """Relative difference between one pass and decoding, for the second half of ``length`` tokens.

    The probe at load compares ten tokens. These are more than the windows and blocks of a tiny model.
    """
    ids = _random_ids(lm, min(length, lm.context or length))
    rows, half = lm.embed(ids), ids.shape[1] // 2
    expected = lm.model(inputs_embeds=rows.clone(), use_cache=False).logits[0, half - 1 :]
    logits, cache = lm.step(torch.float32, embeddings=rows[:, :half])
    got = [logits]
    for at in range(half, ids.shape[1]):
        logits, cache = lm.step(torch.float32, ids=ids[:, at : at + 1], cache=cache)
        got.append(logits)
    return relative(torch.cat(got), expected)


@torch.no_grad()
def _generate(lm: FrozenLM, given: int = 8) -> str:
    """Whether the model's own ``generate`` from embeddings writes what our greedy loop writes."""
    rows = lm.embed(_random_ids(lm, given))
    logits, cache = lm.step(torch.float32, embeddings=rows)
    written = [logits.argmax(-1)]
    for _ in range(TOKENS - 1):
        logits, cache = lm.step(torch.float32, ids=written[-1][None], cache=cache)
        written.append(logits.argmax(-1))
    settings = dict(max_new_tokens=TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0)
    try:
        ids = lm.model.generate(inputs_embeds=rows.clone(), **settings)[0]
    except Exception as error:  # families refuse embeddings in many ways
        return f"refuses: {type(error).__name__}"
    return "same" if ids.tolist() == torch.cat(written).tolist() else "differs"


@torch.no_grad()
def _logits_to_keep(lm: FrozenLM) -> str:
    """What the argument takes: a mask of positions, their indices, or nothing, so that all logits are computed."""
    if lm.behaviour.takes_mask:
        return "mask"
    rows, at = lm.embed(_random_ids(lm, 8)), torch.tensor([2, 5], device=lm.device)
    expected = lm.model(inputs_embeds=rows.clone(), use_cache=False).logits[:, at]
    try:
        some = lm.model(inputs_embeds=rows.clone(), use_cache=False, logits_to_keep=at).logits
    except Exception:  # the argument is missing, or is a number only
        return "ignored"
    return "index" if relative(some, expected) < SAME else "ignored"
