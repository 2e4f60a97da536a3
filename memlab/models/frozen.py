"""``FrozenLM``: the one interface of a model for the rest of memlab."""

from __future__ import annotations

import hashlib
import json
import threading
import warnings
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memlab.errors import require_type
from memlab.models import identity, sink
from memlab.models.facts import Facts, embedding_stats
from memlab.models.families import context_of, family_of
from memlab.models.forward import ForwardPass
from memlab.models.hardware import best_device, best_dtype
from memlab.models.keys_values import KeysValues
from memlab.models.layers import Layers, Overwrite
from memlab.models.passages import Cutter, Passage, PassageError, row_of_ids
from memlab.models.probe import Behaviour, cast, probe
from memlab.models.sources import ModelError, local_path
from memlab.texts import Text, TextSpan


class FrozenLM:
    """A causal language model whose weights never change.

    >>> from memlab import load
    >>> lm = load("toy:llama", device="cpu")
    >>> lm.d, lm.vocabulary, lm.context
    (384, 96, 512)
    >>> lm.passage("Meet me at nine.", tokens=7)
    <Passage typed:0 7 tokens 'Meet me'>
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        name: str,
        revision: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        folder: Path | None = None,
    ) -> None:
        self.device = torch.device(device or best_device())
        self.folder = folder.absolute() if folder else None
        """Folder of its safetensors, configuration and tokenizer; None for a model that was built in memory."""
        if folder is None:
            identity.refuse_adapters(model, name)
            if any(p.dtype != torch.float32 for p in model.parameters()):
                self.weights_hash = identity.weights_in_memory(model)  # of the weights before they become float32
        self.model = model.to(device=self.device, dtype=torch.float32).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name, self.revision = name, revision
        self.origin = str((folder and local_path(name)) or name)
        """The name that loads this model in another process: the absolute path for a folder or file."""
        self._dtype = dtype
        self.lock = threading.RLock()
        """Held during each forward pass, because notebook callbacks come from several threads."""
        self.layers = Layers(self.model, name, self.lock)
        self.loaded_with: dict[str, Any] = {}
        """Arguments of ``load`` other than name, revision and device."""
        self.unused_tensors: tuple[str, ...] = ()
        """Names of stored tensors that the model has no place for."""
        self.graph_cache: Any = None
        """CUDA graphs of this model, see ``memlab.scoring.cuda_graphs``."""
        self._facts = Facts(folder) if folder else None
        self._other_dtypes: dict[torch.dtype, Any] = {torch.float32: self.model}
        config = self.model.config.get_text_config()
        self.family = family_of(config.model_type)
        self.behaviour = seen = self._measured_behaviour()
        self._embedding = self.model.get_input_embeddings()
        self.vocabulary = seen.vocabulary
        """Number of tokens. Token ids are smaller than this number."""
        self.context = context_of(config)
        """Positions of the model; 0: no limit (state-space models)."""
        self._cutter = Cutter(tokenizer, name, self.vocabulary, self.context)
        self._pass = ForwardPass(self.model, self.d, takes_mask=seen.takes_mask, changes_input=seen.changes_input)
        with torch.no_grad():  # RWKV rescales its weights in its first pass, so the watch begins after one
            self.model(inputs_embeds=self.embed([0])[None].clone(), use_cache=False)
        self.watch = identity.Watch(self.model, name, folder)

    @classmethod
    def from_model(cls, model: Any, tokenizer: Any = None, *, name: str = "my-model", **settings: Any) -> FrozenLM:
        """Wrap a causal language model of transformers that is already in memory.

        The model is changed, not copied: its weights are frozen and become float32, and it is put in eval mode.
        """
        require_type("model", model, torch.nn.Module, "a model of transformers, or use load(name)")
        return cls(model, tokenizer, name=name, **settings)

    def __repr__(self) -> str:
        return (
            f"<FrozenLM {self.name} d={self.d} vocabulary={self.vocabulary} context={self.context or 'any'} "
            f"{self.device} training in {str(self.dtype).removeprefix('torch.')}>"
        )

    # What it is ------------------------------------------------------------------------------------------------------

    @cached_property
    def dtype(self) -> torch.dtype:
        """Dtype of training passes. Exact checks always use float32."""
        dtype = self._dtype or best_dtype(self.device)
        if self._dtype is None and dtype != torch.float32:
            try:
                self.weights(dtype)
            except ModelError as error:
                warnings.warn(f"{error} Training uses float32.", stacklevel=2)
                return torch.float32
        return dtype

    def _measured_behaviour(self) -> Behaviour:
        import transformers

        measured_with = {"torch": torch.__version__, "transformers": transformers.__version__}
        stored = self._facts.known.get("behaviour") if self._facts else None
        known = stored["values"] if stored and stored["measured_with"] == measured_with else {}
        if known.keys() == {field.name for field in fields(Behaviour)}:  # an older memlab measured less
            return Behaviour(**known)
        behaviour = probe(self.model, self.family, self.name)
        if self._facts:
            self._facts.remember(behaviour={"measured_with": measured_with, "values": asdict(behaviour)})
        return behaviour

    @cached_property
    def kv(self) -> KeysValues:
        """Its keys and values. Raises ``ModelError`` for a model without attention."""
        return KeysValues(self)

    @property
    def has_files(self) -> bool:
        """Whether the weights came from files, so that measurements about them can be kept."""
        return self.folder is not None

    @cached_property
    def d(self) -> int:
        """Width of an input vector. It is measured, because the width of OPT-350M is not its hidden size."""
        return int(self.embed([0]).shape[-1])

    @cached_property
    def parameters(self) -> int:
        """Number of weights. Tied weights count once."""
        return sum(p.numel() for p in self.model.parameters())

    @cached_property
    def weights_hash(self) -> str:
        """Hash of sorted (name, dtype, shape, bytes) of the stored weights. Keys of old versions stand on it alone."""
        if self._facts and (stored := self._facts.known.get("fingerprint")):
            return str(stored)
        digest = (self.folder and identity.weights_of(self.folder)) or identity.weights_in_memory(self.model)
        self.watch.require_unchanged()
        if self._facts:
            self._facts.remember(fingerprint=digest)
        return digest

    @property
    def fingerprint(self) -> str:
        """``identity.fingerprint``. Raises ``ModelError`` if the model has changed since then; see ``Watch``."""
        self.watch.require_unchanged()
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return identity.fingerprint(self.weights_hash, self.model, complete=not self.unused_tensors)

    @cached_property
    def config_hash(self) -> str:
        """Hash of the whole configuration. Not part of a key, because new versions of transformers add fields."""
        return hashlib.sha256(json.dumps(self.model.config.to_dict(), sort_keys=True, default=str).encode()).hexdigest()

    @property
    def tokenizer_hash(self) -> str:
        """Hash of the tokenizer. Each passage has it."""
        return self._cutter.tokenizer_hash

    @cached_property
    def embedding_stats(self) -> dict[str, float]:
        """``std`` of all numbers and mean ``norm`` of a row, for the embedding module's *output* over the vocabulary.

        Gemma scales inside the module, so its weights would give other values.
        """
        if self._facts and (stored := self._facts.known.get("embedding_stats")):
            return dict(stored)
        stats = embedding_stats(self.embed(ids) for ids in torch.arange(self.vocabulary).split(8192))
        if self._facts:
            self._facts.remember(embedding_stats=stats)
        return stats

    @cached_property
    def sink_prefix(self) -> tuple[int, ...]:
        """The token before the vectors with the lowest cross-entropy of the model, or () for no token.

        The candidates are no token and each special token. They are compared on 256 tokens of a bundled text. A token
        is chosen only if it gains at least ``sink.SINK_GAIN`` nats per token.
        """
        if self._facts and (stored := self._facts.known.get("sink_prefix")) is not None:
            return tuple(stored)
        nats = self.sink_candidates()
        prefix = sink.best(nats)
        if self._facts:
            self._facts.remember(sink_prefix=prefix, sink_nats={str(list(k)): v for k, v in nats.items()})
        return prefix

    def sink_candidates(self) -> dict[tuple[int, ...], float]:
        """{prefix: mean cross-entropy of tokens 2 to 256 of a bundled text after that prefix, nats per token}."""
        # Some tokenizers have special tokens (for pictures, say) without a row in the embedding.
        special = sorted(i for i in set(getattr(self.tokenizer, "all_special_ids", [])) if i < self.vocabulary)
        return sink.candidates(special, self._cutter.encode, self._nats)

    def prefix_ids(self, prefix: str | tuple[int, ...]) -> tuple[int, ...]:
        """Token ids of a recipe's ``prefix`` for this model."""
        if prefix == "sink":
            return self.sink_prefix
        if prefix == "none":
            return ()
        if prefix == "bos":
            bos = getattr(self.tokenizer, "bos_token_id", None)
            if bos is None:
                raise ModelError(f'{self.name} has no BOS token. Use prefix="sink", "none" or token ids.')
            return (int(bos),)
        self.check_ids(np.asarray(prefix))
        return tuple(int(i) for i in prefix)

    # Texts and tokens ------------------------------------------------------------------------------------------------

    def passage(self, text: Text | str, tokens: int | None = None, *, start: int | str = 0) -> Passage:
        """Cut a passage of ``tokens`` tokens out of a text. Without ``tokens`` the passage is the whole text.

        The passage begins with the text, or at the first sentence that starts at or after character ``start`` > 0.
        ``start="paper"`` splits the first 1,024 tokens into sentences and begins at the second half of them
        (arXiv 2502.13063). The passage has no special tokens. If the cut would split a character, it moves back by at
        most 7 tokens. Raises ``PassageError``, also if the tokenizer cannot write the text.
        """
        text = text if isinstance(text, Text) else Text("typed", text, "typed")
        return self._cutter.cut(text, tokens, start)

    def passage_of_ids(self, ids: Sequence[int] | np.ndarray, *, name: str = "") -> Passage:
        """A passage of token ids (n,), for models without a tokenizer and for measurements on random tokens."""
        array = row_of_ids(ids)
        self.check_ids(array)
        string = "" if self.tokenizer is None else self.decode_ids(array)
        return Passage(array, string, TextSpan(name), self.tokenizer_hash)

    def check_ids(self, ids: np.ndarray) -> None:
        """Raise ``PassageError`` for ids without a row in the embedding, and for padding that the model skips."""
        if len(ids) and (ids.min() < 0 or ids.max() >= self.vocabulary):
            raise PassageError(
                f"The token ids go from {ids.min()} to {ids.max()}. "
                f"Give ids from 0 to {self.vocabulary - 1} for {self.name}."
            )
        if (padding := self.behaviour.padding_id) is not None and (ids == padding).any():
            raise PassageError(f"The ids have {padding}, which {self.name} skips as padding. Give ids without it.")

    def decode_ids(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of token ids. Special tokens and spaces stay as they are."""
        return self._cutter.decode(ids)

    def token_bits(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Bits (n,) that each token costs this model after its sink prefix. Without a prefix the first value is NaN."""
        return self._nats(np.asarray(ids), self.sink_prefix) / np.log(2)

    # The model -------------------------------------------------------------------------------------------------------

    def embed(self, ids: Any) -> torch.Tensor:
        """Embeddings (n, d) float32 of token ids, from the model's own embedding module."""
        with torch.no_grad(), self.lock:
            # np.array copies the ids: stored ids are read-only, and torch warns about read-only arrays.
            ids = ids if isinstance(ids, torch.Tensor) else torch.from_numpy(np.array(ids, np.int64))
            rows: torch.Tensor = self._embedding(ids.to(self.device))
            return rows.float()

    def weights(self, dtype: torch.dtype) -> Any:
        """The model with its weights in ``dtype``. Raises ``ModelError`` if the model cannot run in it."""
        with self.lock:
            if dtype not in self._other_dtypes:
                ids = torch.arange(min(24, self.vocabulary, self.context or 24))
                given = self.embed(ids[None])
                self._other_dtypes[dtype] = cast(self.model, dtype, given, self.name)
            return self._other_dtypes[dtype]

    def runs_in(self, dtype: torch.dtype) -> bool:
        """Whether the model can run with weights and activations in ``dtype``."""
        try:
            return self.weights(dtype) is not None
        except ModelError:
            return False

    def losses(
        self, embeddings: torch.Tensor, at: torch.Tensor, targets: torch.Tensor, dtype: torch.dtype,
        argmax: torch.Tensor | None = None, written: Sequence[Overwrite] = (),
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """(nats, margin), float32 (n,), of ``targets`` (n,) at the n positions ``at`` of ``embeddings`` (b, s, d).

        ``at`` is ascending, and counts positions over all b rows; see ``ForwardPass.losses``. In bfloat16 the losses
        contain the rounding of the head, so stopping rules and checks use float32.
        ``written`` replaces hidden states at the inputs of layers.
        """
        model = self.weights(dtype)
        self._pass.choose()  # before anything is written: it runs the model on rows of its own
        with self.lock, self.layers.written(model, written):
            return self._pass.losses(model, embeddings.to(dtype), at, targets, argmax)

    def fused(self, size: int) -> bool:
        """Whether ``losses`` of rows of ``size`` positions runs without waiting for a CUDA device."""
        return self._pass.fused(size)

    @torch.no_grad()
    def step(
        self, dtype: torch.dtype, *, embeddings: torch.Tensor | None = None, ids: torch.Tensor | None = None,
        cache: Any = None, written: Sequence[Overwrite] = (),
    ) -> tuple[torch.Tensor, Any]:  # fmt: skip
        """Feed ``embeddings`` (b, s, d) or ``ids`` (b, s) after ``cache``. Returns (last logits (b, V), cache).

        ``written`` replaces hidden states of positions that are fed in this call.
        """
        model, name = self.weights(dtype), self.behaviour.cache_name
        last: dict[str, Any] = {"logits_to_keep": 1} if self.behaviour.takes_mask else {}
        with self.lock:
            if name is None:  # this model has no usable cache, so the "cache" is all that was fed
                fed = self.embed(ids) if embeddings is None else embeddings
                if cache is not None:
                    fed, written = torch.cat([cache[0], fed], 1), cache[1]
                with self.layers.written(model, written):
                    logits = model(inputs_embeds=fed.to(dtype, copy=True), use_cache=False, **last).logits
                return logits[:, -1].float(), (fed, written)
            given = {"input_ids": ids} if embeddings is None else {"inputs_embeds": embeddings.to(dtype, copy=True)}
            # The cache needs the name of its family: Mamba ignores past_key_values and starts again, without an error.
            with self.layers.written(model, written):
                out = model(**given, use_cache=True, **last, **{name: cache})
        return out.logits[:, -1].float(), getattr(out, name)

    @torch.no_grad()
    def _nats(self, ids: Sequence[int] | np.ndarray, prefix: tuple[int, ...]) -> np.ndarray:
        ids = np.asarray(ids, np.int64)
        self.check_ids(ids)
        row = torch.tensor([*prefix, *ids.tolist()], device=self.device)
        at = torch.arange(len(row) - 1, device=self.device)
        with self.lock:
            nats = self.losses(self.embed(row[None, :-1]), at, row[1:], torch.float32)[0].cpu().double().numpy()
        return np.concatenate([[np.nan], nats]) if not prefix else nats[len(prefix) - 1 :]
