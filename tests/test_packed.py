"""Packed linear layers: the same numbers as plain ones, bit by bit; models that they do not fit stay as they are."""

import copy
from collections import Counter

import pytest
import torch

from memlab.experiments import step_profile
from memlab.models import packed as module
from memlab.models.packed import PackedLinear, packed
from memlab.models.probe import cast
from memlab.scoring.objective import Batch, Row
from memlab.scoring.timing import step_flops

pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16 products of oneDNN"
)


def given(lm, n=9):
    return lm.embed(torch.arange(n)[None])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 7, 16, 33, 130])
def test_a_layer_gives_the_bits_of_the_plain_one(rows, bias):
    torch.manual_seed(rows)
    plain = torch.nn.Linear(48, 96, bias=bias).to(torch.bfloat16).requires_grad_(False)
    layer = PackedLinear(plain, keep_weight=False)
    x = torch.randn(2, rows, 48, dtype=torch.bfloat16, requires_grad=True)
    upstream = torch.randn(2, rows, 96, dtype=torch.bfloat16)
    outcomes = []
    for one in (plain, layer):
        out = one(x)
        (gradient,) = torch.autograd.grad(out, x, upstream)
        outcomes.append((out.detach(), gradient))
    assert torch.equal(outcomes[0][0], outcomes[1][0])
    assert torch.equal(outcomes[0][1], outcomes[1][1])
    with torch.no_grad():
        assert torch.equal(layer(x), outcomes[0][0])
    assert not layer(x.detach()).requires_grad


def test_a_model_is_packed_and_computes_the_same(any_toy):
    plain = cast(any_toy.model, torch.bfloat16, given(any_toy), "toy", pack=False)
    model = packed(copy.deepcopy(plain), given(any_toy))
    layers = [m for m in model.modules() if isinstance(m, PackedLinear)]
    if any_toy.family.dense:
        assert layers
        assert not [m for m in model.modules() if type(m) is torch.nn.Linear]
    rows = given(any_toy, 23).to(torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(model(inputs_embeds=rows).logits, plain(inputs_embeds=rows).logits)
    assert any_toy.model.dtype == torch.float32
    assert not [m for m in any_toy.model.modules() if isinstance(m, PackedLinear)]


def test_training_passes_are_the_same_bit_by_bit(toy, monkeypatch):
    rows = [Row(torch.arange(3, 3 + n).numpy(), toy.sink_prefix, (), 2) for n in (5, 9, 14)]
    mems = [torch.randn(2, toy.d, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    found = []
    for pack in (True, False):
        monkeypatch.setitem(
            toy._other_dtypes, torch.bfloat16, cast(toy.model, torch.bfloat16, given(toy), "toy", pack=pack)
        )
        scores, gradients = Batch(toy, rows).scores(mems, torch.bfloat16, gradient=True)
        found.append([scores.loss, scores.min_margin, *gradients])
    packed_layers = [
        m for m in cast(toy.model, torch.bfloat16, given(toy), "toy").modules() if isinstance(m, PackedLinear)
    ]
    assert packed_layers
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


def test_a_model_stays_as_it_is_if_one_bit_differs(toy, monkeypatch):
    product = module._product
    monkeypatch.setattr(module, "_product", lambda rows, weight, bias: product(rows, weight, bias) * 1.01)
    model = cast(toy.model, torch.bfloat16, given(toy), "toy")
    assert not [m for m in model.modules() if isinstance(m, PackedLinear)]
    assert [m for m in model.modules() if type(m) is torch.nn.Linear]


def test_a_model_that_reads_its_weights_itself_stays_as_it_is(toy):
    plain = cast(toy.model, torch.bfloat16, given(toy), "toy", pack=False)
    layer = plain.model.layers[0].mlp
    forward = type(layer).forward
    layer.forward = lambda x: forward(layer, x) * layer.gate_proj.weight.abs().max().sign()
    model = packed(plain, given(toy))
    assert not [m for m in model.modules() if isinstance(m, PackedLinear)]


def test_no_copies_without_memory_for_them(toy, monkeypatch):
    monkeypatch.setattr(module, "SHARE", 0)
    model = cast(toy.model, torch.bfloat16, given(toy), "toy")
    assert not [m for m in model.modules() if isinstance(m, PackedLinear)]


def test_tied_embeddings_stay(toy):
    model = cast(toy.model, torch.bfloat16, given(toy), "toy")
    tied = toy.model.get_output_embeddings().weight is toy.model.get_input_embeddings().weight
    assert (model.get_output_embeddings().weight is not None) == tied
    assert model.get_input_embeddings().weight.shape == toy.model.get_input_embeddings().weight.shape


def test_products_are_counted_like_plain_ones(toy, monkeypatch):
    rows = [Row(torch.arange(3, 12).numpy(), toy.sink_prefix, (), 2)]
    mems, counts, seen = [torch.ones(2, toy.d)], [], []
    for pack in (True, False):
        monkeypatch.setitem(
            toy._other_dtypes, torch.bfloat16, cast(toy.model, torch.bfloat16, given(toy), "toy", pack=pack)
        )

        def step():
            Batch(toy, rows).scores(mems, torch.bfloat16, gradient=True)

        counts.append(step_flops(step))
        with step_profile._Products() as products:
            step()
        sizes = Counter()
        for shape, n in products.seen.items():
            sizes[shape[1], shape[3]] += n
        seen.append(sizes)
    assert counts[0] == counts[1] > 0
    assert seen[0] == seen[1]
