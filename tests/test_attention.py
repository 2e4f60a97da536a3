"""Attention is compared with weights computed here; a knock-out with a model that cannot see the vectors."""

import numpy as np
import pytest
import torch

from memlab import ModelError, Recipe, cram, load
from memlab.probes import attention
from memlab.probes.token_costs import token_scores
from tests.conftest import random_passages


@pytest.fixture(scope="module")
def crammed():
    lm = load("toy:llama")
    (mem,) = cram(lm, random_passages(lm, 1, 5), Recipe.default(budget=40, k=2, prefix=(1,)), progress=False)
    return lm, mem


@pytest.mark.slow
def test_attention_mass_sums_to_one_and_is_empty_without_attention(any_toy):
    before = any_toy.model.config._attn_implementation
    (mem,) = cram(any_toy, random_passages(any_toy, 1, 4), Recipe.default(budget=2, prefix=(1,)), progress=False)
    table = attention.attention_mass(any_toy, mem)
    assert any_toy.model.config._attn_implementation == before
    if not any_toy.family.attention_names:
        assert len(table) == 0
        with pytest.raises(ModelError, match="no attention layers"):
            attention.attention_layers(any_toy)
        return
    config = any_toy.model.config
    assert len(table) == config.num_hidden_layers * config.num_attention_heads
    # Sink, vector and text are all positions.
    np.testing.assert_allclose(table[["on_first", "on_mem", "on_text"]].sum(axis=1), 1, atol=1e-5)
    assert (table[["on_first", "on_mem"]] > 0).all(axis=None)


def test_attention_mass_of_the_first_layer_by_hand(crammed):
    """Query and key of layer 0 are rotated and multiplied here, and compared with the table's first rows."""
    lm, mem = crammed
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

    layer = lm.model.model.layers[0]
    rows = torch.cat([lm.embed(mem.prefix_ids), torch.tensor(mem.mem), lm.embed(mem.token_ids)])[None]
    with torch.no_grad():
        x = layer.input_layernorm(rows)
        heads = layer.self_attn
        size = heads.head_dim
        q = heads.q_proj(x).view(1, -1, lm.model.config.num_attention_heads, size).transpose(1, 2)
        k = heads.k_proj(x).view(1, -1, lm.model.config.num_key_value_heads, size).transpose(1, 2)
        rotation = lm.model.model.rotary_emb(x, torch.arange(rows.shape[1])[None])
        q, k = apply_rotary_pos_emb(q, k, *rotation)
        scores = q @ repeat_kv(k, heads.num_key_value_groups).mT / size**0.5
        blind = torch.ones(rows.shape[1], rows.shape[1]).triu(1).bool()
        each = scores.masked_fill(blind, -torch.inf).softmax(-1)[0, :, -mem.n :]
    shares, weights = attention.token_attention(lm, mem), each.mean(1)
    assert shares.shape == (lm.model.config.num_hidden_layers, len(each), mem.n, 3)
    np.testing.assert_allclose(shares[0, ..., 0], each[..., 0], atol=1e-5)
    np.testing.assert_allclose(shares[0, ..., 1], each[..., 1:3].sum(-1), atol=1e-5)
    np.testing.assert_allclose(shares[0, ..., 2], each[..., 3:].sum(-1), atol=1e-5)
    table = attention.attention_mass(lm, mem)
    first = table[table.layer == 0]
    np.testing.assert_allclose(first.on_first, weights[:, 0], atol=1e-5)
    np.testing.assert_allclose(first.on_mem, weights[:, 1:3].sum(1), atol=1e-5)


def test_a_knock_out_of_no_layers_changes_nothing(any_toy):
    (mem,) = cram(any_toy, random_passages(any_toy, 1, 5), Recipe.default(budget=20, k=2), progress=False)
    if not any_toy.family.attention_names:
        with pytest.raises(ModelError, match="no attention layers"):
            attention.knock_out(any_toy, mem, [])
        return
    context = torch.cat([any_toy.embed(mem.prefix_ids), torch.tensor(mem.mem)])
    bits, right = token_scores(any_toy, mem.token_ids, context)
    found = attention.knock_out(any_toy, mem, [])
    assert found[0] == pytest.approx(bits.mean(), abs=1e-3)
    assert found[1] == pytest.approx(right.mean())
    everywhere = attention.knock_out(any_toy, mem, range(any_toy.model.config.num_hidden_layers))
    assert abs(everywhere[0] - found[0]) > 1e-3


def test_hidden_in_all_layers_the_vector_has_no_effect(crammed):
    """With the vectors hidden in all layers, later positions are the same for another vector."""
    lm, mem = crammed
    layers = range(lm.model.config.num_hidden_layers)
    other = mem.with_mem(np.roll(mem.mem, 7, axis=1) * 0.3, "another")

    def later_states(vector):
        seen = {}

        def record(module, args, out):
            seen["hidden"] = out.last_hidden_state[0, -mem.n + 1 :].clone()

        hook = lm.model.model.register_forward_hook(record)
        try:
            attention.knock_out(lm, vector, layers)
        finally:
            hook.remove()
        return seen["hidden"]

    torch.testing.assert_close(later_states(mem), later_states(other), atol=1e-5, rtol=1e-4)


def test_knock_outs_covers_all_layers_and_modes(crammed):
    lm, mem = crammed
    table = attention.knock_outs(lm, mem)
    layers = lm.model.config.num_hidden_layers
    assert len(table) == 1 + 3 * layers
    at = table.set_index(["layer", "mode"])
    # From the first layer on, and up to the last: both are all layers.
    assert at.loc[(0, "from"), "bits"] == pytest.approx(at.loc[(layers - 1, "until"), "bits"])
    assert at.loc[(0, "only"), "bits"] == pytest.approx(at.loc[(0, "until"), "bits"])
    assert at.loc[(-1, "none"), "bits"] < at.loc[(0, "from"), "bits"]


def test_impossible_knock_outs_raise(crammed):
    lm, mem = crammed
    with pytest.raises(ValueError, match="Give layers 0 to"):
        attention.knock_out(lm, mem, [99])
    with pytest.raises(ValueError, match="Give mem or prefix"):
        attention.knock_out(lm, mem, [0], what="text")
    without = attention.knock_out(lm, mem, [0], what="prefix")
    assert without[0] != attention.knock_out(lm, mem, [])[0]
    modules = attention.attention_layers(lm)
    assert not any(module._forward_pre_hooks for module in modules)  # no hook is left


def test_bits_before_and_after_agree_with_the_loss(crammed):
    lm, mem = crammed
    table = attention.bits_before_and_after(lm, mem)
    assert table.position.tolist() == [1, 2, 3, 4, 5]
    assert table.after.mean() == pytest.approx(mem.loss_bits, abs=1e-3)
    assert table.token.tolist() == [lm.decode_ids([i]) for i in mem.token_ids]
    bits = lm.token_bits(mem.token_ids)
    if mem.prefix_ids.tolist() == list(lm.sink_prefix):
        np.testing.assert_allclose(table.before, bits, atol=1e-4)
