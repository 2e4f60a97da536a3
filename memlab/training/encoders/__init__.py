"""Trained encoders: networks that turn a text into input vectors of a frozen model in one pass.

``Encoder.encode(ids)`` gives (k, d). ``Training`` trains it through the frozen model, with the gradients that scoring
returns. ``settings.SETTINGS`` names the encoders; ``corpus`` has their training text.
"""

from memlab.training.encoders.encoder import Encoder
from memlab.training.encoders.learning import Training
from memlab.training.encoders.settings import SETTINGS, EncoderError, Settings, named

__all__ = ["SETTINGS", "Encoder", "EncoderError", "Settings", "Training", "named"]
