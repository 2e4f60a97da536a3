"""Searches that start from what a trained encoder writes for the passage."""

import math

import numpy as np
import pytest
import torch

from memlab import Recipe, Store, cram
from memlab.recipes import RecipeError
from memlab.training import starts
from memlab.training.encoders import Encoder, EncoderError, Settings, shelf
from memlab.training.job import TrainingJob

SMALL = Settings(width=24, heads=2, reading_heads=2, longest=16, most=4, whiten=0.0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(shelf, "folders", lambda: [tmp_path])
    shelf.loaded.cache_clear()
    yield tmp_path
    shelf.loaded.cache_clear()


@pytest.fixture
def encoder(toy, folder):
    file = folder / f"slots-{toy.fingerprint[:12]}.safetensors"
    Encoder(toy, SMALL).save(file)
    return Encoder.load(file, toy)


def passage(toy, n):
    return toy.passage_of_ids(np.arange(5, 5 + n))


@pytest.mark.parametrize(("n", "k"), [(6, 1), (12, 3), (20, 1)])
def test_the_start_is_the_encoding_at_the_recipes_norm(toy, encoder, n, k):
    """Of a text that is longer than the encoder was trained for, the first tokens are read."""
    start = starts.initial_mem(toy, passage(toy, n), Recipe.warm(k=k))
    read = encoder.encode(passage(toy, n).ids[:16], k)
    assert torch.allclose(start.norm(dim=-1), torch.full((k,), 400.0 * math.sqrt(toy.d)))
    assert torch.allclose(torch.nn.functional.cosine_similarity(start, read, dim=-1), torch.ones(k), atol=1e-5)
    free = starts.initial_mem(toy, passage(toy, n), Recipe.fullmatrix(start="encoding", k=k))
    assert torch.equal(free, read)


@pytest.mark.parametrize(("recipe", "angle"), [(Recipe.warm(), 0.4), (Recipe.default(), math.pi / 2)])
def test_the_first_turn_has_the_angle_of_the_schedule(toy, encoder, recipe, angle):
    """From noise the first turn is a right angle, because noise is worth nothing. An encoding is not left behind."""
    job = TrainingJob(toy, 0, passage(toy, 12), recipe, None)
    job.start()
    before = job.state.mem
    gradient = torch.randn(before.shape, generator=torch.Generator().manual_seed(0)) / before.norm()
    job.apply_update(gradient)
    cosine = torch.nn.functional.cosine_similarity(before, job.state.mem, dim=-1)
    assert float(cosine) == pytest.approx(math.cos(angle), abs=1e-4)


def test_a_result_says_which_encoder_it_started_from(toy, encoder, tmp_path):
    store = Store(tmp_path / "store")
    (mem,) = cram(toy, [passage(toy, 6)], Recipe.warm(budget=3), store=store, progress=False)
    assert mem.provenance["encoder"] == encoder.digest
    assert len(encoder.digest) == 64
    assert mem.recipe.start == "encoding"
    (cold,) = cram(toy, [passage(toy, 6)], Recipe.default(budget=3, lr=0.2), store=store, progress=False)
    assert cold.key != mem.key
    assert "encoder" not in cold.provenance
    assert mem.is_original  # it has no parent among the vectors


def test_without_an_encoder_the_error_names_the_command(toy, folder):
    with pytest.raises(EncoderError, match="memlab encoder train slots"):
        cram(toy, [passage(toy, 6)], Recipe.warm(), progress=False)


def test_more_vectors_than_tokens_and_vectors_in_layers_are_refused(toy, encoder):
    with pytest.raises(EncoderError, match="at most one vector for each"):
        starts.initial_mem(toy, passage(toy, 6), Recipe.warm(k=7))
    with pytest.raises(RecipeError, match="start is 'encoding'"):
        Recipe.layers(start="encoding")
    with pytest.raises(RecipeError, match="Give noise or encoding"):
        Recipe.default(start="zeros")
