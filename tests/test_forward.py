"""Losses and slopes in one go, against transformers' own forward, torch's own cross-entropy and autograd."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from memlab.models import forward, load
from memlab.models.forward import FUSED, PLAIN, SHORT, ForwardPass


def case(lm, rows=2, length=9, seed=0):
    """Embeddings, which positions are scored (the second row is padded), and what should follow there."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, lm.vocabulary, (rows, length), generator=generator)
    keep = torch.zeros(rows, length, dtype=torch.bool)
    keep[:, 1:], keep[1, length // 2 :] = True, False
    targets = torch.randint(0, lm.vocabulary, (int(keep.sum()),), generator=generator)
    return lm.embed(ids) * 1.3, keep.flatten().nonzero().flatten(), targets


def own(lm, embeddings, at, targets):
    """The plain way: all logits of the model's own forward, torch's cross-entropy, autograd."""
    fed = embeddings.clone().requires_grad_()
    logits = lm.model(inputs_embeds=fed, use_cache=False).logits.flatten(0, 1)[at]
    nats = cross_entropy(logits, targets, reduction="none")
    (slope,) = torch.autograd.grad((nats * torch.arange(1, len(nats) + 1)).sum(), fed)
    best = logits.scatter(1, targets[:, None], -torch.inf).amax(1)
    return nats.detach(), logits.gather(1, targets[:, None])[:, 0] - best, slope


def quick(lm, embeddings, at, targets, dtype=torch.float32):
    fed = embeddings.clone().requires_grad_()
    with torch.enable_grad():
        nats, lead = lm.losses(fed, at, targets, dtype)
    (slope,) = torch.autograd.grad((nats * torch.arange(1, len(nats) + 1)).sum(), fed)
    return nats.detach(), lead, slope


def test_fused_attention_is_the_models_own_too(any_toy, monkeypatch):
    """What a GPU takes, as far as a CPU can tell."""
    given = case(any_toy, length=50)  # within the toy Gemma's sliding window
    expected = own(any_toy, *given)
    monkeypatch.setattr(any_toy._pass, "_found", (True, FUSED))
    for mine, theirs in zip(quick(any_toy, *given), expected, strict=True):
        assert float((mine - theirs).detach().norm() / theirs.detach().norm()) < 1e-4


@pytest.mark.parametrize("length", [9, 100])  # 100: beyond the toy Gemma's sliding window of 64
def test_losses_leads_and_slopes_are_the_models_own(any_toy, length):
    given = case(any_toy, length=length)
    for mine, theirs in zip(quick(any_toy, *given), own(any_toy, *given), strict=True):
        assert float((mine - theirs).detach().norm() / theirs.detach().norm()) < 1e-4


def test_families_that_are_built_otherwise_keep_their_own_forward(any_toy, monkeypatch):
    given = case(any_toy)
    expected = quick(any_toy, *given)
    monkeypatch.setattr(any_toy._pass, "_found", (False, None))
    for mine, theirs in zip(quick(any_toy, *given), expected, strict=True):
        assert float((mine - theirs).detach().norm() / theirs.detach().norm()) < 1e-4


def test_a_head_that_is_not_what_it_seems_is_found_out():
    """Logits capped after the head (Gemma 2): apart, backbone and head would give other logits."""
    import transformers as hf

    config = hf.Gemma2Config(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, final_logit_softcapping=0.5, initializer_range=0.3,
    )  # fmt: skip
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    assert ForwardPass(model, 32)._find() == (False, None)
    config.final_logit_softcapping = None
    config.attn_logit_softcapping = 0.1  # plain products know nothing of this one
    model = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    assert ForwardPass(model, 32)._find() == (True, None)


def test_every_toy_is_quick(any_toy):
    assert any_toy._pass._find() == (True, PLAIN)


def test_blocks_of_logits_change_nothing(toy, monkeypatch):
    given = case(toy, rows=3, length=20)
    whole = quick(toy, *given)
    monkeypatch.setattr(forward, "LOGITS_AT_ONCE", {"cpu": toy.vocabulary * 7})
    for mine, theirs in zip(quick(toy, *given), whole, strict=True):
        assert float((mine - theirs).detach().norm() / theirs.detach().norm()) < 1e-5


def test_long_rows_keep_the_models_attention(toy, monkeypatch):
    seen = []
    monkeypatch.setattr(
        forward, "_attention", lambda model, name: (seen.append(name), forward.contextlib.nullcontext())[1]
    )
    for length in (SHORT, SHORT + 1):
        last = torch.tensor([length - 1])
        toy.losses(torch.zeros(1, length, toy.d), last, torch.zeros(1, dtype=torch.long), torch.float32)
    assert seen[-2:] == [PLAIN, None]


def test_decoding_keeps_the_models_attention(toy):
    toy.losses(*case(toy), torch.float32)
    assert toy.model.config._attn_implementation == "sdpa"


def test_in_bfloat16_what_is_nearly_certain_keeps_its_slope():
    """A share of 0.999 is 1 in bfloat16; the others' 0.001, and the slope with it, must not be lost."""
    logits = torch.zeros(4, 50, dtype=torch.bfloat16)
    logits[:, 3] = torch.tensor([2.0, 8.0, 11.0, 14.0])
    targets = torch.full((4,), 3)
    nats, lead, slope = forward._scored(logits.clone(), targets, True)
    exact = cross_entropy(logits.double(), targets, reduction="none")
    torch.testing.assert_close(nats.double(), exact, rtol=0.01, atol=0)
    torch.testing.assert_close(slope[:, 3].double(), exact.neg().exp() - 1, rtol=0.01, atol=0)
    torch.testing.assert_close(lead, logits[:, 3].float())


def test_losses_without_number_say_so():
    logits = torch.full((1, 5), torch.nan)
    nats, _, _ = forward._scored(logits, torch.tensor([2]), False)
    assert torch.isnan(nats).all()


@pytest.mark.real
def test_bfloat16_is_close_to_float32_on_the_real_model():
    lm = load("smollm2-135m")
    given = case(lm, length=40)
    exact, coarse = quick(lm, *given), quick(lm, *given, dtype=torch.bfloat16)
    assert float((exact[0] - coarse[0]).abs().mean()) < 0.1
    cosine = torch.nn.functional.cosine_similarity(exact[2].flatten(), coarse[2].flatten(), dim=0)
    assert float(cosine) > 0.99
    assert torch.isfinite(coarse[2]).all()
