"""Frozen language models: where they come from, and the one object the rest of memlab talks to."""

from memlab.models.frozen import FrozenLM
from memlab.models.loading import load
from memlab.models.passages import Passage, PassageError
from memlab.models.presets import PRESETS, Preset
from memlab.models.sources import ModelError

__all__ = ["PRESETS", "FrozenLM", "ModelError", "Passage", "PassageError", "Preset", "load"]
