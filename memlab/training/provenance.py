"""What a result says of the software and the machine that made it."""

from __future__ import annotations

import platform
import time
from importlib.metadata import version
from typing import Any

import torch

from memlab._version import __version__
from memlab.models import FrozenLM


def made_with(lm: FrozenLM) -> dict[str, Any]:
    """Versions, device, dtype and threads, hashes of configuration and tokenizer, and the time, as JSON."""
    return {
        "memlab": __version__,
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "device": str(lm.device),
        "dtype": str(lm.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        **({"replay": True} if lm.graph_cache and lm.graph_cache.replayed else {}),
        "machine": platform.machine(),
        "config_sha256": lm.config_hash,
        "tokenizer_sha256": lm.tokenizer_hash,
        "trained": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
