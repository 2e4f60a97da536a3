"""The probe at load: what it measures and what it refuses, on tiny models of real families."""

import copy
import json
import warnings

import pytest
import torch
import transformers as hf

from memlab import FrozenLM, ModelError, PassageError, Recipe, cram, load
from memlab.decoding.decode import check_portable
from memlab.models import frozen
from memlab.models.families import context_of
from memlab.models.forward import ForwardPass
from memlab.models.probe import cast, probe

V = 96
NO_IDS = dict(bos_token_id=None, eos_token_id=None, pad_token_id=None)
GEMMA = dict(
    vocab_size=V, vocab_size_per_layer_input=V, hidden_size=96, hidden_size_per_layer_input=16, intermediate_size=128,
    num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=24, sliding_window=64,
    layer_types=["sliding_attention", "full_attention"] * 2, max_position_embeddings=256, num_kv_shared_layers=0,
    initializer_range=0.1, **NO_IDS,
)  # fmt: skip
CONFIGS = {
    "gemma3n": lambda: hf.Gemma3nTextConfig(
        **GEMMA, laurel_rank=8, altup_num_inputs=2, activation_sparsity_pattern=[0.0] * 4
    ),
    "gemma4": lambda: hf.Gemma4TextConfig(**GEMMA, global_head_dim=24),
    "bert": lambda: hf.BertConfig(
        vocab_size=V, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    ),
    "xlnet": lambda: hf.XLNetConfig(vocab_size=V, d_model=64, n_layer=2, n_head=4, d_inner=64),
    "openai-gpt": lambda: hf.OpenAIGPTConfig(
        vocab_size=V, n_embd=128, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2
    ),
    "ctrl": lambda: hf.CTRLConfig(vocab_size=V, n_embd=64, n_layer=2, n_head=4, dff=64, n_positions=64),
    "rwkv": lambda: hf.RwkvConfig(vocab_size=V, hidden_size=64, num_hidden_layers=2, context_length=256, **NO_IDS),
    "recurrent_gemma": lambda: hf.RecurrentGemmaConfig(
        vocab_size=V, hidden_size=64, num_hidden_layers=3, intermediate_size=128, num_attention_heads=4, lru_width=64,
        attention_window_size=64, **NO_IDS,
    ),
    "xglm": lambda: hf.XGLMConfig(
        vocab_size=V, d_model=64, num_layers=2, attention_heads=4, ffn_dim=64, max_position_embeddings=64
    ),
    "xlstm": lambda: hf.xLSTMConfig(
        vocab_size=V, hidden_size=128, num_hidden_layers=2, num_blocks=2, num_heads=2, chunk_size=16, **NO_IDS
    ),
}  # fmt: skip


def tiny(name):
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(CONFIGS[name](), dtype=torch.float32)
    with torch.no_grad():  # new scales and biases are 0 or 1; those of a trained model are not
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def wrapped(name, **settings):
    return FrozenLM.from_model(tiny(name), name=name, **settings)


def agree(mine, theirs):
    assert float((mine - theirs).norm() / theirs.norm()) < 1e-4


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gemma3n", "token ids and their embeddings give different logits"),
        ("gemma4", "cannot be given input embeddings alone"),
        ("bert", "its logits depend on later tokens"),
        ("xlnet", "its logits depend on later tokens"),
        ("openai-gpt", "on other rows of a batch if vectors are much longer"),
    ],
)
def test_models_that_would_decode_something_else_are_refused(name, reason):
    with pytest.raises(ModelError, match=reason):
        wrapped(name)


def test_models_without_a_gradient_or_with_noise_are_refused(toy, monkeypatch):
    forward = toy.model.forward

    def detached(**given):
        out = forward(**given)
        out.logits = out.logits.detach()
        return out

    def noisy(**given):
        out = forward(**given)
        out.logits = out.logits + 0.1 * torch.randn_like(out.logits)
        return out

    for broken, reason in ((detached, "no gradient comes back"), (noisy, "two equal passes give different logits")):
        monkeypatch.setattr(toy.model, "forward", broken)
        with pytest.raises(ModelError, match=reason):
            probe(toy.model, toy.family, "broken")


def test_toys_decode_with_the_cache_of_their_family(any_toy):
    assert any_toy.behaviour.cache_name == any_toy.family.cache_name
    assert any_toy.behaviour.cache_difference < 1e-4
    assert any_toy.behaviour.takes_mask
    assert any_toy.behaviour.vocabulary == V


@pytest.mark.parametrize(("name", "cache"), [("rwkv", None), ("recurrent_gemma", None), ("ctrl", "past_key_values")])
def test_steps_give_the_logits_of_one_pass_with_any_cache(name, cache):
    """RWKV's cache is right for one row and mixes the rows of a batch; RecurrentGemma returns none."""
    lm = wrapped(name, dtype=torch.float32)
    assert lm.behaviour.cache_name == cache
    ids = torch.randint(3, V - 3, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = lm.model(inputs_embeds=lm.embed(ids), use_cache=False).logits
    logits, past = lm.step(torch.float32, embeddings=lm.embed(ids[:, :4]))
    agree(logits, expected[:, 3])
    for at in range(4, 9):
        logits, past = lm.step(torch.float32, ids=ids[:, at : at + 1], cache=past)
        agree(logits, expected[:, at])


def test_models_that_write_into_their_input_leave_memlabs_tensors_alone():
    lm = wrapped("ctrl", dtype=torch.float32)
    assert lm.behaviour.changes_input
    fed = lm.embed(torch.arange(5, 12)[None])
    before = fed.clone()
    lm.losses(fed, torch.tensor([3]), torch.tensor([7]), torch.float32)
    lm.step(torch.float32, embeddings=fed)
    assert torch.equal(fed, before)


def test_losses_do_not_need_logits_to_keep(any_toy, monkeypatch):
    generator = torch.Generator().manual_seed(2)
    fed = any_toy.embed(torch.randint(0, V, (2, 8), generator=generator))
    at, targets = torch.tensor([1, 5, 9]), torch.tensor([3, 8, 70])
    expected = any_toy.losses(fed, at, targets, torch.float32)
    alone = ForwardPass(any_toy.model, any_toy.d, (False, None), takes_mask=False)
    for mine, theirs in zip(alone.losses(any_toy.model, fed, at, targets), expected, strict=True):
        agree(mine, theirs)


def test_ids_need_an_embedding_and_a_logit():
    """Moshi's embedding has one row more than its head."""
    model, _ = load_toy_parts()
    rows = torch.nn.Embedding(V + 1, model.config.hidden_size)
    rows.weight.data[:V] = model.get_input_embeddings().weight
    model.set_input_embeddings(rows)
    lm = FrozenLM.from_model(model)
    assert lm.vocabulary == V
    with pytest.raises(ValueError, match=f"Give ids from 0 to {V - 1}"):
        lm.passage_of_ids([V])


def load_toy_parts():
    from memlab.models import toys

    return toys.toy("llama")


@pytest.mark.slow
def test_every_toy_trains_in_bfloat16(any_toy):
    """Mamba's backbone returns float32 whatever its weights are, and its head does not take that."""
    lm = load(any_toy.name, dtype="bfloat16")
    passages = [lm.passage_of_ids([40, 41, 42, start]) for start in (3, 50)]
    mems = cram(lm, passages, Recipe.default(k=2, budget=300), progress=False)
    assert [mem.provenance["dtype"] for mem in mems] == ["bfloat16"] * 2
    assert all(mem.exact for mem in mems), [mem.teacher_forced for mem in mems]


@pytest.mark.parametrize("kind", ["MambaConfig", "Mamba2Config", "FalconMambaConfig"])
def test_state_space_models_give_the_same_losses_in_bfloat16_as_their_own_forward(kind):
    torch.manual_seed(0)
    extra = dict(num_heads=8, head_dim=16, n_groups=1) if kind == "Mamba2Config" else {}
    config = getattr(hf, kind)(vocab_size=V, hidden_size=64, num_hidden_layers=2, state_size=8, **extra, **NO_IDS)
    lm = FrozenLM.from_model(hf.AutoModelForCausalLM.from_config(config), dtype=torch.bfloat16)
    fed = lm.embed(torch.arange(20)[None])
    at, targets = torch.arange(19), torch.arange(1, 20)
    nats, _ = lm.losses(fed, at, targets, torch.bfloat16)
    with torch.no_grad():
        own = lm.weights(torch.bfloat16)(inputs_embeds=fed.bfloat16(), use_cache=False).logits[0, :-1].float()
    torch.testing.assert_close(
        nats, torch.nn.functional.cross_entropy(own, targets, reduction="none"), rtol=0.02, atol=0.02
    )


def test_a_model_whose_buffers_stay_in_float32_runs_in_bfloat16():
    lm = wrapped("xglm", dtype=torch.bfloat16)
    logits, _ = lm.step(torch.bfloat16, embeddings=lm.embed(torch.arange(4, 10)[None]))
    exact, _ = lm.step(torch.float32, embeddings=lm.embed(torch.arange(4, 10)[None]))
    assert float((logits - exact).norm() / exact.norm()) < 0.05


def test_a_model_that_cannot_run_in_bfloat16_trains_in_float32_or_is_refused(monkeypatch):
    monkeypatch.setattr(frozen, "best_dtype", lambda device: torch.bfloat16)
    with pytest.warns(UserWarning, match="cannot run in bfloat16: .* Training uses float32"):
        assert wrapped("xlstm").dtype == torch.float32
    lm = wrapped("xlstm", dtype=torch.float32)
    (mem,) = cram(lm, lm.passage_of_ids([5, 6, 7]), Recipe.default(k=2, budget=2), portable=True, progress=False)
    assert not check_portable(lm, mem).portable
    asked = wrapped("xlstm", dtype=torch.bfloat16)
    with pytest.raises(ModelError, match=r'xlstm cannot run in bfloat16: .* Use load\(..., dtype="float32"\)'):
        cram(asked, asked.passage_of_ids([5, 6, 7]), Recipe.default(budget=2), progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert wrapped("xglm").dtype == torch.bfloat16


def test_rotary_frequencies_keep_float32(toy):
    copied = cast(toy.model, torch.bfloat16, toy.embed([[1, 2, 3]]), "toy")
    buffers = dict(copied.named_buffers())
    assert {b.dtype for name, b in buffers.items() if "inv_freq" in name} == {torch.float32}


def test_files_are_probed_once(tmp_path, monkeypatch):
    model, tokenizer = load_toy_parts()
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    monkeypatch.setenv("MEMLAB_CACHE", str(tmp_path / "cache"))
    first = load(str(tmp_path / "m"))
    monkeypatch.setattr(frozen, "probe", lambda *_: pytest.fail("probed again"))
    assert load(str(tmp_path / "m"), dtype="float32").behaviour == first.behaviour


def test_padding_that_a_model_skips_is_refused_in_a_text():
    """RoBERTa gives padding ids no position of their own, embeddings of them have one."""
    settings = dict(vocab_size=V, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    torch.manual_seed(0)
    model = hf.RobertaForCausalLM(hf.RobertaConfig(**settings, is_decoder=True, max_position_embeddings=64))
    lm = FrozenLM.from_model(model, dtype=torch.float32)
    assert lm.behaviour.padding_id == 1
    with pytest.raises(PassageError, match="The ids have 1, which my-model skips as padding"):
        lm.passage_of_ids([5, 1, 7])
    assert len(lm.passage_of_ids([5, 2, 7])) == 3


def test_padding_that_is_a_token_like_others_is_none(any_toy):
    model = copy.deepcopy(any_toy.model)
    model.config.pad_token_id = 3
    lm = FrozenLM.from_model(model, dtype=torch.float32)
    assert lm.behaviour.padding_id is None
    assert len(lm.passage_of_ids([5, 3, 7])) == 3


def test_the_context_of_longrope_ends_where_its_frequencies_change():
    """A cache keeps keys with the earlier frequencies, so a longer text could be trained and not decoded."""
    rope = dict(rope_type="longrope", rope_theta=10000.0, original_max_position_embeddings=12, factor=4.0)
    rope |= dict(short_factor=[1.0] * 8, long_factor=[4.0] * 8)
    config = hf.LlamaConfig(
        vocab_size=V, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=48, rope_parameters=rope, initializer_range=0.2, **NO_IDS,
    )  # fmt: skip
    lm = FrozenLM.from_model(hf.AutoModelForCausalLM.from_config(config), dtype=torch.float32)
    assert lm.context == 12
    ids = torch.randint(V, (1, 20), generator=torch.Generator().manual_seed(0))
    cached = logits_by_steps(lm, ids)
    with torch.no_grad():
        one_pass = lm.model(input_ids=ids, use_cache=False).logits[0]
        short = lm.model(input_ids=ids[:, :12], use_cache=False).logits[0]
    agree(cached[:12], short)
    assert float((cached[12:] - one_pass[12:]).norm() / one_pass[12:].norm()) > 0.05
    with pytest.raises(PassageError, match="context of 12 positions"):
        cram(lm, [lm.passage_of_ids(ids[0])], Recipe.default(k=1, budget=1), progress=False)


def logits_by_steps(lm, ids):
    """Logits (n, V) of decoding one id after another with the cache."""
    cache, rows = None, []
    for at in range(ids.shape[1]):
        logits, cache = lm.step(torch.float32, ids=ids[:, at : at + 1], cache=cache)
        rows.append(logits[0])
    return torch.stack(rows)


@pytest.mark.parametrize(("kind", "field"), [("DeepseekV32Config", "index_topk"), ("MoshiConfig", "sliding_window")])
def test_the_context_ends_where_cached_and_uncached_passes_part(kind, field):
    config = getattr(hf, kind)(**{field: 20})
    assert context_of(config) == 20
    assert config.max_position_embeddings > 20


def test_facts_of_an_older_memlab_are_measured_again(tmp_path, monkeypatch):
    model, tokenizer = load_toy_parts()
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    monkeypatch.setenv("MEMLAB_CACHE", str(tmp_path / "cache"))
    load(str(tmp_path / "m"))
    (file,) = (tmp_path / "cache" / "facts").glob("*.json")
    known = json.loads(file.read_text())
    del known["facts"]["behaviour"]["values"]["padding_id"]
    file.write_text(json.dumps(known))
    assert load(str(tmp_path / "m"), dtype="float32").behaviour.padding_id is None
    assert "padding_id" in json.loads(file.read_text())["facts"]["behaviour"]["values"]
