"""What a key stands on: the weights of a model, and the configuration that they run with.

``W`` is a hash of the weights. Two models with the same weights give other logits if their configurations differ, for
instance in a rotary base or a norm's epsilon. So the fingerprint of a model is ``W`` for the models that memlab ships
(their stored keys are older than this rule), and a hash of ``W`` and the configuration for all others.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from memlab.models.families import TOYS
from memlab.models.presets import PRESETS
from memlab.models.sources import ModelError, weight_files

COLLECTING = "transformers.utils.output_capturing"
"""Module of the hooks with which transformers collects hidden states and attention."""
_IGNORED = re.compile(
    "|".join(
        (
            # Names and versions. The class of the model, which runs, is part of the hash.
            r"transformers_version|architectures|auto_map|_?(model_)?name_or_path",
            r"(torch_)?dtype",  # weights are always float32 here
            r"use_cache|return_dict|output_(attentions|hidden_states|router_logits)",  # what a pass returns
            r"id2label|label2id|problem_type|task_specific_params|finetuning_task",  # for classifiers
            # Read by ``generate`` and by data collators. The padding id counts: some families derive positions from it.
            r"(bos|eos|sep|cls|mask|unk|decoder_start|forced_[be]os)_token_id",
            r".*(dropout|pdrop|layerdrop).*",  # off in eval mode
            r"initializer_(range|factor)|init_std|router_(aux|z)_loss_coef",  # training only
        )
    )
)
"""Fields that cannot change logits in eval mode and float32. Every other field counts, also one that nobody knows."""


def fingerprint(weights: str, model: Any, *, complete: bool = True) -> str:
    """The identity of a model in keys: ``weights`` (W) if memlab ships the model, else a hash of W and configuration.

    ``complete=False``: the model leaves some stored tensors out, so equal files need not give equal models.
    """
    digest = configuration_hash(model.config, type(model).__name__)
    if complete and digest in _shipped(model.config.model_type):
        return weights
    return hashlib.sha256(f"{weights} {digest}".encode()).hexdigest()


def configuration_hash(config: Any, model_class: str) -> str:
    """Hash of the fields of a configuration that differ from the defaults of its class, without ``_IGNORED`` ones."""
    described = {"model": model_class, "configuration": _differences(config)}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _differences(config: Any) -> dict[str, Any]:
    from transformers import PreTrainedConfig

    try:
        usual = type(config)().to_dict()
    except Exception:  # a class without defaults: all of its fields count
        usual = {}
    mine, found = config.to_dict(), dict[str, Any](model_type=config.model_type)
    for name in mine.keys() | usual.keys():
        nested = vars(config).get(name)
        if _IGNORED.fullmatch(name):
            continue
        if isinstance(nested, PreTrainedConfig):
            found[name] = _differences(nested)
        elif (value := _plain(mine.get(name))) != _plain(usual.get(name)):
            found[name] = value
    return found


def _plain(value: Any) -> Any:
    """``value`` as JSON gives it back, with all numbers as floats: a file may say 10000 or 10000.0."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return value if value is None or isinstance(value, (str, bool)) else str(value)


@cache
def _shipped(model_type: str) -> frozenset[str]:
    """Configuration hashes of the presets and toys of this type whose stored keys stand on the weights alone."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    configs = [getattr(transformers, toy.config)(**toy.settings) for toy in TOYS.values()]
    configs += [transformers.AutoConfig.for_model(**p.configuration) for p in PRESETS.values() if p.configuration]
    same = [config for config in configs if config.model_type == model_type]
    return frozenset(configuration_hash(c, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]) for c in same)


def weights_of(folder: Path) -> str | None:
    """W: hash of sorted (name, dtype, shape, bytes) of all stored tensors. None for a folder without safetensors."""
    tensors: dict[str, tuple[Path, str, list[int], int, int]] = {}
    for file in weight_files(folder):
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if length > file.stat().st_size:
                raise ModelError(f"{file} is damaged: its header claims {length} bytes. Fetch it again.")
            header = json.loads(handle.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = (8 + length + offset for offset in entry["data_offsets"])
                tensors[name] = (file, entry["dtype"], entry["shape"], begin, end)
    if not tensors:
        return None
    digest = hashlib.sha256()
    for name, (file, dtype, shape, begin, end) in sorted(tensors.items()):
        digest.update(json.dumps([name, dtype, shape]).encode())
        with file.open("rb") as handle:
            handle.seek(begin)
            left = end - begin
            while left:
                chunk = handle.read(min(1 << 24, left))
                if not chunk:
                    raise ModelError(f"{file} is damaged: it ends inside the tensor {name}. Fetch it again.")
                digest.update(chunk)
                left -= len(chunk)
    return digest.hexdigest()


def weights_in_memory(model: Any) -> str:
    """W of a model in memory: what ``weights_of`` gives after ``save_pretrained``, if that renames no tensor."""
    import torch

    digest = hashlib.sha256()
    # named_parameters lists tied weights once, as a safetensors file does.
    tensors = dict(model.named_parameters())
    saved = set(model.state_dict())
    tensors |= {name: b for name, b in model.named_buffers() if name in saved}
    names = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
    for name, tensor in sorted(tensors.items()):
        dtype = names.get(tensor.dtype, str(tensor.dtype))
        digest.update(json.dumps([name, dtype, list(tensor.shape)]).encode())
        # reshape, because a tensor without dimensions has no view as bytes
        digest.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Watch:
    """Notices that a model is no longer the one of its fingerprint. It costs less than a pass over one token.

    The files count, too: on a CPU, safetensors maps them into memory. A program that writes into such a file, as `cp`
    does, changes the weights of each model that was loaded from it.
    """

    def __init__(self, model: Any, name: str, folder: Path | None) -> None:
        self._model, self._name = model, name
        self._files = weight_files(folder) if folder else []
        self._stats, self._tensors = self._stats_now(), self._tensors_now()

    def _stats_now(self) -> list[tuple[int, ...]]:
        stats = [file.stat() for file in self._files if file.exists()]  # a deleted file stays in memory
        return [(s.st_ino, s.st_size, s.st_mtime_ns) for s in stats]

    def _tensors_now(self) -> list[tuple[int, int]]:
        # Writing raises the version of a tensor. Tensors made in inference mode have none.
        return [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in self._model.parameters()]

    def change(self) -> str:
        """What changed, and what to do. Empty: nothing."""
        if self._tensors_now() != self._tensors:
            return f"The weights of {self._name} were changed in memory. Load the model again, or wrap it again."
        if not set(self._stats_now()) <= set(self._stats):
            return f"The files of {self._name} have changed since it was loaded. Load the model again."
        if any(module.training for module in self._model.modules()):
            return f"{self._name} is in training mode, so its dropout is on. Call lm.model.eval()."
        return ""

    def hooks(self) -> tuple[int, ...]:
        """Ids of all hooks of forward passes, but those with which transformers collects hidden states.

        transformers 5 adds these when a program first asks for ``output_hidden_states`` or ``output_attentions``, and
        never removes them. They change nothing.
        """
        modules = self._model.modules()
        hooks = (hook for m in modules for hook in (*m._forward_pre_hooks.values(), *m._forward_hooks.values()))
        return tuple(id(hook) for hook in hooks if getattr(hook, "__module__", None) != COLLECTING)

    def require_unchanged(self) -> None:
        """Raise ``ModelError`` if the model has changed."""
        if change := self.change():
            raise ModelError(change)


def refuse_adapters(model: Any, name: str) -> None:
    """Raise ``ModelError`` for a model in memory with a PEFT adapter, which can be switched on and off at any time."""
    if any(type(module).__module__.partition(".")[0] == "peft" for module in model.modules()):
        raise ModelError(
            f"{name} has a PEFT adapter. Adapters can be switched, so its weights do not say what the model computes. "
            "Merge the adapter: peft_model.merge_and_unload() returns a plain model."
        )
