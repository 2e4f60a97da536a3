"""Do exact vectors stay exact in other programs, kernels and dtypes? One row per vector and destination.

Every destination gets ``to_embeds(mem)`` and writes ``mem.n`` tokens freely at batch 1, without help from the text.

Predictions, written before the run on the vectors of ``data/store`` (32 tokens, k = 1). Tried by hand before, on
another choice of vectors: eager attention, bfloat16 and float16 50 of 50, weights in int8 48 of 50, llama.cpp 48 of 48
up to 32 tokens and 15 of 16 at 64. Predicted from that:

- float32, whatever the attention and whoever drives it (``generate``, PEFT): 50 of 50.
- bfloat16 and float16, through ``generate`` or PEFT: 50 of 50.
- Linear weights in int8: 46 to 50 of 50 at 32 tokens. At 64 tokens fewer: 80 % to 95 %.
- llama.cpp: 49 or 50 of 50 at 32 tokens, all 32 at 8 and 16 tokens, at 64 tokens 85 % to 97 %.
- The stored margin does not predict which vectors fail (area under the ROC curve 0.4 to 0.7 among equal lengths).
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from memlab.decoding.decode import decode
from memlab.decoding.embeddings import to_embeds
from memlab.decoding.llama_cpp import LlamaCpp, require_installed
from memlab.decoding.peft import export_peft
from memlab.experiments.precision import exact_vectors
from memlab.experiments.session import Session
from memlab.experiments.tables import require_columns
from memlab.measures.statistics import Estimate, bootstrap, share_interval
from memlab.models import FrozenLM, ModelError
from memlab.models.probe import cast
from memlab.models.sources import gguf_file
from memlab.results.mem_vector import MemVector

Writer = Callable[[MemVector], np.ndarray]
COLUMNS = ("key", "text_id", "tokens", "k", "margin", "destination", "right", "exact", "first_wrong")


@dataclass(frozen=True)
class Destination:
    """A program, with its kernel and dtype, in which vectors are decoded."""

    name: str
    open: Callable[[FrozenLM], Writer]
    """From the vectors' model to a function that writes the ids of a vector. Raises ``ModelError`` if it cannot run."""
    counts: Mapping[int, int] = field(default_factory=lambda: {32: 50})
    """{length of the passages in tokens: number of vectors}."""


def _memlab(lm: FrozenLM) -> Writer:
    return lambda mem: decode(lm, [mem], batch=1)[0]


def _plain(lm: FrozenLM, dtype: torch.dtype) -> Any:
    """The model in ``dtype`` as transformers makes it, without memlab's layers."""
    return (
        lm.model if dtype == torch.float32 else cast(lm.model, dtype, lm.embed(np.arange(4)[None]), lm.name, pack=False)
    )


def _generate(change: Callable[[FrozenLM], Any]) -> Callable[[FrozenLM], Writer]:
    """``generate`` of transformers, on the model that ``change`` makes."""

    def start(lm: FrozenLM) -> Writer:
        model = change(lm)

        def write(mem: MemVector) -> np.ndarray:
            embeds = to_embeds(mem, lm)[None].to(model.device, model.dtype)
            ids = model.generate(inputs_embeds=embeds, **_settings(mem))
            return np.asarray(ids[0].cpu())

        return write

    return start


def _settings(mem: MemVector) -> dict[str, Any]:
    return dict(max_new_tokens=mem.n, do_sample=False, eos_token_id=None, pad_token_id=0)


def _eager(lm: FrozenLM) -> Any:
    model = copy.deepcopy(lm.model)
    model.set_attn_implementation("eager")
    return model


def _int8(lm: FrozenLM) -> Any:
    """Weight-only int8: each row of each linear layer, the output head too, has its own scale (absmax)."""
    model = copy.deepcopy(lm.model)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            scale = layer.weight.abs().amax(1, keepdim=True).clamp_min(1e-30) / 127
            # A new parameter: the head may share its weights with the embedding, which stays as it is.
            layer.weight = torch.nn.Parameter((layer.weight / scale).round() * scale, requires_grad=False)
    return model


def _peft(dtype: torch.dtype) -> Callable[[FrozenLM], Writer]:
    def start(lm: FrozenLM) -> Writer:
        try:
            import peft
        except ImportError:
            raise ModelError("peft is not installed. Run `pip install peft`.") from None

        def write(mem: MemVector) -> np.ndarray:
            nothing = torch.empty(1, 0, dtype=torch.long, device=lm.device)
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PEFT warns that it computes the positions itself
                model = peft.PeftModel.from_pretrained(_plain(lm, dtype), export_peft(mem, folder, lm))
                return np.asarray(model.generate(input_ids=nothing, **_settings(mem))[0].cpu())

        return write

    return start


def _llama_cpp(lm: FrozenLM) -> Writer:
    require_installed()  # before a file of 100 MB is fetched and joined
    with tempfile.TemporaryDirectory() as folder:
        engine = LlamaCpp(gguf_file(lm.name, Path(folder)))
    return lambda mem: engine.decode(to_embeds(mem, lm), mem.n)


DESTINATIONS = {
    destination.name: destination
    for destination in (
        Destination("memlab, float32", _memlab),
        Destination("generate, float32", _generate(lambda lm: lm.model)),
        Destination("generate, float32, eager attention", _generate(_eager)),
        Destination("generate, bfloat16", _generate(lambda lm: _plain(lm, torch.bfloat16))),
        Destination("generate, float16", _generate(lambda lm: lm.weights(torch.float16))),
        Destination("generate, linear weights in int8", _generate(_int8), {32: 50, 64: 39}),
        Destination("PEFT, float32", _peft(torch.float32)),
        Destination("PEFT, bfloat16", _peft(torch.bfloat16)),
        Destination("llama.cpp, the GGUF file", _llama_cpp, {8: 16, 16: 16, 32: 50, 64: 39}),
    )
}
"""Every destination by its name."""


def travel(session: Session, destinations: Mapping[str, Destination] = DESTINATIONS) -> pd.DataFrame:
    """A row per exact vector of the session's store and destination, with the columns ``COLUMNS``.

    ``right``: tokens of the passage that the free decode writes at their place. ``margin``: the stored margin, logits.
    The vectors are the first by key of each length. Rows of ``session.resume_from`` are not computed again. A
    destination that cannot run on this machine is left out, and the log says why.
    """
    lm = session.lm
    earlier = session.resume_from if session.resume_from is not None else pd.DataFrame(columns=list(COLUMNS))
    require_columns(earlier, COLUMNS)
    rows = earlier.to_dict("records")
    done = {(row["key"], row["destination"]) for row in rows}
    for destination in destinations.values():
        mems = [
            mem
            for tokens, count in destination.counts.items()
            for mem in exact_vectors(session.store, lm, count, tokens=tokens)
            if (mem.key, destination.name) not in done
        ]
        if not mems:
            continue
        try:
            write = destination.open(lm)
        except ModelError as error:
            session.log(f"{destination.name}: left out. {error}")
            continue
        for mem in mems:
            rows.append(_row(mem, destination.name, write(mem)))
            session.on_rows(pd.DataFrame(rows, columns=list(COLUMNS)))
        exact = sum(row["exact"] for row in rows[-len(mems) :])
        session.log(f"{destination.name}: {exact} of {len(mems)} are exact")
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(mem: MemVector, destination: str, ids: np.ndarray) -> dict[str, Any]:
    same = ids == mem.token_ids if len(ids) == mem.n else np.zeros(mem.n, bool)
    return {
        "key": mem.key,
        "text_id": mem.text.id,
        "tokens": mem.n,
        "k": mem.k,
        "margin": mem.margin,
        "destination": destination,
        "right": int(same.sum()),
        "exact": bool(same.all()),
        "first_wrong": None if same.all() else int(same.argmin()),
    }


def arrived(table: pd.DataFrame) -> pd.DataFrame:
    """The exact vectors of each destination and length: ``destination tokens exact vectors texts low high``.

    ``low`` and ``high``: Wilson interval of the share. It counts all vectors of a text as one.
    """
    rows = []
    for (destination, tokens), group in table.groupby(["destination", "tokens"], sort=False):
        texts = group.text_id.nunique()
        interval = share_interval(group.groupby("text_id").exact.mean().sum(), texts)
        rows.append((destination, tokens, int(group.exact.sum()), len(group), texts, *interval))
    return pd.DataFrame(rows, columns=["destination", "tokens", "exact", "vectors", "texts", "low", "high"])


def margin_auc(table: pd.DataFrame) -> Estimate:
    """How well a small stored margin predicts a failure, with a bootstrap interval over texts.

    The share of pairs (a vector that fails, a vector that does not) of one destination and length in which the failing
    vector has the smaller margin; a tie counts as half. 1: perfect, 0.5: no better than chance.
    """

    def share(t: pd.DataFrame) -> float:
        won = pairs = 0.0
        for _, group in t.groupby(["destination", "tokens"]):
            failed, held = group.margin[~group.exact].to_numpy(), group.margin[group.exact].to_numpy()
            ahead = held[None, :] - failed[:, None]
            won, pairs = won + (ahead > 0).sum() + (ahead == 0).sum() / 2, pairs + ahead.size
        return won / pairs if pairs else float("nan")

    return bootstrap(share, table)
