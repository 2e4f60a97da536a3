"""Where trained encoders are: those that come with memlab, and those that this user trained."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from memlab.models import FrozenLM
from memlab.models.sources import cache_folder
from memlab.texts.sources import data_folder
from memlab.training.encoders.encoder import Encoder
from memlab.training.encoders.settings import EncoderError, named


def folders() -> list[Path]:
    """The folders that are searched: the user's first, then memlab's own."""
    return [cache_folder() / "encoders", data_folder() / "encoders"]


def trained(name: str, lm: FrozenLM, folder: Path | None = None) -> Encoder:
    """The trained encoder of this name for this model. Raises ``EncoderError`` if there is none."""
    named(name)
    file = f"{name}-{lm.fingerprint[:12]}.safetensors"
    for place in [folder] if folder else folders():
        if (place / file).is_file():
            return Encoder.load(place / file, lm)
    raise EncoderError(
        f"No trained encoder {name!r} for {lm.name} is in {' or '.join(str(f) for f in folders())}. "
        f"Run `memlab encoder train {name}`."
    )


@lru_cache(maxsize=4)
def loaded(name: str, lm: FrozenLM) -> Encoder:
    """``trained``, read from its file once per process. Raises ``EncoderError``."""
    return trained(name, lm)
