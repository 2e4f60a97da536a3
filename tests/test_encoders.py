"""Encoders: what training does with gradients, files and checkpoints. Toys only."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from memlab.models import load
from memlab.probes.token_costs import token_scores
from memlab.training.encoders import Encoder, EncoderError, Settings, Training, named
from memlab.training.encoders.choosing import Pool
from memlab.training.encoders.learning import Progress
from memlab.training.encoders.losses import backward, bits_with, bits_without, rows_of, with_text
from memlab.training.encoders.networks import Network, segment_means
from memlab.training.encoders.settings import SETTINGS, Stage

SMALL = Settings(
    width=48, heads=4, reading_heads=4, longest=16, most=4, norm=3.0, whiten=0.0, warmup=5, batch_tokens=96,
    curriculum=(Stage(0.3, ((2, 1),)), Stage(1.0, ((4, 1), (4, 2)))),
)  # fmt: skip


class Uniform:
    """Random token ids as training texts."""

    def __init__(self, lm):
        self.vocabulary = lm.vocabulary

    def draw(self, random, n, rows):
        return random.integers(0, self.vocabulary, (rows, n))


class Table(Network):
    """A row of numbers for each of some texts: an encoder that is per-sample search."""

    def __init__(self, texts, k, d, order=None):
        super().__init__()
        self.of = {text.tobytes(): i for i, text in enumerate(texts)}
        self.order = list(range(len(texts))) if order is None else order
        self.rows = torch.nn.Parameter(torch.randn(len(texts), k, d, generator=torch.Generator().manual_seed(0)))

    def forward(self, lm, ids, k):
        return self.rows[[self.order[self.of[row.numpy().tobytes()]] for row in ids]]


class Identity(Network):
    """The embeddings of the text itself."""

    def forward(self, lm, ids, k):
        assert ids.shape[1] == k
        return lm.embed(ids)


def ids_of(lm, n, rows, seed=0):
    return np.random.default_rng(seed).integers(0, lm.vocabulary, (rows, n))


# 1: gradients


@pytest.mark.parametrize(("n", "k"), [(6, 1), (6, 3)])
def test_gradients_through_scores_are_those_of_autograd_through_the_whole_model(toy, n, k):
    ids = ids_of(toy, n, 5)
    encoder = Encoder(toy, SMALL)
    bits = backward(encoder, ids, k, np.random.default_rng(0))
    through_scores = {name: p.grad.clone() for name, p in encoder.network.named_parameters() if p.grad is not None}
    encoder.network.zero_grad()

    vectors = encoder.vectors(torch.from_numpy(ids), k)
    fed = torch.cat([toy.embed(list(toy.sink_prefix)).expand(len(ids), -1, -1), vectors, toy.embed(ids[:, :-1])], 1)
    logits = toy.model(inputs_embeds=fed, use_cache=False).logits[:, -n:]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(ids).flatten()) / np.log(2)
    loss.backward()
    assert bits == pytest.approx(loss.item(), rel=1e-5)
    compared = 0
    whole = torch.stack([p.grad.norm() for p in encoder.network.parameters() if p.grad is not None]).norm()
    for name, p in encoder.network.named_parameters():
        if p.grad is not None and p.grad.norm() > 1e-6:
            scale = max(p.grad.norm(), 0.01 * whole)  # the gradient of one number is a sum of parts that cancel
            assert (through_scores[name] - p.grad).norm() < 1e-4 * scale, name
            compared += 1
    assert compared > 10


def test_detached_vectors_give_no_gradient(toy, monkeypatch):
    """The control of the test above."""
    encoder = Encoder(toy, SMALL)
    usual = Encoder.vectors
    monkeypatch.setattr(Encoder, "vectors", lambda self, ids, k: usual(self, ids, k).detach())
    backward(encoder, ids_of(toy, 6, 5), 1, np.random.default_rng(0))
    assert all(p.grad is None for p in encoder.network.parameters())


# 2: a table is per-sample search


@pytest.mark.slow
def test_a_table_is_per_sample_search(toy):
    texts = ids_of(toy, 6, 4)
    settings = dataclasses.replace(
        SMALL, norm=30.0, lr=0.05, weight_decay=0.0, curriculum=(Stage(1.0, ((6, 1),)),), batch_tokens=6 * 16, warmup=1
    )
    table = Table(texts, 1, toy.d)
    encoder = Encoder(toy, settings, table)
    Training(encoder, Pool(texts)).run(tokens=6 * 16 * 150)
    assert all(token_scores(toy, text, _context(encoder, text))[1].all() for text in texts)

    without = bits_without(toy, texts).sum()
    table.order = [1, 2, 3, 0]
    assert bits_with(encoder, texts, 1).sum() > without, "another text's row takes bits off"


def _context(encoder, text, k=1):
    lm = encoder.lm
    return torch.cat([lm.embed(list(lm.sink_prefix)), encoder.encode(text, k)])


# 3: the identity is the text itself


def test_the_identity_encoder_is_the_text_as_a_prompt(toy):
    text = ids_of(toy, 7, 1)[0]
    encoder = Encoder(toy, SMALL, Identity())
    encoder._scaled = lambda directions, k: directions  # with the lengths of the embeddings
    vectors = encoder.encode(text, 7)
    as_vectors = token_scores(toy, text, torch.cat([toy.embed(list(toy.sink_prefix)), vectors]))[0]
    as_text = token_scores(toy, text, toy.embed([*toy.sink_prefix, *text.tolist()]))[0]
    assert np.allclose(as_vectors, as_text, atol=1e-5)
    permuted = token_scores(toy, text, torch.cat([toy.embed(list(toy.sink_prefix)), vectors.flip(0)]))[0]
    assert not np.allclose(permuted, as_text, atol=1e-2)


# 4: overfitting


@pytest.mark.slow
def test_sixteen_passages_can_be_learnt_by_heart_and_others_gain_nothing(toy):
    known, new = ids_of(toy, 4, 16), ids_of(toy, 4, 64, seed=1)
    settings = dataclasses.replace(
        SMALL, width=96, norm=30.0, lr=3e-3, curriculum=(Stage(1.0, ((4, 1),)),), batch_tokens=64
    )
    encoder = Encoder(toy, settings)
    Training(encoder, Pool(known)).run(tokens=64 * 350)
    recovered = 1 - bits_with(encoder, known, 1).sum() / bits_without(toy, known).sum()
    assert recovered > 0.95
    assert bits_with(encoder, new, 1).sum() > bits_without(toy, new).sum() * 0.95, "unseen texts: a leak"


# 5: segments


def test_segments_are_encoded_apart_bit_for_bit(toy):
    encoder = Encoder(toy, dataclasses.replace(SMALL, segment=4))
    text = ids_of(toy, 12, 1)[0]
    other = text.copy()
    other[4:8] = ids_of(toy, 4, 1, seed=5)[0]
    a, b = encoder.encode(text, 6), encoder.encode(other, 6)
    assert torch.equal(a[[0, 1, 4, 5]], b[[0, 1, 4, 5]])
    assert not torch.equal(a[2:4], b[2:4])
    whole = Encoder(toy, SMALL)
    assert not torch.equal(whole.encode(text, 4)[0], whole.encode(other, 4)[0]), "the control: together"


def test_segments_that_do_not_fit_are_refused(toy):
    encoder = Encoder(toy, dataclasses.replace(SMALL, segment=4))
    for n, k in ((10, 2), (12, 4)):
        with pytest.raises(EncoderError, match="cannot share"):
            encoder.encode(ids_of(toy, n, 1)[0], k)


# 6: files


def test_a_file_gives_the_same_encoder(toy, tmp_path):
    encoder = Encoder(toy, SMALL, about={"tokens": 7})
    file = tmp_path / "encoder.safetensors"
    encoder.save(file, torch.float32)
    again = Encoder.load(file, toy)
    text = ids_of(toy, 8, 1)[0]
    assert torch.equal(again.encode(text, 2), encoder.encode(text, 2))
    assert again.settings == encoder.settings
    assert again.about == {"tokens": 7}
    encoder.save(file)
    half = Encoder.load(file, toy).encode(text, 2)
    assert torch.allclose(half, encoder.encode(text, 2), atol=0.05 * float(half.norm(dim=-1).mean()))
    assert file.stat().st_size < 2.2 * encoder.parameters + 10_000


@pytest.mark.parametrize("network", ["slots", "states"])
def test_whitened_coordinates_are_part_of_the_weights_in_a_file(toy, tmp_path, network):
    encoder = Encoder(toy, dataclasses.replace(SMALL, whiten=0.25, network=network))
    plain = Encoder(toy, dataclasses.replace(SMALL, network=network))
    file = tmp_path / "encoder.safetensors"
    encoder.save(file, torch.float32)
    again, text = Encoder.load(file, toy), ids_of(toy, 8, 1)[0]
    assert again.settings.whiten == 0
    assert again.network.change is None
    assert torch.allclose(again.encode(text, 2), encoder.encode(text, 2), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(plain.encode(text, 2), encoder.encode(text, 2), rtol=0.1), "the control: it matters"


def test_a_file_of_another_model_is_refused(toy, tmp_path):
    file = tmp_path / "encoder.safetensors"
    Encoder(toy, SMALL).save(file)
    with pytest.raises(EncoderError, match="belongs to toy:llama"):
        Encoder.load(file, load("toy:qwen2"))


def test_a_changed_file_is_refused(toy, tmp_path):
    file = tmp_path / "encoder.safetensors"
    Encoder(toy, SMALL).save(file)
    with safe_open(file, framework="numpy") as opened:
        arrays, metadata = {n: opened.get_tensor(n) for n in opened.keys()}, opened.metadata()
    arrays["leave.bias"] = arrays["leave.bias"] + np.float16(1)
    save_file(arrays, file, metadata)
    with pytest.raises(EncoderError, match="damaged"):
        Encoder.load(file, toy)
    file.write_bytes(b"nothing")
    with pytest.raises(EncoderError, match="cannot be read"):
        Encoder.load(file, toy)
    with pytest.raises(EncoderError, match="no file"):
        Encoder.load(tmp_path / "absent.safetensors", toy)


# 7: resuming


class KilledError(Exception):
    pass


@pytest.mark.parametrize("settings", [SMALL, dataclasses.replace(SMALL, bag=0.1, kept=0.25, segment=2)])
def test_killed_and_gone_on_equals_not_killed(toy, tmp_path, settings):
    if settings.segment:
        settings = dataclasses.replace(settings, curriculum=(Stage(1.0, ((4, 2),)),))

    def training(folder):
        return Training(Encoder(toy, settings), Uniform(toy), folder=folder, every_seconds=0)

    def kill(progress: Progress):
        if progress.steps == 7:
            raise KilledError

    straight = training(None).run(tokens=96 * 12)
    with pytest.raises(KilledError):
        training(tmp_path).run(tokens=96 * 12, on_step=kill)
    resumed = training(tmp_path)
    steps = []
    resumed.run(tokens=96 * 12, on_step=lambda progress: steps.append(progress.steps))
    assert steps[0] == 8, "it went on"
    for (name, a), b in zip(straight.network.named_parameters(), resumed.encoder.network.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_checkpoint_of_other_settings_is_not_used(toy, tmp_path):
    Training(Encoder(toy, SMALL), Uniform(toy), folder=tmp_path).run(tokens=96)
    other = Training(Encoder(toy, dataclasses.replace(SMALL, lr=1e-4)), Uniform(toy), folder=tmp_path)
    with pytest.warns(UserWarning, match="starts again"):
        other.run(tokens=96)
    assert other.progress.steps == 1


def test_a_budget_of_minutes_plans_the_tokens(toy, monkeypatch):
    from memlab.training.encoders import learning

    monkeypatch.setattr(learning, "MEASURED_AFTER", 0.05)
    training = Training(Encoder(toy, SMALL), Uniform(toy))
    lines = []
    training.log = lines.append
    training.run(minutes=0.02)
    assert 0.9 < training.progress.seconds / 1.2 < 1.5
    assert any("planned" in line for line in lines)
    # The plan follows the speed of this run: ten tokens per second, 30 seconds are left.
    training.progress, training._from = Progress(5, 1000, 5000.0, 90.0), (100, 0.0)
    assert training._plan(2.0)
    assert training.progress.planned == 1000 + 30 * 10
    with pytest.raises(EncoderError, match="budget"):
        training.run()


# What else an encoder must be


def test_vectors_have_the_asked_length(toy):
    encoder = Encoder(toy, dataclasses.replace(SMALL, norm=400.0, norm_of_many=0.0))
    text = ids_of(toy, 8, 1)[0]
    assert encoder.encode(text, 1).norm(dim=-1).tolist() == pytest.approx([400 * toy.d**0.5], rel=1e-5)
    assert encoder.encode(text, 3).norm(dim=-1).tolist() == pytest.approx([toy.embedding_stats["norm"]] * 3, rel=1e-5)


def test_order_and_batch(toy):
    """The order of the tokens matters, and what is encoded beside a text does not."""
    encoder = Encoder(toy, SMALL)
    texts = ids_of(toy, 8, 3)
    together = encoder.vectors(torch.from_numpy(texts), 2)
    assert torch.allclose(together[1], encoder.encode(texts[1], 2), rtol=1e-4, atol=1e-3)
    assert not torch.allclose(encoder.encode(texts[1], 1), encoder.encode(texts[1][::-1].copy(), 1), rtol=0.1)


def test_the_constant_does_not_read_the_text(toy):
    encoder = Encoder(toy, dataclasses.replace(SMALL, network="constant"))
    a, b = ids_of(toy, 8, 2)
    assert torch.equal(encoder.encode(a, 2), encoder.encode(b, 2))


def test_segment_means_cover_the_text():
    for n, k in itertools.product(range(1, 9), range(1, 9)):
        rows = segment_means(n, k)
        assert torch.allclose(rows.sum(1), torch.ones(k))
        assert (rows.sum(0) > 0).all()


def test_kept_segments_stand_as_text(toy):
    ids = ids_of(toy, 6, 2)
    vectors = torch.randn(2, 3, toy.d)
    kept = np.array([[False, True, False], [False, False, False]])
    first, second = with_text(toy, ids, vectors, kept)
    assert torch.equal(first, torch.cat([vectors[0, :1], toy.embed(ids[0, 2:4]), vectors[0, 2:]]))
    assert torch.equal(second, vectors[1])
    assert [row.k for row in rows_of(toy, ids, [len(first), len(second)])] == [4, 3]


def test_settings_survive_json_and_unknown_names_are_refused():
    for name in SETTINGS:
        settings = named(name).settings
        assert Settings.from_json(settings.to_json()) == settings
    with pytest.raises(EncoderError, match="no encoder 'nothing'"):
        named("nothing")
    with pytest.raises(EncoderError, match="no field"):
        Settings.from_json('{"colour": 1}')


@pytest.mark.parametrize("name", ["states", "teacher", "bag"])
def test_each_other_way_to_train_learns(toy, name):
    """The loss on texts that are seen again and again falls."""
    changes = {"states": {"network": "states"}, "teacher": {"teacher": 0.5}, "bag": {"bag": 0.3}}[name]
    settings = dataclasses.replace(
        SMALL, lr=3e-3, norm=30.0, curriculum=(Stage(1.0, ((3, 1),)),), batch_tokens=24, **changes
    )
    texts = ids_of(toy, 3, 8)
    encoder = Encoder(toy, settings)
    before = bits_with(encoder, texts, 1).sum()
    Training(encoder, Pool(texts)).run(tokens=24 * 20)
    assert bits_with(encoder, texts, 1).sum() < before


@pytest.mark.parametrize("name", SETTINGS)
def test_every_named_encoder_can_be_trained_on_each_of_its_tasks(toy, name, monkeypatch):
    from memlab.training.encoders import bridge

    monkeypatch.setattr(bridge, "sentence_vectors", lambda strings: torch.randn(len(strings), bridge.SIZE))
    settings = dataclasses.replace(named(name).settings, width=24, heads=2, reading_heads=2)
    training = Training(Encoder(toy, settings), Uniform(toy))
    for n, k in {task for stage in settings.curriculum for task in stage.tasks}:
        before = [w.detach().clone() for w in training.weights.values()]
        ids = ids_of(toy, n, 2)
        training.optimizer.zero_grad()
        assert np.isfinite(backward(training.encoder, ids, k, np.random.default_rng(0), training.bag))
        training.optimizer.step()
        assert any(not torch.equal(a, b) for a, b in zip(before, training.weights.values(), strict=True)), (n, k)
