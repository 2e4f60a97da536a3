"""Smaller models: what rounding, pruning and leaving layers out must do, whatever the weights are."""

import itertools

import numpy as np
import pytest
import torch

from memlab import Recipe, cram, decode, load
from memlab.models import ModelError, smaller
from tests.conftest import random_passages


def weights(rows=6, columns=64, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(lm, seed=0, length=9):
    ids = torch.from_numpy(np.random.default_rng(seed).integers(0, lm.vocabulary, (2, length)))
    return lm.model(inputs_embeds=lm.embed(ids).clone(), use_cache=False).logits


# Rounding ---------------------------------------------------------------------------------------------------------


def of_blocks(bits, rows=5, blocks=3, seed=1):
    """Weights that a file with scale and minimum (float16) per block of 32 holds; each block has both ends."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 2**bits, (rows, blocks, 32)).astype(np.float32)
    levels[..., 3], levels[..., 17] = 0, 2**bits - 1
    scale = rng.uniform(0.01, 0.1, (rows, blocks, 1)).astype(np.float16).astype(np.float32)
    low = -rng.uniform(0.1, 1, (rows, blocks, 1)).astype(np.float16).astype(np.float32)
    return torch.from_numpy((levels * scale + low).reshape(rows, -1))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_weights_that_come_from_such_blocks_do_not_change(bits):
    given = of_blocks(bits)
    assert torch.equal(smaller.round_blocks(given, bits), given)
    assert not torch.equal(smaller.round_blocks(given, bits, shift=16), given)  # the control: other blocks


def test_eight_bits_hold_weights_of_four_because_fifteen_divides_255():
    given = of_blocks(4)
    step = (given.amax() - given.amin()) / 15
    assert (smaller.round_blocks(given, 8) - given).abs().max() < 0.01 * step
    seven = of_blocks(3)  # 7 does not divide 255, so here a level is between two levels
    assert (smaller.round_blocks(seven, 8) - seven).abs().max() > 1e-4


@pytest.mark.parametrize("shift", [0, 16])
def test_a_rounded_weight_is_at_most_half_a_step_away_and_rounding_twice_is_rounding_once(shift):
    given = weights()
    errors = []
    for bits in (2, 3, 4, 8):
        once = smaller.round_blocks(given, bits, shift=shift)
        blocks = given.roll(-shift, 1).unflatten(1, (-1, 32))
        step = (blocks.amax(-1) - blocks.amin(-1)) / (2**bits - 1)
        apart = (once - given).roll(-shift, 1).unflatten(1, (-1, 32)).abs().amax(-1)
        assert (apart <= 0.5 * step * 1.01 + 2**-10 * blocks.abs().amax(-1)).all()  # the ends are rounded to float16
        assert once.roll(-shift, 1).unflatten(1, (-1, 32))[0, 0].unique().numel() <= 2**bits
        assert torch.allclose(smaller.round_blocks(once, bits, shift=shift), once, atol=1e-3 * float(step.max()))
        errors.append(float((once - given).square().mean()))
    assert errors == sorted(errors, reverse=True)


def test_equal_weights_stay_equal():
    assert torch.equal(smaller.round_blocks(torch.full((2, 32), 0.25), 4), torch.full((2, 32), 0.25))


def test_rows_that_blocks_do_not_divide_are_refused():
    with pytest.raises(ModelError, match="Rows of 40 weights cannot be rounded to 4 bits in blocks of 32"):
        smaller.round_blocks(torch.zeros(2, 40), 4)
    with pytest.raises(ModelError, match="Give at least 1"):
        smaller.round_blocks(torch.zeros(2, 32), 0)


# Pruning ----------------------------------------------------------------------------------------------------------


def test_the_share_holds_in_every_row_and_larger_shares_prune_the_same_weights():
    scores = weights().abs()
    masks = [smaller.keep_mask(scores, share) for share in (0, 0.1, 0.25, 0.5, 1)]
    assert [int(mask.sum(1)[0]) for mask in masks] == [64, 58, 48, 32, 0]
    for mask, more in itertools.pairwise(masks):
        assert (mask.sum(1) == mask.sum(1)[0]).all()
        assert (more <= mask).all()
    kept = scores[0][masks[3][0] == 1].min()
    assert (scores[0][masks[3][0] == 0] <= kept).all()


def test_two_of_four_leaves_two_of_every_four_and_prunes_no_better_than_half_a_row():
    scores = weights().abs()
    mask = smaller.keep_mask(scores, 0.5, 4)
    assert (mask.unflatten(1, (-1, 4)).sum(-1) == 2).all()
    assert not (smaller.keep_mask(scores, 0.5).unflatten(1, (-1, 4)).sum(-1) == 2).all()
    assert (scores * mask).sum() < (scores * smaller.keep_mask(scores, 0.5)).sum()


def test_pruning_refuses_shares_and_groups_that_do_not_exist():
    for share, group in ((1.5, 0), (-0.1, 0), (0.5, 5)):
        with pytest.raises(ModelError, match="cannot be pruned"):
            smaller.keep_mask(weights(), share, group)


def test_the_weight_of_least_effect_is_the_one_whose_loss_changes_the_output_least():
    """Brute force over all single weights of a row. Control: the smallest weight is another one."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((50, 16)) * rng.uniform(0.1, 3, 16)
    matrix = rng.standard_normal((8, 16))
    scores = torch.from_numpy(np.abs(matrix) * np.linalg.norm(inputs, axis=0))
    chosen = smaller.keep_mask(scores, 1 / 16).argmin(1).numpy()
    damage = np.array([[np.square(inputs[:, j] * w).sum() for j, w in enumerate(row)] for row in matrix])
    assert chosen.tolist() == damage.argmin(1).tolist()
    assert chosen.tolist() != np.abs(matrix).argmin(1).tolist()


def test_nothing_pruned_is_the_full_model(toy):
    assert smaller.pruned(toy, 0.0).fingerprint == toy.fingerprint


def test_equal_norms_prune_by_magnitude_and_unequal_ones_do_not(toy):
    matrices = smaller.matrices(toy.model, toy.layers.path)
    equal = {name: torch.full((m.in_features,), 3.0) for name, m in matrices.items()}
    by_magnitude = smaller.pruned(toy, 0.5)
    assert smaller.pruned(toy, 0.5, norms=equal).fingerprint == by_magnitude.fingerprint
    norms = smaller.input_norms(toy, [np.arange(20), np.arange(30, 45)])
    assert smaller.pruned(toy, 0.5, norms=norms).fingerprint != by_magnitude.fingerprint
    for module in smaller.matrices(by_magnitude.model, by_magnitude.layers.path).values():
        assert ((module.weight == 0).float().mean(1) == 0.5).all()
    assert torch.equal(by_magnitude.model.get_input_embeddings().weight, toy.model.get_input_embeddings().weight)


def test_norms_of_inputs_are_those_of_the_states_that_a_layer_is_given(toy):
    rows = [np.arange(12), np.arange(40, 60)]
    found = smaller.input_norms(toy, rows)
    layer = toy.model.get_submodule(toy.layers.path)[1]
    prefix = list(toy.sink_prefix)
    squares = 0
    with torch.no_grad():
        for ids in rows:
            states = toy.layers.stream(toy.embed([*prefix, *ids])[None])[1]
            squares = squares + layer.input_layernorm(states).double().square().sum((0, 1))
    assert torch.allclose(found[f"{toy.layers.path}.1.self_attn.q_proj"].double(), squares.sqrt(), rtol=1e-5)


# Layers -----------------------------------------------------------------------------------------------------------


def test_no_layer_left_out_is_the_full_model(any_toy):
    assert smaller.without_layers(any_toy, ()).fingerprint == any_toy.fingerprint


@torch.no_grad()
def test_an_early_exit_reads_the_state_before_the_layers_that_are_left_out(toy):
    """Control: the state that the first layer is given, which is the embedding, gives other logits."""
    rows = toy.embed(torch.arange(18).view(2, 9))
    states = toy.layers.stream(rows)[:-1]
    less = smaller.without_layers(toy, [1])
    given = less.model(inputs_embeds=rows.clone(), use_cache=False).logits
    exits = [toy.model.lm_head(toy.model.model.norm(states[layer])) for layer in (0, 1)]
    assert torch.allclose(given, exits[1], atol=1e-4)
    assert not torch.allclose(given, exits[0], atol=0.1)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_model_without_a_layer_is_one_whose_layer_passes_its_input_on(any_toy, layer):
    less = smaller.without_layers(any_toy, [layer])
    assert less.layers.count == any_toy.layers.count - 1
    assert less.fingerprint != any_toy.fingerprint

    def passes_on(module, args, given, output):
        before = args[0] if args else given["hidden_states"]
        return (before, *output[1:]) if isinstance(output, tuple) else before

    before = logits(any_toy)
    module = any_toy.model.get_submodule(any_toy.layers.path)[layer]
    handle = module.register_forward_hook(passes_on, with_kwargs=True)
    expected = logits(any_toy)
    handle.remove()
    assert torch.allclose(logits(less), expected, atol=1e-4 * float(expected.abs().max()))
    assert not torch.allclose(before, expected, atol=1e-2 * float(expected.abs().max()))
    assert torch.equal(logits(any_toy), before)  # the full model is as it was


def test_a_layer_without_effect_is_the_most_redundant_one_and_leaving_it_out_changes_nothing():
    import copy

    lm = load("toy:llama")
    model = copy.deepcopy(lm.model)
    layer = model.get_submodule(lm.layers.path)[1]
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    idle = smaller.wrapped(lm, model, "with an idle layer")
    changes = smaller.layer_changes(idle, [np.arange(20)])
    assert changes[1] == pytest.approx(0, abs=1e-12)
    assert changes[0] > 0.01
    assert smaller.least_changing(changes, 1) == (1,)
    less = smaller.without_layers(idle, [1])
    assert torch.allclose(logits(less), logits(idle), atol=1e-5 * float(logits(idle).abs().max()))


def test_layers_that_do_not_exist_and_all_layers_cannot_be_left_out(toy):
    for layers in ([2], [-1], [0, 1]):
        with pytest.raises(ModelError, match="toy:llama has 2 layers"):
            smaller.without_layers(toy, layers)


def test_a_smaller_model_is_searched_like_any_other_and_its_vectors_are_its_own(toy):
    less = smaller.without_layers(toy, [1])
    (mem,) = cram(less, random_passages(less, 1), Recipe.default(budget=200), progress=False)
    assert mem.exact
    assert mem.model == "toy:llama, 1 layers fewer"
    with pytest.raises(ModelError, match="this vector was trained for toy:llama, 1 layers fewer"):
        decode(toy, mem)


@pytest.mark.real
def test_the_default_model_is_its_own_rounding_to_four_bits(real):
    """Its file holds all matrices of its layers in blocks of 32 with 4 bits. Control: other blocks.

    So a row "4 bits" of this model says nothing about what 4 bits cost.
    """
    matrices = smaller.matrices(real.model, real.layers.path)
    assert len(matrices) == 210
    for name, module in matrices.items():
        shifted = smaller.round_blocks(module.weight, 4, shift=16)
        assert 0.03 < float((shifted - module.weight).norm() / module.weight.norm()) < 0.15, name
    four = smaller.rounded(real, 4)
    assert four.fingerprint == real.fingerprint


def test_smaller_models_keep_the_sink_prefix(toy, monkeypatch):
    """A pruned SmolLM2 gains little from its token, but vectors without it need four times the steps."""
    monkeypatch.setitem(toy.__dict__, "sink_prefix", (3,))
    made = smaller.pruned(toy, 0.25)
    assert made.sink_prefix == made.prefix_ids("sink") == (3,)
    assert smaller.without_layers(toy, [0]).sink_prefix == (3,)
