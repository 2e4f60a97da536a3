"""``load``: loads a model by name, once per process."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Any

import torch

from memlab.errors import require_path
from memlab.models import sources, toys
from memlab.models.facts import state_of
from memlab.models.frozen import FrozenLM
from memlab.models.hardware import best_device
from memlab.models.presets import DEFAULT
from memlab.models.sources import ModelError
from memlab.results.card import READERS

_loaded: dict[tuple[Any, ...], tuple[FrozenLM, Any]] = {}
"""By call: the model, and the state of its files before it was loaded."""
_loading = threading.Lock()


def load(
    name: str | os.PathLike[str] = DEFAULT,
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    allow_bin: bool = False,
) -> FrozenLM:
    """Load a frozen model: a preset name, Hugging Face id, folder, GGUF file or ``toy:<family>``.

    ``device`` defaults to CUDA, then Apple's MPS, then the CPU. ``dtype`` is the dtype of training passes: float32 or
    bfloat16, by default the faster one. Weights and checks are float32. ``allow_bin`` loads pickled .bin weights with
    torch's ``weights_only`` if a repository has no safetensors. The same call returns the same object, unless
    the files or the weights in memory have changed. Raises ``ModelError``.

    >>> from memlab import load
    >>> load("toy:mamba", device="cpu")
    <FrozenLM toy:mamba d=384 vocabulary=96 context=any cpu training in float32>
    """
    require_path("The model's name", name, "the name or the folder of a model")
    dtype = _training_dtype(dtype)
    call = (os.fspath(name), revision, _device(device), dtype, allow_bin)
    path = sources.local_path(call[0])  # a relative name means another folder in another working directory
    with _loading:
        state = state_of(path) if path else None
        known, before = _loaded.get((*call, path), (None, None))
        if known is None or state != before or known.watch.change():
            known = _load(*call)
            known.loaded_with = {"dtype": dtype, "allow_bin": allow_bin}
            _loaded[*call, path] = known, state
            READERS.add(known)
        return known


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or best_device())
        torch.empty(0, device=device)
        return device
    except (RuntimeError, AssertionError, TypeError) as error:  # torch does not know it, or this machine lacks it
        raise ModelError(f"device is {name!r} ({error}). Give cpu, cuda or mps, or leave device out.") from None


def _training_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    name = str(dtype).removeprefix("torch.")
    if dtype is not None and name not in ("float32", "bfloat16"):
        raise ModelError(f"memlab cannot train in {dtype!r}. Give float32 or bfloat16, or leave dtype out.")
    return None if dtype is None else getattr(torch, name)


def _load(
    name: str, revision: str | None, device: torch.device, dtype: torch.dtype | None, allow_bin: bool
) -> FrozenLM:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    no_revision = f"{name} is not on the Hugging Face hub, so it has no revision {revision!r}. Leave revision out."
    if name.startswith("toy:"):
        if revision:
            raise ModelError(no_revision)
        model, tokenizer = toys.toy(name.removeprefix("toy:"))
        # Toys gain no speed from bfloat16, and in float32 they give about the same numbers on every machine.
        return FrozenLM(model, tokenizer, name=name, device=device, dtype=dtype or torch.float32)
    folder = sources.locate(name, revision=revision, allow_bin=allow_bin)
    try:
        with _quiet():
            # trust_remote_code=False is explicit, because transformers would otherwise ask on the terminal.
            safe = bool(sources.weight_files(folder))
            model, report = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=safe, trust_remote_code=False, output_loading_info=True
            )
            sources.require_complete(report, str(folder))
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except ModelError:
        raise
    except Exception as error:  # configuration, tokenizer and weights raise many types
        raise ModelError(
            f"{name} cannot be loaded from {folder}: {type(error).__name__}: {error}. Give a causal language "
            "model that transformers supports. If files are missing or truncated, fetch them again."
        ) from error
    if folder.parent.name == "snapshots":
        revision = folder.name  # the commit, because a branch moves
    elif revision:
        raise ModelError(no_revision)
    lm = FrozenLM(model, tokenizer, name=name, revision=revision, device=device, dtype=dtype, folder=folder)
    lm.unused_tensors = tuple(sorted(report["unexpected_keys"]))
    return lm


@contextlib.contextmanager
def _quiet() -> Any:
    """Hide the progress bar of transformers: reading weights takes half a second."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
