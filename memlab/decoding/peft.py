"""Export of vectors to PEFT, as a prompt-tuning adapter."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from memlab.errors import require_path, require_type
from memlab.models.presets import PRESETS
from memlab.results.atomic import atomic_write
from memlab.results.file_format import VectorError, tensor_bytes
from memlab.results.mem_vector import MemVector

if TYPE_CHECKING:
    from memlab.models import FrozenLM

ADAPTER = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
KIND = "PROMPT_TUNING"


def export_peft(mem: MemVector, folder: str | os.PathLike[str], lm: FrozenLM | None = None) -> Path:
    """Write a prompt-tuning adapter that ``peft.PeftModel.from_pretrained(model, folder)`` loads. Returns the folder.

    >>> import tempfile
    >>> from memlab import Recipe, cram, export_peft, load
    >>> lm, folder = load("toy:llama"), tempfile.mkdtemp()
    >>> (mem,) = cram(lm, lm.passage_of_ids([5, 9, 2]), Recipe.default(k=4), progress=False)
    >>> sorted(file.name for file in export_peft(mem, folder, lm).iterdir())
    ['adapter_config.json', 'adapter_model.safetensors']

    The adapter's virtual tokens are everything before the text: embeddings of the prefix tokens, the vectors, and
    embeddings of the suffix tokens. ``lm`` is the vector's model; it is loaded if it is not given. If ``lm`` has files,
    ``peft.AutoPeftModelForCausalLM.from_pretrained(folder)`` finds the model too, from any working directory. To get
    the text, call ``generate`` with an empty input:
    ``generate(input_ids=torch.empty(1, 0, dtype=torch.long), max_new_tokens=n, do_sample=False, eos_token_id=None)``.
    Raises ``ModelError`` if ``lm`` has other weights than the vector's model, and ``VectorError`` if ``folder`` holds a
    model or another adapter, or cannot be written.
    """
    from memlab.decoding.embeddings import to_embeds
    from memlab.models import load

    require_type("mem", mem, MemVector, "a mem vector")
    require_path("folder", folder, "the path of a folder")
    folder = Path(folder).expanduser()
    _require_free(folder)
    lm = lm or load(mem.model, revision=mem.revision)
    rows = to_embeds(mem, lm).numpy()
    config = lm.model.config.get_text_config()
    settings = {
        "peft_type": KIND,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        **_base(lm),
        "num_virtual_tokens": len(rows),
        "token_dim": mem.d,
        "num_transformer_submodules": 1,
        "num_layers": config.num_hidden_layers,
        # PEFT requires a number; state-space models have no attention heads.
        "num_attention_heads": getattr(config, "num_attention_heads", 1),
        "prompt_tuning_init": "RANDOM",
    }
    tensors = {"prompt_embeddings": rows}
    metadata = {"memlab": json.dumps({"key": mem.key, "tokens": mem.n, "fingerprint": mem.fingerprint})}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / ADAPTER, tensor_bytes(tensors, metadata))
        atomic_write(folder / CONFIG, json.dumps(settings, indent=1).encode())
    except OSError as error:
        raise VectorError(
            f"The adapter cannot be written to {folder}: {error.strerror or error}. Give another folder."
        ) from None
    return folder


def _base(lm: FrozenLM) -> dict[str, str | None]:
    """Where PEFT finds the model: hub id and commit, or an absolute folder. None for a model made in memory."""
    if lm.revision:  # only models of the hub have one
        preset = PRESETS.get(lm.name)
        return {"base_model_name_or_path": preset.repo if preset else lm.name, "revision": lm.revision}
    base = lm.folder or lm.model.name_or_path or None  # a model that was wrapped knows what transformers loaded
    if base and Path(base).is_dir():
        base = Path(base).absolute()
    return {"base_model_name_or_path": str(base) if base else None, "revision": None}


def _require_free(folder: Path) -> None:
    """Raise ``VectorError`` if an adapter in this folder would replace, or silently change, something else."""
    if folder.is_file():
        raise VectorError(f"{folder} is a file, but an adapter is a folder. Give another name.")
    if (folder / "config.json").exists():
        raise VectorError(
            f"{folder} holds a model (config.json). An adapter in it would change the model for every program that "
            "loads it. Give an empty or new folder."
        )
    try:
        kind = json.loads((folder / CONFIG).read_text())["peft_type"]
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError, KeyError, TypeError):
        kind = "unknown"
    if kind != KIND:
        raise VectorError(f"{folder} already holds an adapter of the kind {kind}. Give an empty or new folder.")
