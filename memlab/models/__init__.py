"""Frozen language models: how they are found and loaded, and ``FrozenLM``, their one interface."""

from memlab.models.frozen import FrozenLM
from memlab.models.layers import Overwrite
from memlab.models.loading import load
from memlab.models.passages import Passage, PassageError
from memlab.models.presets import PRESETS, Preset
from memlab.models.sources import ModelError

__all__ = ["PRESETS", "FrozenLM", "ModelError", "Overwrite", "Passage", "PassageError", "Preset", "load"]
