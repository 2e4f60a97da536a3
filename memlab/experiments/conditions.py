"""What stands in the context of a use of a vector: the vector and its controls, and what the model makes of them.

Every context is the sink prefix and then the rows of a ``Condition``. The controls of a passage's vector are another
passage's vector, a random vector of the same length, the real text of the passage, and nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from memlab.decoding.first_use import check_first_use
from memlab.experiments.session import Session
from memlab.measures.use import ANOTHER, NOTHING, RANDOM, TEXT, VECTOR
from memlab.models import FrozenLM, Passage
from memlab.probes.attention import attention_layers
from memlab.probes.hidden_attention import eager_attention, hiding
from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store
from memlab.training.cram import cram, key_of
from memlab.training.encoders import Encoder


@dataclass(frozen=True)
class Condition:
    """What stands after the sink prefix, for each passage."""

    name: str
    k: int
    """Number of vectors; 0 for the text and for nothing."""
    rows: tuple[torch.Tensor, ...]
    """Input vectors (c, d) per passage, float32."""


@dataclass(frozen=True)
class Reading:
    """What a text of n tokens costs the model after a context."""

    bits: np.ndarray
    """(n,) bits of each token. A token that nothing precedes is one of the vocabulary, all equally likely."""
    choices: np.ndarray
    """(n,) the model's first choice at each token; -1 for a token that nothing precedes."""

    def right(self, ids: np.ndarray) -> np.ndarray:
        """(n,) whether the first choice is the true token."""
        return self.choices == np.asarray(ids)


def trained_vectors(
    session: Session, passages: Sequence[Passage], ks: Sequence[int], shelf: Store | None
) -> dict[int, list[torch.Tensor]]:
    """{k: vectors (k, d) of the default recipe, one per passage}. What ``shelf`` lacks is trained into the store."""
    found = {}
    for k in ks:
        mems = results_of(session, passages, Recipe.default(k=k), shelf)
        if lost := [mem.text.id for mem in mems if not mem.exact]:
            session.log(f"k = {k}: the vectors of these texts are not exact: {', '.join(lost)}")
        found[k] = [torch.from_numpy(mem.mem.copy()).to(session.lm.device) for mem in mems]
    return found


def results_of(session: Session, passages: Sequence[Passage], recipe: Recipe, shelf: Store | None) -> list[MemVector]:
    """One result of a recipe per passage. What ``shelf`` lacks is trained into the store."""
    lm = session.lm
    keys = [key_of(lm, passage, recipe) for passage in passages]
    stored = [shelf.get(key) for key in dict.fromkeys(keys) if key in shelf] if shelf is not None else []
    mems = {mem.key: mem for mem in check_first_use(lm, stored)}
    missing = {key: passage for key, passage in zip(keys, passages, strict=True) if key not in mems}
    if missing:
        session.log(
            f"{len(missing)} vectors with k = {recipe.k} and seed {recipe.seed} are trained, or taken from the store"
        )
        trained = cram(lm, list(missing.values()), recipe, session.store, progress=session.progress)
        mems |= dict(zip(missing, trained, strict=True))
    return [mems[key] for key in keys]


def random_like(vectors: torch.Tensor, ids: np.ndarray) -> torch.Tensor:
    """Random directions (k, d) with the lengths of ``vectors`` (k, d). They depend only on k, d and the passage."""
    name = f"memlab random vector {len(vectors)} {np.asarray(ids).tolist()}"
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1
    noise = torch.randn(*vectors.shape, generator=torch.Generator().manual_seed(seed)).to(vectors.device)
    return torch.nn.functional.normalize(noise, dim=-1) * vectors.norm(dim=-1, keepdim=True)


def conditions(
    lm: FrozenLM,
    passages: Sequence[Passage],
    vectors: Mapping[int, Sequence[torch.Tensor]],
    encoders: Mapping[str, Encoder] | None = None,
) -> list[Condition]:
    """Nothing, the text, and per k: the vectors, the next passage's, random ones, and those of trained encoders."""
    empty = lm.embed(np.zeros(0, np.int64)).reshape(0, lm.d)
    found = [
        Condition(NOTHING, 0, (empty,) * len(passages)),
        Condition(TEXT, 0, tuple(lm.embed(passage.ids) for passage in passages)),
    ]
    for k, own in vectors.items():
        rows = tuple(own)
        drawn = tuple(random_like(each, passage.ids) for each, passage in zip(own, passages, strict=True))
        found += [Condition(VECTOR, k, rows), Condition(ANOTHER, k, _next(rows)), Condition(RANDOM, k, drawn)]
        for name, encoder in (encoders or {}).items():
            encoded = tuple(encoder.encode(passage.ids, k).to(lm.device) for passage in passages)
            found += [Condition(f"encoding by {name}", k, encoded)]
            found += [Condition(f"another encoding by {name}", k, _next(encoded))]
    return found


def _next(rows: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return rows[1:] + rows[:1]


def ids_of(lm: FrozenLM, words: str) -> np.ndarray:
    """Token ids of some words, without special tokens. Words of a chat template give its special tokens."""
    if not words or lm.tokenizer is None:
        return np.zeros(0, np.int64)
    return np.asarray(lm.tokenizer(words, add_special_tokens=False)["input_ids"], np.int64)


def context_of(lm: FrozenLM, *parts: torch.Tensor | np.ndarray) -> torch.Tensor:
    """(c, d): the sink prefix, then these parts: input vectors (m, d), or token ids (m,)."""
    rows = [part if isinstance(part, torch.Tensor) else lm.embed(part).reshape(-1, lm.d) for part in parts]
    return torch.cat([lm.embed(np.asarray(lm.sink_prefix, np.int64)).reshape(-1, lm.d), *rows])


def read(lm: FrozenLM, context: torch.Tensor, ids: np.ndarray) -> Reading:
    """Feeds a text's true tokens (n,) after ``context`` (c, d). Float32, batch 1."""
    return read_many(lm, context, [ids])[0]


def read_many(lm: FrozenLM, context: torch.Tensor, texts: Sequence[np.ndarray], *, batch: int = 8) -> list[Reading]:
    """``read`` of several texts after one context, ``batch`` rows in a pass."""
    found: list[Reading] = []
    for begin in range(0, len(texts), batch):
        found += _read_rows(lm, context, texts[begin : begin + batch])
    return found


@torch.no_grad()
def _read_rows(lm: FrozenLM, context: torch.Tensor, texts: Sequence[np.ndarray]) -> list[Reading]:
    unscored = 0 if len(context) else 1
    rows = [np.asarray(ids, np.int64) for ids in texts]
    size = len(context) + max(map(len, rows)) - 1
    if not size:
        return [_unread(lm) for _ in rows]
    padded = np.zeros((len(rows), size - len(context)), np.int64)  # causal models do not look at padding on the right
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids) - 1] = ids[:-1]
    fed = torch.cat([context.expand(len(rows), -1, -1), lm.embed(padded).reshape(len(rows), -1, lm.d)], dim=1)
    at = [torch.arange(len(ids) - unscored) + len(context) - 1 + unscored + i * size for i, ids in enumerate(rows)]
    targets = torch.from_numpy(np.concatenate([ids[unscored:] for ids in rows])).to(lm.device)
    choices = torch.empty_like(targets)
    with lm.lock:
        nats, _ = lm.losses(fed, torch.cat(at).to(lm.device), targets, torch.float32, choices)
    ends = np.cumsum([len(ids) - unscored for ids in rows])[:-1]
    bits = np.split(nats.cpu().double().numpy() / np.log(2), ends)
    return [
        Reading(np.concatenate([_unread(lm).bits[:unscored], b]), np.concatenate([_unread(lm).choices[:unscored], c]))
        for b, c in zip(bits, np.split(choices.cpu().numpy(), ends), strict=True)
    ]


def _unread(lm: FrozenLM) -> Reading:
    """The first token of a text that nothing precedes."""
    return Reading(np.array([np.log2(lm.vocabulary)]), np.array([-1]))


@torch.no_grad()
def read_hiding(lm: FrozenLM, context: torch.Tensor, ids: np.ndarray, hidden: slice, layers: Sequence[int]) -> Reading:
    """``read``, while in these ``layers`` no position after ``hidden`` attends to the positions of ``hidden``.

    The hidden positions themselves still pass through all layers. Raises ``ModelError`` for a model without attention.
    After the knock-outs of arXiv 2607.21231.
    """
    ids = np.asarray(ids, np.int64)
    modules = attention_layers(lm)
    fed = torch.cat([context, lm.embed(ids[:-1]).reshape(-1, lm.d)])
    blind = torch.zeros(1, 1, len(fed), len(fed), dtype=torch.bool, device=lm.device)
    blind[..., hidden.stop :, hidden] = True
    with lm.lock, eager_attention(lm), hiding({modules[layer]: lambda look: blind for layer in layers}):
        logits = lm.model(inputs_embeds=fed[None], use_cache=False).logits[0, -len(ids) :].float()
    targets = torch.from_numpy(ids.copy()).to(lm.device)
    nats = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    return Reading(nats.cpu().double().numpy() / np.log(2), logits.argmax(-1).cpu().numpy())
