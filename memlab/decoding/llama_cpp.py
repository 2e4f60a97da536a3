"""Decoding in llama.cpp, from a GGUF file. Needs llama-cpp-python, which is not a requirement of memlab."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memlab.models import ModelError

AT_ONCE = 64
"""Positions per call. llama.cpp reserves memory for the logits of all of them."""


def require_installed() -> Any:
    """The module ``llama_cpp``. Raises ``ModelError`` if it is not installed."""
    try:
        import llama_cpp
    except ImportError:
        raise ModelError(
            "llama-cpp-python is not installed. Run `make travel`, or `pip install llama-cpp-python==0.3.36`, which "
            "compiles llama.cpp and takes about 20 minutes on one core."
        ) from None
    return llama_cpp


class LlamaCpp:
    """A model of llama.cpp that decodes greedily from embeddings.

    The weights stay as the file has them, the activations have 8 bits where the weights are quantised, and the cache
    is float16: the defaults of llama.cpp on a CPU. ``positions`` is the longest context and text together. Raises
    ``ModelError`` if llama-cpp-python is not installed, or cannot read the file.
    """

    def __init__(self, gguf: str | os.PathLike[str], *, positions: int = 4096, threads: int | None = None) -> None:
        self._api = api = require_installed()
        # llama.cpp writes hundreds of lines to stderr. The callback must live as long as this object.
        self._quiet = api.llama_log_callback(lambda *_: None)
        api.llama_log_set(self._quiet, ctypes.c_void_p(0))
        api.llama_backend_init()
        self._model = api.llama_model_load_from_file(os.fsencode(Path(gguf)), api.llama_model_default_params())
        if not self._model:
            raise ModelError(f"llama.cpp cannot read {gguf}. Give a GGUF file of a language model.")
        settings = api.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = positions, AT_ONCE, AT_ONCE
        settings.n_threads = settings.n_threads_batch = threads or torch.get_num_threads()
        self._context = api.llama_init_from_model(self._model, settings)
        if not self._context:
            raise ModelError(f"llama.cpp has no memory for {positions} positions of {gguf}. Give fewer positions.")
        self.d = int(api.llama_model_n_embd(self._model))
        self._vocabulary = int(api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model)))

    def decode(self, embeds: Any, tokens: int) -> np.ndarray:
        """Greedy ids (tokens,) after ``embeds`` (c, d), float32, an array or a CPU tensor. The cache starts empty."""
        rows = np.ascontiguousarray(embeds, np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.d or not len(rows):
            raise ModelError(f"The embeddings have the shape {rows.shape}; this GGUF file needs (c, {self.d}).")
        api = self._api
        api.llama_memory_clear(api.llama_get_memory(self._context), True)
        batch = api.llama_batch_init(AT_ONCE, self.d, 1)
        try:
            for start in range(0, len(rows), AT_ONCE):
                part = rows[start : start + AT_ONCE]
                ctypes.memmove(batch.embd, part.ctypes.data, part.nbytes)
                self._fill(batch, range(start, start + len(part)))
                ids = [self._next(batch)]
        finally:
            api.llama_batch_free(batch)
        batch = api.llama_batch_init(1, 0, 1)
        try:
            for position in range(len(rows), len(rows) + tokens - 1):
                batch.token[0] = ids[-1]
                self._fill(batch, [position])
                ids.append(self._next(batch))
        finally:
            api.llama_batch_free(batch)
        return np.array(ids, np.int64)

    def _fill(self, batch: Any, positions: Iterable[int]) -> None:
        for i, position in enumerate(positions):
            batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = position, 1, 0, 0
        batch.n_tokens = i + 1
        batch.logits[i] = 1  # only the last position is read

    def _next(self, batch: Any) -> int:
        if status := self._api.llama_decode(self._context, batch):
            raise ModelError(f"llama.cpp could not decode (status {status}). Give more positions.")
        logits = self._api.llama_get_logits_ith(self._context, -1)
        return int(np.ctypeslib.as_array(logits, shape=(self._vocabulary,)).argmax())

    def close(self) -> None:
        """Free the model and its cache."""
        self._api.llama_free(self._context)
        self._api.llama_model_free(self._model)
