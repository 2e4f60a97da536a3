"""A frozen model as an arithmetic coder: the same passages, and what else could have been stored of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch

from memlab.experiments.precision import fewest_bits, precision
from memlab.measures import codecs
from memlab.models import FrozenLM, Passage
from memlab.results.mem_vector import MemVector


class _Reader:
    """Shares (V,) of the next token after those so far, one at a time, float32, batch 1, with the model's cache.

    Encoding and decoding ask in the same order, so that they see the same numbers: rounding would differ between one
    pass over the text and one token after another.
    """

    def __init__(self, lm: FrozenLM) -> None:
        self._lm, self._seen, self._cache = lm, 0, None

    def __call__(self, so_far: Sequence[int]) -> np.ndarray:
        lm = self._lm
        fed = [*lm.sink_prefix] if not so_far else [int(so_far[-1])]
        if len(so_far) != self._seen:
            raise ValueError(f"{len(so_far)} tokens so far, {self._seen} expected: tokens are read once, in order")
        self._seen += 1
        if not fed:  # nothing stands before the first token: any is as likely
            return np.full(lm.vocabulary, 1 / lm.vocabulary)
        ids = torch.tensor([fed], device=lm.device)
        logits, self._cache = lm.step(torch.float32, ids=ids, cache=self._cache)
        return torch.softmax(logits[0].double(), -1).cpu().numpy()


def shares_of(lm: FrozenLM, ids: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
    """The model's distribution (V,) for each token of ``ids`` after its sink prefix and the tokens before it."""
    reader, ids = _Reader(lm), [int(i) for i in ids]
    for n in range(len(ids)):
        yield reader(ids[:n])


def encode(lm: FrozenLM, ids: Sequence[int] | np.ndarray) -> codecs.Coded:
    """Token ids as few bits as the model can make of them. Decodes on the same machine, versions and threads only."""
    return codecs.encode([int(i) for i in ids], shares_of(lm, ids))


def decode(lm: FrozenLM, coded: codecs.Coded, tokens: int) -> np.ndarray:
    """The (n,) ids back. Raises ``codecs.CodecError`` where the data cannot have come from this model."""
    return np.array(codecs.decode(coded, tokens, _Reader(lm)), np.int64)


def coding(lm: FrozenLM, passages: Sequence[Passage], mems: Sequence[MemVector] = ()) -> pd.DataFrame:
    """One row a passage and codec: stored bits, and does it come back (``round_trip``), where decoding takes a model.

    ``cross_entropy`` (bits, float32, one pass over the text) is what arithmetic coding is held against. ``mems``: exact
    vectors, some of them of these passages: as they are, and in the coarsest form that still decodes
    (``precision.fewest_bits``). No size counts what a decoder must be told besides: how many tokens there are.
    """
    rows = []
    wanted = {passage.ids.tobytes() for passage in passages}
    held = {mem.token_ids.tobytes(): mem for mem in mems if mem.exact and mem.token_ids.tobytes() in wanted}
    asked = precision(lm, list(held.values())) if held else pd.DataFrame()
    coarsest = fewest_bits(asked).set_index("key") if held else asked
    # Another machine's rounding may undo a vector of small margin: what does not decode here stands in no row.
    sound = set(asked.key[(asked.form == "float32") & asked.exact.astype(bool)]) if held else set()
    for passage in passages:
        told = {"text_id": passage.span.id, "start": passage.span.start, "tokens": len(passage)}
        coded = encode(lm, passage.ids)
        try:
            back = bool(np.array_equal(decode(lm, coded, len(passage)), passage.ids))
        except codecs.CodecError:
            back = False
        bits = lm.token_bits(passage.ids)
        # A first token with nothing before it was coded as one of the whole vocabulary.
        ideal = float(np.where(np.isnan(bits), np.log2(lm.vocabulary), bits).sum())
        rows += [told | {"codec": name, "bits": n} for name, n in codecs.general_bits(passage.string).items()]
        rows.append(
            told | {"codec": f"arithmetic, {lm.name}", "bits": coded.bits, "round_trip": back, "cross_entropy": ideal}
        )
        if (mem := held.get(passage.ids.tobytes())) and mem.key in sound:
            least = coarsest.loc[mem.key]
            rows += [
                told | {"codec": "mem vector, float32", "bits": 32 * mem.k * mem.d, "round_trip": True},
                told
                | {
                    "codec": "mem vector, fewest bits",
                    "bits": least.stored_bits,
                    "round_trip": True,
                    "form": least.form,
                },
            ]
    return pd.DataFrame(rows)
