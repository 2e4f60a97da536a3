"""The encoders that come with memlab, on the real model."""

import numpy as np
import pytest

from memlab.texts import load_texts
from memlab.texts.sources import data_folder
from memlab.training.encoders import SETTINGS, Encoder
from memlab.training.encoders.encoder import read_file
from memlab.training.encoders.losses import bits_with, bits_without

SHIPPED = sorted((data_folder() / "encoders").glob("*.safetensors"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_encoder_says_what_it_is(file):
    metadata, weights = read_file(file)
    assert file.stat().st_size < 10e6
    assert file.stem == f"{metadata['about']['name']}-{metadata['fingerprint'][:12]}"
    assert metadata["about"]["name"] in SETTINGS
    assert {"originals", "random", "classics"} <= set(metadata["about"]["held_out"])
    assert metadata["about"]["tokens"] > 100_000
    assert all(np.isfinite(array.astype(np.float32)).all() for array in weights.values())


@pytest.mark.real
@pytest.mark.parametrize("file", [f for f in SHIPPED if f.stem.startswith("slots")], ids=lambda file: file.stem)
@pytest.mark.parametrize(("n", "k"), [(8, 1), (16, 1), (16, 8)])
def test_own_vectors_are_worth_more_than_another_texts(real, file, n, k):
    encoder = Encoder.load(file, real)
    ids = np.stack([real.passage(text, n).ids for text in load_texts("originals", count=8)])
    own, without = bits_with(encoder, ids, k).sum(), bits_without(real, ids).sum()
    vectors = encoder.vectors
    encoder.vectors = lambda texts, k: vectors(texts.roll(1, 0), k)  # the control
    another = bits_with(encoder, ids, k).sum()
    assert own < 0.95 * without
    assert own < another - 0.1 * without
