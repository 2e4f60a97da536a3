"""Model types of transformers, tiny: what works is certified without memlab, and what is refused is refused by name."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from typer.testing import CliRunner

from memlab.cli import app
from memlab.experiments import families as experiment
from memlab.experiments import tiny_models
from memlab.experiments.families import COLUMNS, UnknownTypeError, confirmed, families, measure, train_some
from memlab.experiments.tables import TableError, stored
from memlab.experiments.tiny_models import NotBuiltError, causal_types, text_type, tiny_config, tiny_model
from memlab.models import FrozenLM, ModelError, toys
from tests.helpers import make_vector

HYBRIDS = [
    "bamba",
    "falcon_h1",
    "granitemoehybrid",
    "jamba",
    "nemotron_h",
    "olmo_hybrid",
    "qwen3_next",
    "zamba",
    "zamba2",
]
QUICK = ["apertus", "ctrl", "mamba2", "moshi", "recurrent_gemma", "rwkv"]
SLOW = ["falcon_mamba", "mamba"]
REFUSED = {
    "gemma3n_text": "token ids and their embeddings give different logits",
    "gemma4_text": "cannot be given input embeddings alone",
    "openai-gpt": "its logits depend on later tokens",
    "prophetnet": "its logits depend on later tokens",
    "reformer": "no gradient comes back to its input embeddings",
    "xlnet": "its logits depend on later tokens",
}


# Types -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model_type", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in [*HYBRIDS, *SLOW, "lfm2"])]
)
def test_a_type_works_in_float32_and_bfloat16(model_type):
    """Exact vectors, each confirmed by a greedy loop without memlab and without a cache."""
    row = measure(model_type)
    assert row["verdict"] == "works", row
    for dtype in ("float32", "bfloat16"):
        assert row[f"independent_{dtype}"] == row[f"exact_{dtype}"] > 0, row


@pytest.mark.slow
def test_a_type_that_cannot_run_in_bfloat16_works_in_float32_and_says_so():
    row = measure("xlstm")
    assert row["verdict"] == "works", row
    assert row["independent_float32"] == row["exact_float32"] > 0
    assert "exact_bfloat16" not in row
    assert row["reason"].startswith("tiny xlstm cannot run in bfloat16")


@pytest.mark.parametrize("model_type", REFUSED)
def test_a_type_that_would_train_one_model_and_decode_another_is_refused(model_type):
    row = measure(model_type)
    assert row["verdict"] == "refused"
    assert REFUSED[model_type] in row["reason"]


def verdict_without_training(model_type):
    try:
        FrozenLM.from_model(tiny_model(model_type), name=model_type, device="cpu", dtype=torch.float32)
    except NotBuiltError:
        return "not built"
    except ModelError:
        return "refused"
    return "works"


@pytest.mark.slow
def test_every_type_loads_or_is_refused_as_the_stored_table_says():
    table = stored("families")
    if set(table.transformers) != {transformers.__version__}:
        pytest.skip("the stored table is of another version of transformers")
    expected = table.set_index("model_type").verdict.replace("hard", "works").to_dict()
    assert {name: verdict_without_training(name) for name in expected if text_type(name) is None} == {
        name: verdict for name, verdict in expected.items() if text_type(name) is None
    }


# The stored table --------------------------------------------------------------------------------------------------


def test_the_stored_table_has_every_causal_type_of_its_version():
    table = stored("families")
    assert [*table.columns] == [*COLUMNS]
    assert table.model_type.is_monotonic_increasing
    if set(table.transformers) != {transformers.__version__}:
        pytest.skip("the stored table is of another version of transformers")
    assert dict(zip(table.model_type, table.model_class, strict=True)) == {
        name: classes if isinstance(classes, str) else ", ".join(classes) for name, classes in causal_types().items()
    }


def test_every_type_that_works_is_certified_and_no_type_trains_without_decoding():
    table = stored("families")
    assert set(table.verdict) <= {"works", "hard", "refused", "not built"}
    works = table[table.verdict == "works"]
    assert len(works) > 150
    for dtype in ("float32", "bfloat16"):
        some = works.dropna(subset=[f"exact_{dtype}"])
        assert (some[f"independent_{dtype}"] == some[f"exact_{dtype}"]).all()
    assert (works.independent_float32.fillna(0) + works.independent_bfloat16.fillna(0) > 0).all()
    assert (table.reason[table.verdict.isin(["refused", "not built"])] != "").all()


@pytest.mark.parametrize("model_type", ["mamba", "falcon_mamba", "mamba2", *HYBRIDS])
def test_state_space_models_and_hybrids_work_in_both_dtypes(model_type):
    row = stored("families").set_index("model_type").loc[model_type]
    assert row.verdict == "works"
    assert row.exact_float32 > 0
    assert row.exact_bfloat16 > 0


# Tiny models -------------------------------------------------------------------------------------------------------


def test_a_tiny_model_has_each_kind_of_layer():
    assert set(tiny_config("jamba").layers_block_type) == {"mamba", "attention"}
    assert set(tiny_config("gemma3_text").layer_types) == {"sliding_attention", "full_attention"}
    assert len(set(tiny_config("recurrent_gemma").layers_block_type)) == 2


def test_parts_of_a_composite_type_are_tiny_too():
    config = tiny_config("gemma3")
    assert config.text_config.vocab_size == tiny_models.VOCABULARY
    assert config.vision_config.hidden_size == tiny_models.WIDTH


def test_a_tiny_model_is_the_same_each_time_and_leaves_the_random_state():
    state = torch.random.get_rng_state()
    first, second = tiny_model("llama").state_dict(), tiny_model("llama").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_large_model_is_never_allocated(monkeypatch):
    monkeypatch.setattr(tiny_models, "LARGEST", 1000)
    with pytest.raises(NotBuiltError, match="still has 3"):
        tiny_model("llama")


def test_a_type_that_writes_no_text_says_why():
    assert measure("musicgen") == {"verdict": "not built", "reason": "its tokens are audio codes, several per position"}


# The experiment ----------------------------------------------------------------------------------------------------


def row_of(model_type, **changes):
    return experiment._row(model_type) | {"verdict": "works"} | changes


@pytest.fixture
def three_types(monkeypatch):
    """The experiment over three types, without processes. Returns the list of types that were measured."""
    measured = []
    types = {"llama": "LlamaForCausalLM", "qwen3_5": "Q", "qwen3_5_text": "Q"}
    monkeypatch.setattr(experiment, "causal_types", lambda: types)
    monkeypatch.setattr(experiment, "text_type", {"qwen3_5": "qwen3_5_text"}.get)
    monkeypatch.setattr(experiment, "_measured_elsewhere", lambda name: measured.append(name) or {"verdict": "works"})
    return measured


def test_rows_are_kept_and_a_composite_type_gets_the_row_of_its_text_part(three_types):
    saved = []
    table = families(log=lambda line: None, on_rows=saved.append)
    assert three_types == ["llama", "qwen3_5_text"]
    assert [*table.model_type] == ["llama", "qwen3_5", "qwen3_5_text"]
    assert table.reason[1].startswith("its text part is qwen3_5_text")
    assert [len(rows) for rows in saved] == [1, 2, 3]
    three_types.clear()
    assert families(resume_from=table.drop(index=0), log=lambda line: None).equals(table)
    assert three_types == ["llama"]


def test_named_types_and_those_of_another_version_are_measured_again(three_types):
    table = pd.DataFrame([row_of("llama"), row_of("qwen3_5_text", transformers="4.0.0")])
    families(["llama"], resume_from=table, log=lambda line: None)
    assert three_types == ["llama"]
    three_types.clear()
    families(resume_from=table, log=lambda line: None)
    assert three_types == ["qwen3_5_text"]


def test_an_unknown_type_and_another_table_are_refused(three_types):
    with pytest.raises(UnknownTypeError, match="no causal model type 'lama'"):
        families(["lama"])
    with pytest.raises(TableError, match="another command wrote it"):
        families(resume_from=pd.DataFrame({"key": ["x"]}))
    assert not three_types


@pytest.mark.slow
def test_a_type_that_takes_too_long_is_a_row_and_no_hang(monkeypatch):
    monkeypatch.setattr(experiment, "SECONDS", 0)
    assert experiment._measured_elsewhere("llama") == {"verdict": "failed", "reason": "not finished within 0 seconds"}


def test_a_vector_of_another_text_is_not_confirmed():
    model = tiny_model("llama")
    lm = FrozenLM.from_model(model, name="tiny", device="cpu", dtype=torch.float32)
    (mem,) = train_some(lm, count=1)
    assert mem.exact
    assert confirmed(model, mem)
    assert not confirmed(model, make_vector(d=lm.d, token_ids=mem.token_ids, prefix_ids=np.array([], np.int64)))


# memlab models --check ---------------------------------------------------------------------------------------------


def saved(model_type, folder):
    tiny_model(model_type).save_pretrained(folder)
    toys._tokenizer().save_pretrained(folder)
    return str(folder)


def test_a_model_that_works_is_described(tmp_path):
    folder = saved("llama", tmp_path)
    result = CliRunner().invoke(app, ["models", "--check", folder, "--train"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"{folder} is a LlamaForCausalLM (llama)."
    assert lines[-2].startswith("A vector for a few random tokens: exact after ")
    assert lines[-1] == "works"
    assert "the cache (past_key_values) gives the logits of one pass" in result.stdout
    assert "bfloat16: the model runs" in result.stdout
    assert "Tokenizer: does not write back: other scripts, code." in result.stdout  # its tokens are printable ASCII


def test_a_folder_that_is_refused_says_why(tmp_path):
    result = CliRunner().invoke(app, ["models", "--check", saved("gemma3n_text", tmp_path)])
    assert result.exit_code == 2
    assert result.stdout.startswith("refused because ")
    assert "token ids and their embeddings give different logits" in result.stdout


def test_check_as_json():
    result = CliRunner().invoke(app, ["models", "--check", "toy:llama", "--json"])
    found = json.loads(result.stdout)
    assert (found["verdict"], found["cache"], found["generate"]) == ("works", "past_key_values", "same")
    assert found["ids_vs_embeddings"] < 1e-5
    assert found["context"] == 512
