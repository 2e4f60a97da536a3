"""Vectors that are written into the layers of a model: known answers, training, decoding, files, refusals."""

import contextlib
import copy
import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

from memlab import MemVector, Recipe, RecipeError, Store, VectorError, check, cram, decode, export_peft, to_embeds
from memlab.decoding.decode import context_of, fed_of, logits_stream, require_weights, teacher_forced
from memlab.decoding.verify import verify_sample
from memlab.models import FrozenLM, ModelError, load
from memlab.models.layers import Layers
from memlab.probes.attention import knock_out
from memlab.probes.token_costs import gains
from memlab.scoring.objective import Batch, Row
from memlab.training.job import TrainingJob
from memlab.training.starts import initial_mem

PLACES = ("every layer", "layer 0", "layer 1")


def recipe(where, **changes):
    return Recipe.default(**(dict(where=where, whiten=0, k=2, budget=60) | changes))


def vector(lm, where, mem, ids, *, k=2, prefix=(4,), suffix=(7,)):
    """An untrained vector."""
    return MemVector(
        mem=mem, token_ids=ids, prefix_ids=list(prefix), suffix_ids=list(suffix), model=lm.name,
        fingerprint=lm.fingerprint, recipe=recipe(where, k=k),
    )  # fmt: skip


def logits_of(lm, mem, n=4, **settings):
    return torch.stack([x[0] for x in itertools.islice(logits_stream(lm, [mem], "float32", **settings), n)])


def layer_states(lm, mem):
    """(layers, k, d): the states that an input vector has at its positions in each layer."""
    first = len(mem.prefix_ids)
    return lm.layers.stream(context_of(lm, mem)[None])[:-1, 0, first : first + mem.k]


def noise(lm, rows, seed=0, scale=0.3):
    return np.random.default_rng(seed).standard_normal((rows, lm.d)).astype(np.float32) * scale


IDS = [5, 9, 2, 7, 11, 3]


# Recipes ---------------------------------------------------------------------------------------------------------


def test_the_default_place_is_not_in_the_key():
    assert "where" not in Recipe.default().canonical()
    assert Recipe(where="input").canonical() == Recipe().canonical() == "{}"
    assert json.loads(Recipe(where="layer 7").canonical()) == {"where": "layer 7"}
    assert len({Recipe(where=where).canonical() for where in ("input", "every layer", "layer 0", "layer 1")}) == 4


@pytest.mark.parametrize(
    "where", ["", "layer", "layer -1", "layer 01", "layer 1.5", "every", "layers 1", "layer 7 ", 7]
)
def test_a_place_that_is_none_is_refused(where):
    with pytest.raises(RecipeError, match=r"Give one of: input, every layer, layer 0, layer 1, and so on\."):
        Recipe(where=where)


def test_the_preconditioner_is_of_inputs():
    with pytest.raises(RecipeError, match=r"whiten is 0\.25\. Give 0, as Recipe\.layers does"):
        Recipe.default(where="every layer")
    assert Recipe.layers(k=2).name == "layers k=2"
    assert Recipe.layers(where="layer 7").name == "layers where=layer 7"


def test_a_layer_that_the_model_does_not_have_is_refused(toy):
    with pytest.raises(ModelError, match=r"toy:llama has no layer 2\. Its layers are layer 0 to layer 1\."):
        cram(toy, toy.passage_of_ids(IDS), recipe("layer 2"), progress=False)


# Known answers ---------------------------------------------------------------------------------------------------


def test_a_vector_at_the_input_of_layer_0_is_an_input_vector(any_toy):
    mem = noise(any_toy, 2)
    as_input = logits_of(any_toy, vector(any_toy, "input", mem, IDS))
    # OPT adds the embedding of the position before its first layer.
    shift = layer_states(any_toy, vector(any_toy, "input", mem, IDS))[0].numpy() - mem
    assert np.abs(shift).max() < 1e-6 or any_toy.name == "toy:opt"
    in_layer = logits_of(any_toy, vector(any_toy, "layer 0", mem + shift, IDS))
    torch.testing.assert_close(in_layer, as_input, rtol=1e-4, atol=1e-4)
    other = logits_of(any_toy, vector(any_toy, "layer 1", mem + shift, IDS))
    assert (other - as_input).abs().max() > 1e-2


def test_states_of_an_input_vector_written_into_every_layer_change_nothing(any_toy):
    mem = vector(any_toy, "input", noise(any_toy, 2), IDS)
    states = layer_states(any_toy, mem)
    expected = logits_of(any_toy, mem)
    written = logits_of(any_toy, vector(any_toy, "every layer", states.reshape(-1, any_toy.d).numpy(), IDS))
    torch.testing.assert_close(written, expected, rtol=1e-4, atol=1e-4)
    for axis, exchanged in enumerate(("layers", "positions")):
        wrong = states.flip(axis).reshape(-1, any_toy.d).numpy()
        change = (logits_of(any_toy, vector(any_toy, "every layer", wrong, IDS)) - expected).abs().max()
        # The layers of OPT know positions from the states alone, so states may change places.
        assert (change > 1e-2) == ((exchanged, any_toy.name) != ("positions", "toy:opt"))


def test_the_states_of_one_layer_leave_the_layers_before_it_alone(toy):
    mem = vector(toy, "layer 1", noise(toy, 2), IDS)
    inputs, written = fed_of(toy, [mem])
    assert not inputs[0, 1:3].any()  # nothing stands at the input of its positions
    assert [(o.layer, o.row.tolist(), o.position.tolist()) for o in written] == [(1, [0, 0], [1, 2])]
    with toy.layers.written(toy.model, written):
        states = toy.layers.stream(inputs)[:-1]
    before = toy.layers.stream(inputs)[:-1]
    assert torch.equal(states[0], before[0])
    np.testing.assert_array_equal(states[1, 0, 1:3].numpy(), mem.mem)
    assert torch.equal(states[1, 0, 0], before[1, 0, 0])


# Batches and gradients -------------------------------------------------------------------------------------------


def mixed(lm):
    rng = np.random.default_rng(0)
    shapes = [
        (3, 1, (), (), "input"), (9, 3, (5,), (), "every layer"), (6, 2, (), (7, 8), "layer 1"),
        (4, 1, (3, 4), (), "every layer"), (5, 2, (3,), (), "input"),
    ]  # fmt: skip
    rows = [Row(rng.integers(0, lm.vocabulary, n), p, s, k, where=where) for n, k, p, s, where in shapes]
    sizes = [row.k * max(1, len(lm.layers.at(row.where))) for row in rows]
    return rows, [torch.tensor(noise(lm, size, i)) for i, size in enumerate(sizes)]


def test_a_row_alone_and_in_a_batch_of_all_places_agree(any_toy):
    rows, mems = mixed(any_toy)
    together, gradients = Batch(any_toy, rows).scores(mems, torch.float32, gradient=True)
    for i, (row, mem) in enumerate(zip(rows, mems, strict=True)):
        alone, (gradient,) = Batch(any_toy, [row]).scores([mem], torch.float32, gradient=True)
        assert float(together.loss[i]) == pytest.approx(float(alone.loss[0]), rel=1e-5)
        assert gradients[i].shape == mem.shape
        assert (gradients[i] - gradient).norm() / gradient.norm() < 1e-5


def test_gradient_equals_finite_differences(any_toy):
    rows, mems = mixed(any_toy)
    batch = Batch(any_toy, rows)
    _, gradients = batch.scores(mems, torch.float32, gradient=True)
    for i, gradient in enumerate(gradients):
        step = gradient / gradient.norm() * 3e-3
        up, _ = batch.scores([*mems[:i], mems[i] + step, *mems[i + 1 :]], torch.float32)
        down, _ = batch.scores([*mems[:i], mems[i] - step, *mems[i + 1 :]], torch.float32)
        slope = float(up.loss[i] - down.loss[i]) / 6e-3
        assert slope == pytest.approx(float(gradient.norm()), rel=0.03)


def test_the_loss_is_that_of_the_decode(any_toy):
    """What training scores is what the decode sees: the same logits at every token."""
    for where in PLACES:
        rows = 2 * len(any_toy.layers.at(where))
        mem = vector(any_toy, where, noise(any_toy, rows), IDS)
        ids, logits = [], []
        for one in itertools.islice(logits_stream(any_toy, [mem], "float32"), len(IDS)):
            logits.append(one[0])
            ids.append(int(one.argmax()))
        mem = dataclasses.replace(mem, token_ids=ids)
        bits = torch.nn.functional.cross_entropy(torch.stack(logits), torch.tensor(ids)) / np.log(2)
        accuracy, loss, margin = teacher_forced(any_toy, mem)
        assert (accuracy, loss) == (1.0, pytest.approx(float(bits), rel=1e-3))
        assert margin == pytest.approx(check(any_toy, mem).margin, abs=1e-3)
        assert gains(any_toy, [mem]).bits_with[0] == pytest.approx(loss * len(ids), rel=1e-4)


# Training --------------------------------------------------------------------------------------------------------


def test_the_first_vector_does_not_depend_on_the_batch(toy):
    passages = [toy.passage_of_ids(ids) for ids in (IDS, IDS[:3], [8, 1, 1, 1, 2, 3, 4, 5, 6])]
    firsts = [initial_mem(toy, p, recipe("every layer")) for p in passages]
    assert [first.shape for first in firsts] == [(4, toy.d)] * 3
    alone = [cram(toy, p, recipe("every layer", budget=0), progress=False)[0] for p in passages]
    together = cram(toy, passages, recipe("every layer", budget=0), progress=False)
    for first, one, other in zip(firsts, alone, together, strict=True):
        np.testing.assert_array_equal(one.mem, first.numpy())
        np.testing.assert_array_equal(other.mem, first.numpy())


@pytest.mark.parametrize("where", PLACES)
def test_crammed_and_decoded_four_ways(any_toy, where, tmp_path):
    (mem,) = cram(any_toy, any_toy.passage_of_ids(IDS), recipe(where), progress=False)
    assert mem.exact
    assert (mem.k, mem.mem.shape) == (2, (2 * len(any_toy.layers.at(where)), any_toy.d))
    assert mem.recipe.where == where
    cached, whole = (check(any_toy, mem, cache=cache) for cache in (True, False))
    assert cached.margin == pytest.approx(whole.margin, abs=1e-3)
    again = MemVector.load(mem.save(tmp_path / "mem.safetensors"))
    assert (again.key, again.k, again.recipe) == (mem.key, 2, mem.recipe)
    assert check(any_toy, again).margin == pytest.approx(cached.margin, abs=1e-3)  # by a pass or by a decode
    assert check(any_toy, again, first_given=True).right == len(IDS) - 1
    assert not check(any_toy, again.with_mem(np.roll(again.mem, 1, axis=0), "rows exchanged")).exact


def test_places_share_a_batch(toy):
    passages = [toy.passage_of_ids(IDS)] * 4
    recipes = [recipe(where) for where in ("input", *PLACES)]
    mems = cram(toy, passages, recipes, progress=False)
    assert [mem.exact for mem in mems] == [True] * 4
    assert len({mem.key for mem in mems}) == 4
    assert [row.tolist() for row in decode(toy, mems)] == [IDS] * 4  # contexts of one length, in one batch


def test_a_stored_vector_is_verified_and_found_again(toy, store):
    passage = toy.passage_of_ids(IDS)
    (mem,) = cram(toy, passage, recipe("every layer"), store, progress=False)
    (again,) = cram(toy, passage, recipe("every layer"), store, progress=False)
    np.testing.assert_array_equal(again.mem, mem.mem)
    assert store.verify() == {}
    assert store.table().k.tolist() == [2]


def test_a_warm_start_needs_the_same_place(toy):
    passage = toy.passage_of_ids(IDS)
    (mem,) = cram(toy, passage, recipe("layer 1", budget=3), progress=False)
    with pytest.raises(VectorError, match="where=layer 1, the recipe where=layer 0"):
        TrainingJob(toy, 0, passage, recipe("layer 0"), mem)
    (more,) = cram(toy, passage, recipe("layer 1"), start=mem, progress=False)
    assert more.exact
    assert more.parent == mem.lineage_id


# Refusals --------------------------------------------------------------------------------------------------------


def test_what_needs_an_input_vector_refuses_others(toy, tmp_path):
    (mem,) = cram(toy, toy.passage_of_ids(IDS), recipe("every layer"), progress=False)
    for use in (
        lambda: to_embeds(mem, toy),
        lambda: export_peft(mem, tmp_path / "adapter", toy),
        lambda: context_of(toy, mem),
        lambda: knock_out(toy, mem, [0]),
    ):
        with pytest.raises(VectorError, match=r"written into the layers of the model \(every layer\)"):
            use()
    assert not (tmp_path / "adapter").exists()


def test_rows_that_do_not_fit_the_layers_are_refused(toy):
    mem = vector(toy, "every layer", noise(toy, 3), IDS)
    with pytest.raises(VectorError, match=r"has 3 rows, but 2 positions at 'every layer' of toy:llama need 4"):
        require_weights(toy, mem)


class Remembers(torch.nn.Module):
    """A layer that also sees the input of the model, as layers of Zamba and Gemma-3n do."""

    def __init__(self, layer, lm):
        super().__init__()
        self.layer, self.seen = layer, None
        lm.get_input_embeddings().register_forward_hook(lambda *_: None)
        lm.model.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, _, args, kwargs):
        self.seen = kwargs["inputs_embeds"]

    def forward(self, hidden_states, **settings):
        return self.layer(hidden_states + self.seen, **settings)


def test_a_model_with_a_second_way_into_its_layers_is_refused():
    model = copy.deepcopy(load("toy:llama").model)
    good = FrozenLM.from_model(copy.deepcopy(model))
    assert good.layers.count == 2
    model.model.layers[1] = Remembers(model.model.layers[1], model)
    lm = layers_of(model)
    with pytest.raises(ModelError, match="no list of layers that pass on the hidden states and nothing else"):
        lm.at("every layer")
    assert lm.at("input") == ()


def layers_of(model):
    return Layers(model, "remembers", contextlib.nullcontext())


def test_no_hook_stays_behind(toy):
    before = toy.watch.hooks()
    mem = vector(toy, "every layer", noise(toy, 4), IDS)
    logits_of(toy, mem)
    with pytest.raises(RuntimeError):
        toy.step(torch.float32, embeddings=torch.zeros(1, 3, toy.d + 1), written=fed_of(toy, [mem])[1])
    assert toy.watch.hooks() == before


def test_the_card_and_the_lists_name_the_place(toy, store):
    from memlab.panels.picker import VectorPicker, label_of

    mems = cram(toy, [toy.passage_of_ids(IDS)] * 2, [recipe("every layer"), recipe("input")], store, progress=False)
    html = mems[0]._repr_html_()
    assert "4 vectors of 384 numbers" in html
    assert "written into every layer of the model" in html
    assert "written into" not in mems[1]._repr_html_()
    assert label_of(mems[0]).endswith("2 vectors, in every layer")
    # A map lays out vectors of one size only.
    assert VectorPicker(toy, mems, store, k=2).mems == mems[1:]


def test_a_sample_of_a_store_is_decoded_again(store):
    lm = load("toy:llama")
    cram(lm, lm.passage_of_ids(IDS), recipe("every layer"), store, progress=False)
    assert len(verify_sample(store, 1, progress=False).sound) == 1


def test_no_cuda_graph_has_a_vector_in_a_layer(toy, monkeypatch):
    def fail(_):
        raise AssertionError("graphs were asked for")

    monkeypatch.setattr("memlab.scoring.objective.graph_cache_of", fail)
    row = Row(np.array(IDS), (), (), 1, where="layer 1")
    Batch(toy, [row]).scores([torch.zeros(1, toy.d)], torch.float32, gradient=True)
    with pytest.raises(AssertionError, match="graphs were asked for"):
        Batch(toy, [dataclasses.replace(row, where="input")]).scores(
            [torch.zeros(1, toy.d)], torch.float32, gradient=True
        )


def test_a_checkpoint_goes_on_as_if_nothing_had_happened(toy, store, monkeypatch):
    monkeypatch.setattr("memlab.training.cram.CHECKPOINT_AFTER", 0)
    passage, slow = toy.passage_of_ids(IDS), recipe("every layer", lr=0.05)
    (whole,) = cram(toy, passage, slow, progress=False)
    assert whole.steps > 4
    with pytest.raises(KeyboardInterrupt):
        cram(toy, passage, slow, store, progress=False, on_step=lambda now: now.steps[0] == 3)
    (mem,) = cram(toy, passage, slow, store, progress=False)
    assert mem.provenance["resumed"] == [4] or mem.provenance["resumed"] == [3]
    np.testing.assert_array_equal(mem.mem, whole.mem)


@pytest.mark.real
def test_only_keys_and_values_of_a_layer_are_read(real):
    """Known answers on the default model, with a bundled vector and the states it has in each layer."""
    bundled = Store.bundled()
    keys = sorted(bundled.table().query("exact and k == 1 and tokens == 16").key)
    mem = bundled.get(keys[0])
    states = layer_states(real, mem)[:, 0]
    inside = dataclasses.replace(
        mem, mem=states.numpy(), recipe=Recipe.layers(), parent=None, checks=(), provenance={"derived": "states"}
    )
    expected = logits_of(real, mem, mem.n)
    torch.testing.assert_close(logits_of(real, inside, mem.n), expected, rtol=1e-3, atol=1e-3)

    # A layer reads 2 x 192 numbers of its 576. Other directions may be exchanged if the length stays.
    other = states.clone()
    for i, layer in enumerate(list(real.model.model.layers)[:-1]):
        reads = torch.cat([layer.self_attn.k_proj.weight, layer.self_attn.v_proj.weight]) * layer.input_layernorm.weight
        basis = torch.linalg.svd(reads.double(), full_matrices=False).Vh
        assert len(basis) == 384
        seen = (states[i].double() @ basis.T) @ basis
        free = torch.randn(real.d, generator=torch.Generator().manual_seed(i)).double()
        free -= (free @ basis.T) @ basis
        other[i] = (seen + free / free.norm() * (states[i].double() - seen).norm()).float()
    assert ((other - states).norm(dim=1)[:-1] > 0.1 * states.norm(dim=1)[:-1]).all()
    same = inside.with_mem(other.numpy(), "other directions that no layer reads")
    torch.testing.assert_close(logits_of(real, same, mem.n), expected, rtol=1e-2, atol=1e-2)
    noise_there = inside.with_mem(2 * states.numpy() - other.numpy()[::-1], "directions that layers read")
    assert (logits_of(real, noise_there, mem.n) - expected).abs().max() > 1
