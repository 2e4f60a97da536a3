"""Vectors in other programs: ``to_embeds``, the documented lines, llama.cpp, and the experiment about them."""

import base64
import importlib.util
import io
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from memlab import FrozenLM, ModelError, Recipe, Store, cram, decode, load, to_embeds
from memlab.decoding.llama_cpp import LlamaCpp
from memlab.experiments.session import Session
from memlab.experiments.tables import TableError, stored
from memlab.experiments.travel import COLUMNS, DESTINATIONS, Destination, _int8, arrived, margin_auc, travel
from memlab.models.sources import gguf_file
from memlab.texts import data_folder, originals
from tests.conftest import random_passages

DOCUMENTED = (Path(__file__).parents[1] / "memlab" / "decoding" / "README.md").read_text()
HAS_LLAMA = importlib.util.find_spec("llama_cpp") is not None


def blocks(section):
    """The Python blocks of a section of ``memlab/decoding/README.md``."""
    text = DOCUMENTED.split(f"## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def mems(toy):
    """Three exact vectors of three tokens, with a prefix."""
    passages = random_passages(toy, 3, 3)
    return cram(toy, passages, Recipe.default(k=2, prefix=(1,), suffix=(5,), budget=100), progress=False)


# The context, and programs that take it ------------------------------------------------------------------------------


def test_the_context_is_prefix_vectors_and_suffix(toy, mems):
    context = to_embeds(mems[0], toy)
    assert (context.dtype, context.device.type, context.is_contiguous()) == (torch.float32, "cpu", True)
    np.testing.assert_array_equal(context[0], toy.embed([1])[0].cpu())
    np.testing.assert_array_equal(context[1:3], mems[0].mem)
    np.testing.assert_array_equal(context[3], toy.embed([5])[0].cpu())
    np.testing.assert_array_equal(to_embeds(mems[0]), context)  # the model is loaded by its name


def test_another_models_vector_has_no_context(mems):
    with pytest.raises(ModelError, match="toy:opt"):
        to_embeds(mems[0], load("toy:opt"))


@pytest.mark.slow
def test_generate_writes_what_the_decode_writes(any_toy):
    (mem,) = cram(any_toy, random_passages(any_toy, 1, 3), Recipe.default(k=4, prefix=(1,), budget=60), progress=False)
    ids = any_toy.model.generate(
        inputs_embeds=to_embeds(mem, any_toy)[None],
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    np.testing.assert_array_equal(ids[0], decode(any_toy, [mem], 12, batch=1)[0])


def greedy(lm, context, tokens):
    """Ids of memlab's own loop after embeddings (c, d)."""
    ids, (logits, past) = [], lm.step(torch.float32, embeddings=context[None])
    for _ in range(tokens):
        ids.append(int(logits.argmax()))
        logits, past = lm.step(torch.float32, ids=logits.argmax(-1, keepdim=True), cache=past)
    return ids


def test_decoders_of_barts_family_must_not_force_an_end():
    """The documented argument of ``generate``. Without it, the last token is another one."""
    torch.manual_seed(0)
    config = transformers.BartConfig(
        vocab_size=96, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=96,
    )  # fmt: skip
    lm = FrozenLM.from_model(transformers.BartForCausalLM(config))
    context = torch.randn(5, lm.d)
    ours = greedy(lm, context, 12)
    settings = dict(inputs_embeds=context[None], max_new_tokens=12, do_sample=False, eos_token_id=None)
    (argument,) = re.findall(r"`(forced_eos_token_id)=None`", DOCUMENTED)
    assert lm.model.generate(**settings, **{argument: None})[0].tolist() == ours
    assert lm.model.generate(**settings)[0].tolist() == [*ours[:-1], config.eos_token_id]


@pytest.mark.slow
@pytest.mark.parametrize("config", ["RobertaConfig", "XLMRobertaConfig", "CamembertConfig", "Data2VecTextConfig"])
def test_decoders_born_from_roberta_need_their_positions(config):
    """The documented argument of ``generate``. Without it, these decoders write another text."""
    torch.manual_seed(0)
    sizes = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256)
    ids = dict(vocab_size=96, max_position_embeddings=96, pad_token_id=1, bos_token_id=0, eos_token_id=2)
    made = transformers.AutoModelForCausalLM.from_config(getattr(transformers, config)(**sizes, **ids, is_decoder=True))
    for name, parameter in made.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=2 if "position" in name else 0.3)
    lm = FrozenLM.from_model(made)
    context = torch.randn(5, lm.d)
    ours = greedy(lm, context, 12)
    settings = dict(inputs_embeds=context[None], max_new_tokens=12, do_sample=False, eos_token_id=None)
    (argument,) = re.findall(r"position_ids=(torch.*?)`", DOCUMENTED)
    positions = eval(argument, {"torch": torch, "context": context, "model": lm.model})
    assert lm.model.generate(**settings, position_ids=positions)[0].tolist() == ours
    assert lm.model.generate(**settings)[0].tolist() != ours


def test_what_vllm_reads(toy, mems):
    """The rules of vLLM's reader: a torch file in base64, weights only, dense, (positions, hidden size), floating."""
    (documented,) = blocks("vLLM")
    names = {"context": to_embeds(mems[0], toy)}
    exec(documented, names)
    assert names["prompt"]["prompt_embeds"] is names["context"]
    data = base64.b64decode(names["body"]["prompt_embeds"], validate=True)
    tensor = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    assert (tensor.dim(), tensor.shape[1], tensor.layout) == (2, toy.model.config.hidden_size, torch.strided)
    assert tensor.dtype in (torch.float32, torch.bfloat16, torch.float16)
    assert torch.equal(tensor, names["context"])


@pytest.mark.real
def test_the_documented_lines(real, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    (first,) = re.findall(r"```python\n(.*?)```", DOCUMENTED.split("\n## ")[0], re.DOTALL)
    for block in [first, *blocks("transformers"), *blocks("PEFT")]:
        exec(block, names)  # each asserts that the text comes back


# llama.cpp -----------------------------------------------------------------------------------------------------------


def test_without_llama_cpp_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(ModelError, match=r"llama-cpp-python is not installed. Run `make travel`"):
        LlamaCpp("any.gguf")


def test_a_model_without_a_gguf_file(tmp_path):
    for name in ("toy:llama", "pythia-160m", str(tmp_path), str(tmp_path / "absent.gguf")):
        with pytest.raises(ModelError, match=r"has no GGUF file. Give a .gguf file"):
            gguf_file(name, tmp_path)
    (tmp_path / "mine.gguf").write_bytes(b"GGUF")
    assert gguf_file(str(tmp_path / "mine.gguf"), tmp_path) == tmp_path / "mine.gguf"


@pytest.mark.real
@pytest.mark.skipif(not HAS_LLAMA, reason="llama-cpp-python is not installed (make travel installs it)")
def test_llama_cpp_decodes_from_the_gguf_file(real, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mem = Store.bundled().get(min(Store.bundled().table().query("exact and tokens == 16").key))
    gguf_file("smollm2-135m", tmp_path).rename("SmolLM2-135M-Instruct.Q4_1.gguf")
    names = {"mem": mem, "context": to_embeds(mem, real)}
    (block,) = blocks("llama.cpp")
    exec(block, names)
    engine = names["engine"]
    # The cache starts empty each time.
    np.testing.assert_array_equal(engine.decode(names["context"], mem.n), mem.token_ids)
    # A context that takes several calls.
    long = torch.cat([real.embed([0]), real.embed(real.passage(originals()[0], 100).ids)])
    expected = real.model.generate(inputs_embeds=long[None], max_new_tokens=8, do_sample=False, eos_token_id=None)
    assert engine.decode(long, 8).tolist() == expected[0].tolist()
    with pytest.raises(ModelError, match=r"shape \(2, 3\); this GGUF file needs \(c, 576\)"):
        engine.decode(np.ones((2, 3)), 4)
    engine.close()
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="cannot read"):
        LlamaCpp("broken.gguf")


# The experiment ------------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(store, mems):
    for mem in mems:
        store.put(mem)
    assert all(mem.exact for mem in mems)
    return store


@pytest.mark.slow
def test_a_row_for_each_vector_and_destination(toy, filled, mems):
    pytest.importorskip("peft")
    local = {n: Destination(n, d.open, {3: 2}) for n, d in DESTINATIONS.items() if "llama.cpp" not in n}
    table = travel(Session(toy, filled), local)
    assert list(table.columns) == list(COLUMNS)
    assert table.groupby("destination").size().to_dict() == dict.fromkeys(local, 2)
    assert sorted(set(table.key)) == sorted(mem.key for mem in mems)[:2]
    faithful = table[table.destination.str.contains("float32")]
    assert faithful.exact.all()
    assert (faithful.right == 3).all()
    margins = {mem.key: mem.margin for mem in mems}
    assert table.margin.tolist() == [margins[key] for key in table.key]


def test_a_wrong_token_is_counted_at_its_place(toy, filled, mems):
    tokens = {mem.key: mem.token_ids for mem in mems}

    def second_wrong(lm):
        return lambda mem: np.where(np.arange(3) == 1, (mem.token_ids + 1) % lm.vocabulary, tokens[mem.key])

    table = travel(Session(toy, filled), {"x": Destination("x", second_wrong, {3: 9})})
    assert table[["right", "exact", "first_wrong"]].values.tolist() == [[2, False, 1]] * 3
    short = travel(Session(toy, filled), {"x": Destination("x", lambda lm: lambda mem: mem.token_ids[:2], {3: 9})})
    assert short[["right", "exact", "first_wrong"]].values.tolist() == [[0, False, 0]] * 3


def test_it_resumes_after_each_vector_and_leaves_out_what_cannot_run(toy, filled):
    calls, tables, said = [], [], []

    def write(mem):
        calls.append(mem.key)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return mem.token_ids

    def refuses(lm):
        raise ModelError("not here.")

    destinations = {"a": Destination("a", lambda lm: write, {3: 3}), "b": Destination("b", refuses, {3: 3})}
    with pytest.raises(KeyboardInterrupt):
        travel(Session(toy, filled, on_rows=tables.append), destinations)
    assert len(tables[-1]) == 1
    table = travel(Session(toy, filled, tables[-1], said.append), destinations)
    assert len(table) == 3
    assert len(calls) == 4  # the interrupted one again, then the third
    assert said == ["a: 2 of 2 are exact", "b: left out. not here."]
    with pytest.raises(TableError, match="has no column"):
        travel(Session(toy, filled, pd.DataFrame({"key": []})), destinations)


def test_int8_rounds_the_linear_layers_by_row_and_leaves_the_embedding(toy):
    model = _int8(toy)
    changed = model.lm_head.weight
    assert not torch.equal(changed, toy.model.lm_head.weight)
    levels = changed / (changed.abs().amax(1, keepdim=True) / 127)
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    half_a_step = toy.model.lm_head.weight.abs().amax(1, keepdim=True) / 127 / 2
    assert ((changed - toy.model.lm_head.weight).abs() <= half_a_step * 1.001).all()
    assert torch.equal(model.get_input_embeddings().weight, toy.model.get_input_embeddings().weight)


def table_of(exact, margin, text=None, tokens=32):
    texts = text or [f"t{i}" for i in range(len(exact))]
    return pd.DataFrame({"exact": exact, "margin": margin, "text_id": texts, "tokens": tokens, "destination": "d"})


def test_vectors_of_one_text_count_as_one_in_the_interval():
    (row,) = arrived(table_of([True, True, False, True], [1.0] * 4, ["a", "a", "b", "c"])).itertuples()
    assert (row.exact, row.vectors, row.texts) == (3, 4, 3)
    assert row.low == pytest.approx(0.2077, abs=1e-3)  # Wilson, 2 of 3
    assert row.high == pytest.approx(0.9385, abs=1e-3)


@pytest.mark.slow
def test_the_margins_area_under_the_curve():
    # Three failures with margins 1, 2, 5 against 3, 4, 5: wins 3, 3 and a tie of 3 pairs.
    table = table_of([False, False, False, True, True, True], [1.0, 2.0, 5.0, 3.0, 4.0, 5.0])
    assert margin_auc(table).value == pytest.approx((3 + 3 + 0.5) / 9)
    # Pairs of different lengths do not count.
    assert np.isnan(margin_auc(pd.concat([table[:3], table_of([True] * 3, [9.0] * 3, tokens=8)])).value)


# What was measured ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_numbers_of_the_report():
    table = stored("travel")
    assert table.groupby("destination").size().loc["llama.cpp, the GGUF file"] >= 64
    assert set(table.destination) == set(DESTINATIONS)
    same = table[table.tokens == 32].groupby("destination").key.apply(frozenset)
    assert (same.nunique(), len(same.iloc[0])) == (1, 50)  # each destination gets the same fifty vectors
    report = " ".join((data_folder() / "bench" / "README.md").read_text().split())
    auc = margin_auc(table)
    assert f"the failing one has the smaller margin in {auc:.2f} of all pairs" in report
    long = table[table.tokens == 64]
    kept = long.groupby(["destination", long.text_id.str.startswith("random-")]).exact.agg(["sum", "count"])
    cells = [f"{hits} of {of}" for hits, of in kept.loc["generate, linear weights in int8"].to_numpy()]
    assert f"int8 keeps {cells[0]} of prose and {cells[1]} of random words" in report
    cells = [f"{hits} of {of}" for hits, of in kept.loc["llama.cpp, the GGUF file"].to_numpy()]
    assert f"llama.cpp keeps {cells[0]} and {cells[1]}." in report
