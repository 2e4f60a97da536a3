"""Export of vectors to PEFT, as a prompt-tuning adapter."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from memlab.results.atomic import atomic_write
from memlab.results.file_format import tensor_bytes

if TYPE_CHECKING:
    from memlab.models import FrozenLM
    from memlab.results.mem_vector import MemVector

ADAPTER = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def export_peft(mem: MemVector, folder: str | os.PathLike[str], lm: FrozenLM | None = None) -> Path:
    """Write a prompt-tuning adapter that ``peft.PeftModel.from_pretrained(model, folder)`` loads. Returns the folder.

    >>> import tempfile
    >>> from memlab import Recipe, cram, export_peft, load
    >>> lm, folder = load("toy:llama"), tempfile.mkdtemp()
    >>> (mem,) = cram(lm, lm.passage_of_ids([5, 9, 2]), Recipe.default(k=4), progress=False)
    >>> sorted(file.name for file in export_peft(mem, folder, lm).iterdir())
    ['adapter_config.json', 'adapter_model.safetensors']

    The adapter's virtual tokens are everything before the text: embeddings of the prefix tokens, the vectors, and
    embeddings of the suffix tokens. ``lm`` is the vector's model; it is loaded if it is not given. To get the text,
    call ``generate`` with an empty input:
    ``generate(input_ids=torch.empty(1, 0, dtype=torch.long), max_new_tokens=n, do_sample=False, eos_token_id=None)``.
    Raises ``ModelError`` if ``lm`` has other weights than the vector's model.
    """
    from memlab.decoding.decode import context_of, require_weights
    from memlab.models import load

    lm = lm or load(mem.model, revision=mem.revision)
    require_weights(lm, mem)
    rows = context_of(lm, mem).cpu().numpy()
    config = lm.model.config.get_text_config()
    settings = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": lm.name,
        "num_virtual_tokens": len(rows),
        "token_dim": mem.d,
        "num_transformer_submodules": 1,
        "num_layers": config.num_hidden_layers,
        # PEFT requires a number; state-space models have no attention heads.
        "num_attention_heads": getattr(config, "num_attention_heads", 1),
        "prompt_tuning_init": "RANDOM",
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"prompt_embeddings": rows}
    metadata = {"memlab": json.dumps({"key": mem.key, "tokens": mem.n, "fingerprint": mem.fingerprint})}
    atomic_write(folder / ADAPTER, tensor_bytes(tensors, metadata))
    atomic_write(folder / CONFIG, json.dumps(settings, indent=1).encode())
    return folder
