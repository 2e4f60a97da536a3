"""Texts and their sources: bundled ones, files, folders, tables, and Hugging Face data sets.

There are no token ids here: a model cuts a text into a passage (``lm.passage``).
"""

from memlab.texts.files import from_bytes, from_path
from memlab.texts.hub import hugging_face
from memlab.texts.sources import (
    SOURCE_NAMES,
    SOURCES,
    Source,
    classics,
    data_folder,
    is_unlimited,
    load_texts,
    originals,
    pg19,
    random_words,
)
from memlab.texts.text import Text, TextError, TextSpan, with_unique_ids

__all__ = [
    "SOURCES",
    "SOURCE_NAMES",
    "Source",
    "Text",
    "TextError",
    "TextSpan",
    "classics",
    "data_folder",
    "from_bytes",
    "from_path",
    "hugging_face",
    "is_unlimited",
    "load_texts",
    "originals",
    "pg19",
    "random_words",
    "with_unique_ids",
]
