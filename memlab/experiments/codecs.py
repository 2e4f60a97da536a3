"""Sizes of the same passages under other codecs, among them a frozen model as an arithmetic coder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch

from memlab.experiments.precision import fewest_bits, precision
from memlab.measures import codecs
from memlab.models import FrozenLM, Passage
from memlab.probes.token_costs import own_bits
from memlab.results.mem_vector import MemVector


class Reader:
    """Distribution (V,) of the next token given the tokens so far: float32, batch 1, with the model's cache.

    Encoder and decoder both read one token at a time, so that they see the same numbers. A single pass over the text
    would round differently. ``first``: the distribution of the first token, if another reader has read it. Then the
    sink prefix is read together with the first token.
    """

    def __init__(self, lm: FrozenLM, first: np.ndarray | None = None) -> None:
        self._lm, self._seen, self._cache, self._first = lm, 0, None, first

    def __call__(self, so_far: Sequence[int]) -> np.ndarray:
        lm = self._lm
        if len(so_far) != self._seen:
            raise ValueError(f"Got {len(so_far)} tokens, expected {self._seen}. Read tokens once, in order.")
        self._seen += 1
        if not so_far and self._first is not None:
            return self._first
        fed = [*lm.sink_prefix, *map(int, so_far)] if self._cache is None else [int(so_far[-1])]
        if not fed:  # no context before the first token: all tokens are equally likely
            return np.full(lm.vocabulary, 1 / lm.vocabulary)
        ids = torch.tensor([fed], device=lm.device)
        logits, self._cache = lm.step(torch.float32, ids=ids, cache=self._cache)
        return torch.softmax(logits[0].double(), -1).cpu().numpy()


def shares_of(lm: FrozenLM, ids: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
    """The model's distribution (V,) for each token of ``ids``, given its sink prefix and the tokens before it."""
    reader, ids = Reader(lm), [int(i) for i in ids]
    for n in range(len(ids)):
        yield reader(ids[:n])


def encode(lm: FrozenLM, ids: Sequence[int] | np.ndarray) -> codecs.Coded:
    """Token ids as an arithmetic code. It decodes only with the same machine, library versions and thread count."""
    return codecs.encode([int(i) for i in ids], shares_of(lm, ids))


def decode(lm: FrozenLM, coded: codecs.Coded, tokens: int) -> np.ndarray:
    """The ids (n,) again. Raises ``codecs.CodecError`` if the data cannot come from this model."""
    return np.array(codecs.decode(coded, tokens, Reader(lm)), np.int64)


def coding(lm: FrozenLM, passages: Sequence[Passage], mems: Sequence[MemVector] = ()) -> pd.DataFrame:
    """One row per passage and codec: stored bits and, if decoding takes a model, whether it came back (``round_trip``).

    ``cross_entropy`` (bits, float32, one pass over the text) is the reference for arithmetic coding. ``mems``: exact
    vectors. Those of these passages are counted as float32 and in the coarsest form that still decodes
    (``precision.fewest_bits``). No size includes the number of tokens, which a decoder must also know.
    """
    rows = []
    wanted = {passage.ids.tobytes() for passage in passages}
    vectors = {mem.token_ids.tobytes(): mem for mem in mems if mem.exact and mem.token_ids.tobytes() in wanted}
    forms = precision(lm, list(vectors.values())) if vectors else pd.DataFrame()
    coarsest = fewest_bits(forms).set_index("key") if vectors else forms
    # Rounding differs between machines, so a vector with a small margin may fail here. Such vectors get no row.
    sound = set(forms.key[(forms.form == "float32") & forms.exact.astype(bool)]) if vectors else set()
    for passage in passages:
        columns = {"text_id": passage.span.id, "start": passage.span.start, "tokens": len(passage)}
        coded = encode(lm, passage.ids)
        try:
            round_trip = bool(np.array_equal(decode(lm, coded, len(passage)), passage.ids))
        except codecs.CodecError:
            round_trip = False
        ideal = float(own_bits(lm, passage.ids).sum())
        rows += [columns | {"codec": name, "bits": n} for name, n in codecs.general_bits(passage.string).items()]
        arithmetic = {"codec": f"arithmetic, {lm.name}", "bits": coded.bits, "round_trip": round_trip}
        rows.append(columns | arithmetic | {"cross_entropy": ideal})
        if (mem := vectors.get(passage.ids.tobytes())) and mem.key in sound:
            least = coarsest.loc[mem.key]
            columns |= {"round_trip": True}
            rows.append(columns | {"codec": "mem vector, float32", "bits": 32 * mem.mem.size})
            fewest = {"codec": "mem vector, fewest bits", "bits": least.stored_bits, "form": least.form}
            rows.append(columns | fewest)
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means per kind of text and codec: ``bits``, ``bits_a_token`` and ``ratio`` (size in UTF-8 over this size).

    ``table``: rows of ``coding``, with the kind of text in ``texts``. Passages that do not decode have no size, and are
    left out.
    """
    plain = table[table.codec == "UTF-8"].set_index(["texts", "text_id"]).bits
    ratio = plain.reindex(pd.MultiIndex.from_frame(table[["texts", "text_id"]])).to_numpy() / table.bits
    table = table.assign(bits_a_token=table.bits / table.tokens, ratio=ratio)
    stored = table[table.round_trip.isna() | (table.round_trip == True)]  # noqa: E712  # True, False or missing
    means = {"passages": ("bits", "size"), **{name: (name, "mean") for name in ("bits", "bits_a_token", "ratio")}}
    return stored.groupby(["texts", "codec"], sort=False).agg(**means).reset_index()
