"""A cache with hidden positions is compared with caches that are really shorter, and with the model's own keys."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from memlab import ModelError, load
from memlab.experiments.landscape import reading
from memlab.experiments.landscape.method import Context
from memlab.models import FrozenLM
from memlab.probes import kept_cache
from memlab.probes.attention import attention_layers, attention_shares
from memlab.probes.hidden_attention import eager_attention, hiding
from memlab.probes.token_costs import token_scores

CUE, IDS = (3, 40, 7), np.array([20, 5, 61, 9, 33, 2])


@pytest.fixture(scope="module")
def grouped():
    """A model of 2 KV heads that serve 6 query heads."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, initializer_range=0.2, pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return FrozenLM.from_model(LlamaForCausalLM(config))


@pytest.fixture(scope="module")
def kept(toy):
    return scattered(toy)


def scattered(lm):
    """A cache of 12 positions. Each layer and head keeps 7 of its own, always the first and never the same others."""
    whole = kept_cache.prefill(lm, np.random.default_rng(1).integers(0, lm.vocabulary, 12))
    drawn = torch.rand(whole.keep.shape, generator=torch.Generator().manual_seed(2))
    drawn[..., 0] = 2
    keep = drawn.argsort(dim=-1, descending=True).argsort(dim=-1) < 7
    return dataclasses.replace(whole, keep=keep)


def pruned(cache):
    """A cache of transformers that has only the kept positions."""
    short = DynamicCache()
    for layer, keep in enumerate(cache.keep):
        index = torch.stack([head.nonzero()[:, 0] for head in keep])[..., None].expand(-1, -1, cache.keys.shape[-1])
        short.update(cache.keys[layer].gather(1, index)[None], cache.values[layer].gather(1, index)[None], layer)
    return short


def logits(lm, past, ids, first=None):
    at = None if first is None else torch.arange(first, first + len(ids))[None]
    with torch.no_grad():
        return lm.model(input_ids=torch.tensor([list(ids)]), past_key_values=past, position_ids=at).logits[0]


def bits_of(rows, ids):
    return torch.nn.functional.cross_entropy(rows, torch.tensor(ids), reduction="none").numpy() / np.log(2)


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "opt", "olmo", "gemma3", "qwen2"])
@pytest.mark.parametrize("size", [12, 70])
def test_the_whole_cache_is_the_whole_text(name, size):
    """Every family; also with more positions than the sliding window of gemma3 (64)."""
    lm = load(f"toy:{name}")
    text = np.random.default_rng(0).integers(0, lm.vocabulary, size)
    bits, right = kept_cache.token_scores(lm, kept_cache.prefill(lm, text), IDS, CUE)
    read, hit = token_scores(lm, IDS, lm.embed([*text, *CUE]))
    np.testing.assert_allclose(bits, read, atol=1e-4)
    assert (right == hit).all()
    from_vectors = kept_cache.prefill(lm, lm.embed(text))
    np.testing.assert_allclose(kept_cache.token_scores(lm, from_vectors, IDS, CUE)[0], read, atol=1e-4)
    other = kept_cache.prefill(lm, text[::-1].copy())
    assert abs(kept_cache.token_scores(lm, other, IDS, CUE)[0] - read).max() > 0.1


@pytest.mark.parametrize("model", ["toy", "grouped"])
def test_hidden_positions_are_as_good_as_gone_if_positions_go_on(model, request):
    """Fact 1: masked equals pruned with explicit positions. Without them a query has positions inside the old text."""
    lm = request.getfixturevalue(model)
    kept, fed = scattered(lm), [*CUE, *IDS[:-1]]
    bits, _ = kept_cache.token_scores(lm, kept, IDS, CUE)
    right = logits(lm, pruned(kept), fed, first=kept.positions)[len(CUE) - 1 :]
    np.testing.assert_allclose(bits, bits_of(right, IDS), atol=1e-4)
    wrong = logits(lm, pruned(kept), fed)[len(CUE) - 1 :]
    assert abs(bits - bits_of(wrong, IDS)).max() > 0.05
    whole = dataclasses.replace(kept, keep=torch.ones_like(kept.keep))
    assert abs(kept_cache.token_scores(lm, whole, IDS, CUE)[0] - bits).max() > 0.05


def test_only_distances_count(toy):
    """Fact 2: all positions moved by a number. A model with absolute positions changes."""
    with torch.no_grad():
        for lm, same in ((toy, True), (load("toy:opt"), False)):
            row = torch.tensor([[*CUE, *IDS]])
            near, far = (lm.model(input_ids=row, position_ids=torch.arange(9)[None] + by).logits for by in (0, 31))
            assert (abs(near - far).max() < 1e-3) == same


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "olmo", "gemma3", "qwen2"])
def test_keys_moved_together_are_those_of_the_new_positions(name):
    """Fact 3: a key turned by new - old is the key computed there; in layer 0 it depends on its token alone."""
    lm = load(f"toy:{name}")
    text = np.random.default_rng(3).integers(0, lm.vocabulary, 10)
    kept = [0, 2, 3, 7, 9]
    keys, _ = lm.kv.of(lm.embed(text))
    there, _ = lm.kv.of(lm.embed(text[kept]))

    def moved(order):
        by = torch.arange(len(order)) - torch.tensor(order)
        return lm.kv.rotate(keys[:, :, order], by.expand(*keys.shape[:2], -1))

    torch.testing.assert_close(moved(kept)[0], there[0], atol=1e-5, rtol=1e-5)
    assert abs(moved([9, 0, 3, 2, 7])[0] - there[0]).max() > 0.1  # indices in order of a score
    assert abs(moved(kept)[1] - there[1]).max() > 1e-3  # deeper keys have seen the dropped tokens


def test_keys_that_do_not_rotate_cannot_be_moved():
    lm = load("toy:opt")
    keys, _ = lm.kv.of(lm.embed([1, 2, 3]))
    with pytest.raises(ModelError, match="Keep their positions"):
        lm.kv.rotate(keys, torch.ones(keys.shape[:3]))
    with pytest.raises(ModelError, match="Use a transformer model"):
        kept_cache.prefill(load("toy:mamba"), [1, 2, 3])


def test_keys_that_the_model_computes_otherwise_are_not_moved(toy, monkeypatch):
    """The rotation is measured: with the angles of another base the keys differ, and the model is refused."""
    lm = load("toy:qwen2")
    rotary = next(m for name, m in lm.model.named_modules() if name.endswith("rotary_emb"))
    keys, _ = lm.kv.of(lm.embed([1, 2, 3]))
    plain = rotary.forward
    monkeypatch.setattr(rotary, "forward", lambda x, at: plain(x, at * (1 + (x.shape[-1] == lm.d))))
    lm.kv.__dict__.pop("_rotates", None)
    with pytest.raises(ModelError, match="Keep their positions"):
        lm.kv.rotate(keys, torch.ones(keys.shape[:3]))
    lm.kv.__dict__.pop("_rotates", None)


def test_layers_of_different_length_need_masks(toy, kept):
    """Fact 4: one mask serves all layers of a pass, so a cache whose layers differ in length fails. Ours does not."""
    uneven = dataclasses.replace(kept, keep=kept.keep & (torch.arange(12) < torch.tensor([12, 6]).view(2, 1, 1)))
    assert np.isfinite(kept_cache.token_scores(toy, uneven, IDS, CUE)[0]).all()
    short = DynamicCache()
    for layer, size in enumerate((12, 6)):
        short.update(kept.keys[layer, None, :, :size], kept.values[layer, None, :, :size], layer)
    with pytest.raises(RuntimeError, match="size"):
        logits(toy, short, [*CUE, *IDS], first=12)


def test_what_is_dropped_cannot_be_read(toy, kept):
    """Numbers of hidden positions have no effect. Kept ones have."""
    broken = dataclasses.replace(
        kept,
        keys=torch.where(kept.keep[..., None], kept.keys, 7.0),
        values=torch.where(kept.keep[..., None], kept.values, -9.0),
    )
    bits = kept_cache.token_scores(toy, kept, IDS, CUE)[0]
    np.testing.assert_array_equal(bits, kept_cache.token_scores(toy, broken, IDS, CUE)[0])
    changed = dataclasses.replace(kept, values=kept.values * 1.5)
    assert abs(bits - kept_cache.token_scores(toy, changed, IDS, CUE)[0]).max() > 0.1


def test_query_heads_share_the_cache_of_their_kv_head(grouped):
    """2 KV heads, 6 query heads. Hidden from the first KV head only: the other one's query heads still attend."""
    lm = grouped
    assert lm.kv.shape == (2, 2, 8)
    assert lm.kv.heads == 6
    whole = kept_cache.prefill(lm, [4, 8, 15, 16, 23, 42])
    keep = whole.keep.clone()
    keep[:, 0, 1:] = False
    seen = []
    hides = {}
    for layer, module in enumerate(attention_layers(lm)):
        hidden = ~keep[None, layer].repeat_interleave(3, 1)[:, :, None]
        hides[module] = lambda look, hidden=hidden: hidden
    with eager_attention(lm), hiding(hides), torch.no_grad():
        past = lm.kv.cache(whole.keys[None], whole.values[None])
        seen = lm.model(input_ids=torch.tensor([[5, 6]]), past_key_values=past, output_attentions=True).attentions
    for weights in seen:
        assert weights.shape == (1, 6, 2, 8)
        assert weights[0, :3, :, 1:6].max() == 0
        assert (weights[0, 3:, :, 1:6] > 0).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones(1, 6, 2))


@pytest.mark.parametrize("cue", [CUE, ()])
def test_decode_writes_what_is_dearest_token_by_token(toy, kept, cue):
    """Rows of a batch, each with its own cache, as each alone; and as the scores of its own text say."""
    rolled = dataclasses.replace(kept, keep=kept.keep.roll(1, 1))
    longer = kept_cache.prefill(toy, [1, 2, 3, 4, 5])
    together = kept_cache.decode(toy, [kept, longer, rolled], 5, [cue] * 3)
    for cache, ids in zip([kept, longer, rolled], together, strict=True):
        assert ids.shape == (5,)
        np.testing.assert_array_equal(kept_cache.decode(toy, [cache], 5, [cue])[0], ids)
        right = kept_cache.token_scores(toy, cache, ids, cue)[1]
        assert right[0 if cue else 1 :].all()
        assert cue or (ids[0] == 0 and not right[0])
    assert kept_cache.decode(toy, [kept], 1, [()])[0].tolist() == [0]


def test_without_a_cue_the_first_token_is_not_predicted(toy, kept):
    bits, right = kept_cache.token_scores(toy, kept, IDS, ())
    assert np.isnan(bits[0])
    assert not right[0]
    np.testing.assert_allclose(bits[1:], kept_cache.token_scores(toy, kept, IDS[1:], IDS[:1])[0], atol=1e-4)
    assert np.isnan(kept_cache.token_scores(toy, kept, IDS[:1], ())[0]).all()
    assert reading.token_bits(toy, Context(cache=kept), IDS, ())[0][0] == pytest.approx(np.log2(toy.vocabulary))


def test_a_look_leaves_the_cache_as_it_is(toy, kept):
    """A look gives the shares of attention of the whole row with nothing hidden, and the pass itself is unchanged."""
    text = np.random.default_rng(1).integers(0, toy.vocabulary, 12)
    want = attention_shares(toy, toy.embed([*text, *CUE]))
    looks = {}

    def hide(layer):
        def run(look):
            looks[layer] = look()[0]
            return torch.zeros(1, 1, 1, 12, dtype=torch.bool)

        return run

    hides = {module: hide(layer) for layer, module in enumerate(attention_layers(toy))}
    past = toy.kv.cache(kept.keys[None], kept.values[None])
    with eager_attention(toy), hiding(hides):
        found = logits(toy, past, CUE)
    assert past.get_seq_length() == 12 + len(CUE)
    for layer, shares in looks.items():
        torch.testing.assert_close(shares, want[layer][:, 12:], atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        whole = toy.model(input_ids=torch.tensor([[*text, *CUE]])).logits[0, 12:]
    torch.testing.assert_close(found, whole, atol=1e-3, rtol=1e-3)


# Sentences fetched by the running query ------------------------------------------------------------------------------


def test_the_match_is_the_query_times_the_mean_key(toy):
    """Queries and keys of layer 0, rotated and multiplied by hand. The differences between parts must agree."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    text = np.random.default_rng(4).integers(0, toy.vocabulary, 9)
    layer = toy.model.model.layers[0]
    with torch.no_grad():
        x = layer.input_layernorm(toy.embed(text)[None])
        heads = layer.self_attn
        q = heads.q_proj(x).view(1, 9, -1, heads.head_dim).transpose(1, 2)
        k = heads.k_proj(x).view(1, 9, -1, heads.head_dim).transpose(1, 2)
        q, k = apply_rotary_pos_emb(q, k, *toy.model.model.rotary_emb(x, torch.arange(9)[None]))
    part = torch.tensor([-1, 0, 0, 0, 1, 1, 1, 2, 2])
    means = torch.stack([k[0, :, part == p].mean(1) for p in range(3)], 1)  # (heads, parts, e)
    want = q[0, :, -1:] @ means.mT / heads.head_dim**0.5
    found = kept_cache.part_match(attention_shares(toy, toy.embed(text))[0][:, -1:], part, 4)
    torch.testing.assert_close(found - found[..., :1], want - want[..., :1], atol=1e-4, rtol=1e-4)
    # Mean keys are linear: the mean over two parts of one size is the mean of their union.
    union = kept_cache.part_match(
        attention_shares(toy, toy.embed(text))[0][:, -1:], torch.where(part == 1, 0, part.clamp(max=1)), 4
    )
    torch.testing.assert_close(union[..., 0], found[..., :2].mean(-1), atol=1e-4, rtol=1e-4)


def test_best_parts_by_hand():
    part = torch.tensor([-1, 0, 0, 1, 1, 1, 2, -1])
    match = torch.tensor([[0.1, 0.9, 0.5], [2.0, 1.0, 3.0]])
    sees = kept_cache.best_parts(match, part, 4)
    assert sees.int().tolist() == [[1, 0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 1, 1]]
    assert kept_cache.best_parts(match, part, 0).int().tolist() == [[1, 0, 0, 0, 0, 0, 0, 1]] * 2
    assert kept_cache.best_parts(match, part, 6).all()
    nothing_else = kept_cache.best_parts(torch.zeros(2, 0), torch.full((3,), -1), 1)
    assert nothing_else.all()
    assert nothing_else.shape == (2, 3)


def test_a_budget_for_everything_is_the_whole_cache(toy, kept):
    whole = dataclasses.replace(kept, keep=torch.ones_like(kept.keep))
    part = torch.arange(12) // 4
    plain = kept_cache.token_scores(toy, whole, IDS, CUE)[0]

    def bits(budget, part=part):
        return kept_cache.token_scores(toy, dataclasses.replace(whole, fetch=kept_cache.Fetch(part, budget)), IDS, CUE)[
            0
        ]

    np.testing.assert_allclose(bits(12), plain, atol=1e-5)
    assert abs(bits(4) - plain).max() > 0.1
    # Nothing fetched is nothing kept.
    none = dataclasses.replace(kept, keep=torch.zeros_like(kept.keep))
    np.testing.assert_allclose(bits(0), kept_cache.token_scores(toy, none, IDS, CUE)[0], atol=1e-5)


def test_the_running_query_begins_anew_after_an_end(toy, kept):
    """What a token sees, one pass or token by token, agrees; and it depends on where the query began."""
    whole = dataclasses.replace(kept, keep=torch.ones_like(kept.keep))
    part = torch.arange(12) // 2
    without, with_end = (
        dataclasses.replace(whole, fetch=kept_cache.Fetch(part, 4, frozenset(ends))) for ends in ((), (61,))
    )
    plain, begun = (kept_cache.token_scores(toy, cache, IDS, CUE)[0] for cache in (without, with_end))
    # 61 is the third token. The fourth is predicted where 61 itself is fed: only later tokens change.
    np.testing.assert_array_equal(plain[:4], begun[:4])
    assert abs(plain[4:] - begun[4:]).max() > 1e-3
    for cache in (without, with_end):
        ids = kept_cache.decode(toy, [cache, kept], 6, [CUE, CUE])[0]
        assert kept_cache.token_scores(toy, cache, ids, CUE)[1].all()
