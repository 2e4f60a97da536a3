"""Losses and gradients of ``ForwardPass``, compared with transformers' forward, torch's cross-entropy and autograd."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from memlab.models import forward, load
from memlab.models.forward import FUSED, PLAIN, SHORT, ForwardPass


def case(lm, rows=2, length=9, seed=0):
    """(embeddings, scored positions, targets). The second row is padded."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, lm.vocabulary, (rows, length), generator=generator)
    keep = torch.zeros(rows, length, dtype=torch.bool)
    keep[:, 1:], keep[1, length // 2 :] = True, False
    targets = torch.randint(0, lm.vocabulary, (int(keep.sum()),), generator=generator)
    return lm.embed(ids) * 1.3, keep.flatten().nonzero().flatten(), targets


def own(lm, embeddings, at, targets):
    """The reference: all logits of the model's own forward, torch's cross-entropy, autograd."""
    fed = embeddings.clone().requires_grad_()
    logits = lm.model(inputs_embeds=fed, use_cache=False).logits.flatten(0, 1)[at]
    nats = cross_entropy(logits, targets, reduction="none")
    (gradient,) = torch.autograd.grad((nats * torch.arange(1, len(nats) + 1)).sum(), fed)
    best = logits.scatter(1, targets[:, None], -torch.inf).amax(1)
    return nats.detach(), logits.gather(1, targets[:, None])[:, 0] - best, gradient


def quick(lm, embeddings, at, targets, dtype=torch.float32):
    fed = embeddings.clone().requires_grad_()
    with torch.enable_grad():
        nats, margin = lm.losses(fed, at, targets, dtype)
    (gradient,) = torch.autograd.grad((nats * torch.arange(1, len(nats) + 1)).sum(), fed)
    return nats.detach(), margin, gradient


def test_fused_attention_gives_the_models_own_numbers(any_toy, monkeypatch):
    """The attention of the GPU, run on the CPU."""
    given = case(any_toy, length=50)  # within the toy Gemma's sliding window
    expected = own(any_toy, *given)
    monkeypatch.setattr(any_toy, "_pass", ForwardPass(any_toy.model, any_toy.d, (True, FUSED)))
    for mine, theirs in zip(quick(any_toy, *given), expected, strict=True):
        assert float((mine - theirs).detach().norm() / theirs.detach().norm()) < 1e-4


@pytest.mark.parametrize("length", [9, 100])  # 100: beyond the toy Gemma's sliding window of 64
def test_losses_margins_and_gradients_are_the_models_own(any_toy, length):
    given = case(any_toy, length=length)
    for mine, theirs in zip(quick(any_toy, *given), own(any_toy, *given), strict=True):
        assert float((mine - theirs).detach().norm() / theirs.detach().norm()) < 1e-4


def test_a_family_with_another_structure_uses_its_own_forward(any_toy, monkeypatch):
    given = case(any_toy)
    expected = quick(any_toy, *given)
    monkeypatch.setattr(any_toy, "_pass", ForwardPass(any_toy.model, any_toy.d, (False, None)))
    for mine, theirs in zip(quick(any_toy, *given), expected, strict=True):
        assert float((mine - theirs).detach().norm() / theirs.detach().norm()) < 1e-4


def test_models_whose_logits_would_differ_are_not_changed():
    """Gemma 2 caps logits after the head, so a separate head gives other logits. It also caps attention scores."""
    import transformers as hf

    config = hf.Gemma2Config(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, final_logit_softcapping=0.5, initializer_range=0.3,
    )  # fmt: skip
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    assert ForwardPass(model, 32).choose() == (False, None)
    config.final_logit_softcapping = None
    config.attn_logit_softcapping = 0.1  # plain products ignore this cap
    model = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    assert ForwardPass(model, 32).choose() == (True, None)


def test_every_toy_uses_the_fast_pass(any_toy):
    assert any_toy._pass.choose() == (True, PLAIN)


def test_block_size_does_not_change_the_numbers(toy, monkeypatch):
    given = case(toy, rows=3, length=20)
    whole = quick(toy, *given)
    monkeypatch.setattr(forward, "LOGITS_AT_ONCE", {"cpu": toy.vocabulary * 7})
    for mine, theirs in zip(quick(toy, *given), whole, strict=True):
        assert float((mine - theirs).detach().norm() / theirs.detach().norm()) < 1e-5


def test_long_rows_use_the_models_attention(toy, monkeypatch):
    used = []
    monkeypatch.setattr(
        forward, "_attention", lambda model, name: (used.append(name), forward.contextlib.nullcontext())[1]
    )
    for length in (SHORT, SHORT + 1):
        last = torch.tensor([length - 1])
        toy.losses(torch.zeros(1, length, toy.d), last, torch.zeros(1, dtype=torch.long), torch.float32)
    assert used[-2:] == [PLAIN, None]


def test_losses_leave_the_models_attention_for_decoding(toy):
    toy.losses(*case(toy), torch.float32)
    assert toy.model.config._attn_implementation == "sdpa"


def test_bfloat16_keeps_the_gradient_of_a_nearly_certain_token():
    """A probability of 0.999 is 1 in bfloat16. The 0.001 of the other tokens, and the gradient, must stay."""
    logits = torch.zeros(4, 50, dtype=torch.bfloat16)
    logits[:, 3] = torch.tensor([2.0, 8.0, 11.0, 14.0])
    targets = torch.full((4,), 3)
    nats, margin, gradient = forward._scored(logits.clone(), targets, True)
    exact = cross_entropy(logits.double(), targets, reduction="none")
    torch.testing.assert_close(nats.double(), exact, rtol=0.01, atol=0)
    torch.testing.assert_close(gradient[:, 3].double(), exact.neg().exp() - 1, rtol=0.01, atol=0)
    torch.testing.assert_close(margin, logits[:, 3].float())


def test_nan_logits_give_a_nan_loss():
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
