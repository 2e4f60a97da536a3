"""``load``: a model by name, each once a process."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import torch

from memlab.models import sources, toys
from memlab.models.frozen import FrozenLM
from memlab.models.hardware import best_device
from memlab.models.presets import DEFAULT
from memlab.models.sources import ModelError

_loaded: dict[tuple[Any, ...], FrozenLM] = {}
_loading = threading.Lock()


def load(
    name: str = DEFAULT,
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    allow_bin: bool = False,
) -> FrozenLM:
    """A frozen model by preset name, Hugging Face id, folder, GGUF file or ``toy:<family>``.

    ``device`` defaults to CUDA, then Apple's MPS, then the CPU; ``dtype``, float32 or bfloat16, is that of training
    passes (the quicker one, unless said): weights are kept, and checks made, in float32. ``allow_bin`` lets a
    repository without safetensors load through ``weights_only``. The same call gives the same object.
    Raises ``ModelError``.
    """
    where, dtype = torch.device(device or best_device()), _training_dtype(dtype)
    asked = (name, revision, where, dtype, allow_bin)
    with _loading:
        if asked not in _loaded:
            _loaded[asked] = _load(name, revision, where, dtype, allow_bin)
            _loaded[asked].loaded_with = {"dtype": dtype, "allow_bin": allow_bin}
        return _loaded[asked]


def _training_dtype(asked: torch.dtype | str | None) -> torch.dtype | None:
    name = str(asked).removeprefix("torch.")
    if asked is not None and name not in ("float32", "bfloat16"):
        raise ModelError(f"no training in {asked!r}: give float32 or bfloat16, or leave dtype out for the quicker one")
    return None if asked is None else getattr(torch, name)


def _load(
    name: str, revision: str | None, device: torch.device, dtype: torch.dtype | None, allow_bin: bool
) -> FrozenLM:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if name.startswith("toy:"):
        model, tokenizer = toys.toy(name.removeprefix("toy:"))
        # So small that bfloat16 gains nothing; and in float32 they behave alike on every machine.
        return FrozenLM(model, tokenizer, name=name, device=device, dtype=dtype or torch.float32)
    folder = sources.locate(name, revision=revision, allow_bin=allow_bin)
    try:
        with _quiet():
            # Said outright, since transformers would otherwise ask on the terminal: no code of a repository is run.
            safe = bool(sources.weight_files(folder))
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=safe, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # configuration, tokenizer and weights fail in many ways
        raise ModelError(
            f"{name} cannot be loaded from {folder}: {type(error).__name__}: {error}. "
            "It takes a causal language model of transformers' own; if files are missing or cut short, fetch them again"
        ) from error
    if folder.parent.name == "snapshots":
        revision = folder.name  # the commit, since what a branch's name means moves on
    elif revision:
        raise ModelError(f"revision={revision!r}: {name} is no repository of the hub, and has none: load it without")
    return FrozenLM(model, tokenizer, name=name, revision=revision, device=device, dtype=dtype, folder=folder)


@contextlib.contextmanager
def _quiet() -> Any:
    """No bar for half a second of reading weights."""
    from transformers.utils import logging

    was = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was:
            logging.enable_progress_bar()
