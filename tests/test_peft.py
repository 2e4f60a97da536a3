"""Exported vectors in PEFT: its own loader and generate."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from memlab import FrozenLM, ModelError, Recipe, Store, VectorError, cram, decode, export_peft, load
from memlab.models import toys
from tests.conftest import random_passages
from tests.helpers import unwritable

pytestmark = pytest.mark.slow

peft = pytest.importorskip("peft")


@pytest.mark.parametrize("family", ["llama", "mamba", "gemma3"])
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("prefix", [(), (1,)])
def test_peft_generates_the_passage(family, k, prefix, tmp_path):
    lm = load(f"toy:{family}")
    recipe = Recipe.default(k=k, prefix=prefix, budget=150)
    mems = [m for m in cram(lm, random_passages(lm, 4, 3 if k == 1 else 6), recipe, progress=False) if m.exact]
    assert mems
    mem = mems[0]
    folder = export_peft(mem, tmp_path / "adapter", lm)
    adapted = peft.PeftModel.from_pretrained(lm.model, folder)
    nothing = torch.empty(1, 0, dtype=torch.long)
    # PEFT supports one kind of cache, which Mamba does not use.
    settings = dict(use_cache=False) if family == "mamba" else {}
    written = adapted.generate(input_ids=nothing, max_new_tokens=mem.n, do_sample=False, eos_token_id=None, **settings)
    np.testing.assert_array_equal(written[0].numpy(), mem.token_ids)
    assert json.loads((folder / "adapter_config.json").read_text())["num_virtual_tokens"] == len(prefix) + k
    # The model is unchanged.
    np.testing.assert_array_equal(decode(lm, [mem], batch=1)[0], mem.token_ids)


def test_suffix_tokens_are_exported_too(tmp_path):
    lm = load("toy:llama")
    (mem,) = cram(lm, random_passages(lm, 1, 3), Recipe.default(k=2, suffix=(5,), budget=100), progress=False)
    from safetensors.numpy import load_file

    rows = load_file(export_peft(mem, tmp_path, lm) / "adapter_model.safetensors")["prompt_embeddings"]
    np.testing.assert_array_equal(rows[-1], lm.embed([5])[0].numpy())
    np.testing.assert_array_equal(rows[-3:-1], mem.mem)


def test_another_models_vector_is_refused(tmp_path):
    lm = load("toy:llama")
    (mem,) = cram(lm, random_passages(lm, 1, 3), Recipe.default(budget=1), progress=False)
    with pytest.raises(ModelError, match="toy:opt"):
        export_peft(mem, tmp_path, load("toy:opt"))
    assert not list(tmp_path.iterdir())


# Where the adapter finds its model -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(root, name): a model in the folder ``root / name``."""
    model, tokenizer = toys.toy("llama")
    root = tmp_path_factory.mktemp("models")
    model.save_pretrained(root / "my-model")
    tokenizer.save_pretrained(root / "my-model")
    return root, "my-model"


def crammed(lm):
    return cram(lm, random_passages(lm, 1, 3), Recipe.default(k=2, budget=60), progress=False)[0]


def test_an_adapter_finds_its_model_from_any_working_directory(saved, tmp_path, monkeypatch):
    root, name = saved
    monkeypatch.chdir(root)
    lm = load(name)
    mem = crammed(lm)
    monkeypatch.chdir(tmp_path)  # the name given to load is relative, and no longer leads to the model
    adapter = export_peft(mem, tmp_path / "adapter", lm)
    assert config_of(adapter)["base_model_name_or_path"] == str(root / name)
    for folder in (root, tmp_path, root.parent):
        monkeypatch.chdir(folder)
        opened = peft.AutoPeftModelForCausalLM.from_pretrained(adapter)
        nothing = torch.empty(1, 0, dtype=torch.long)
        written = opened.generate(input_ids=nothing, max_new_tokens=mem.n, do_sample=False, eos_token_id=None)
        assert mem.matches(written[0].numpy())


def config_of(adapter):
    return json.loads((adapter / "adapter_config.json").read_text())


def test_an_adapter_of_a_hub_model_names_the_repository_and_the_commit(saved, tmp_path):
    snapshot = tmp_path / "models--me--tiny" / "snapshots" / ("c" * 40)
    shutil.copytree(saved[0] / saved[1], snapshot)
    model, tokenizer = toys.toy("llama")
    for name, repo in (("me/tiny", "me/tiny"), ("pythia-160m", "EleutherAI/pythia-160m")):
        lm = FrozenLM(model, tokenizer, name=name, revision=snapshot.name, folder=snapshot)
        settings = config_of(export_peft(crammed(lm), tmp_path / f"adapter-of-{model.config.model_type}", lm))
        assert (settings["base_model_name_or_path"], settings["revision"]) == (repo, "c" * 40)


@pytest.mark.real
def test_an_adapter_of_the_default_model_names_its_converted_folder(real, tmp_path):
    mem = Store.bundled().get(next(Store.bundled().keys()))
    settings = config_of(export_peft(mem, tmp_path, real))
    assert settings["base_model_name_or_path"] == str(real.folder)
    assert (real.folder / "config.json").exists()


def test_a_model_in_memory_has_the_name_that_transformers_gave_it_or_none(saved, tmp_path, monkeypatch):
    toy = load("toy:llama")
    assert config_of(export_peft(crammed(toy), tmp_path / "toy", toy))["base_model_name_or_path"] is None
    monkeypatch.chdir(saved[0])
    wrapped = FrozenLM.from_model(AutoModelForCausalLM.from_pretrained(saved[1]))
    adapter = export_peft(crammed(wrapped), tmp_path / "wrapped", wrapped)
    assert config_of(adapter)["base_model_name_or_path"] == str(saved[0] / saved[1])
    wrapped.model.config._name_or_path = wrapped.model.name_or_path = "me/tiny"
    assert config_of(export_peft(crammed(wrapped), adapter, wrapped))["base_model_name_or_path"] == "me/tiny"


# Folders that are in use ---------------------------------------------------------------------------------------------


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_adapter_is_never_written_into_a_models_folder(saved, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(saved[0] / saved[1], folder)
    lm = load(str(folder))
    before = files(folder)
    with pytest.raises(VectorError, match=r"holds a model \(config.json\).*Give an empty or new folder"):
        export_peft(crammed(lm), folder, lm)
    assert files(folder) == before


def test_another_adapter_is_not_replaced_but_an_earlier_export_is(tmp_path):
    lm = load("toy:llama")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(VectorError, match="an adapter of the kind LORA"):
        export_peft(crammed(lm), tmp_path, lm)
    assert [file.name for file in tmp_path.iterdir()] == ["adapter_config.json"]
    (tmp_path / "adapter_config.json").write_text("[broken")
    with pytest.raises(VectorError, match="an adapter of the kind unknown"):
        export_peft(crammed(lm), tmp_path, lm)
    (tmp_path / "adapter_config.json").unlink()
    assert export_peft(crammed(lm), export_peft(crammed(lm), tmp_path, lm), lm) == tmp_path


def test_a_file_or_an_unwritable_place_is_a_clear_error(tmp_path):
    lm = load("toy:llama")
    mem = crammed(lm)
    (tmp_path / "taken").write_text("notes")
    with pytest.raises(VectorError, match=r"taken is a file, but an adapter is a folder"):
        export_peft(mem, tmp_path / "taken", lm)
    with pytest.raises(VectorError, match=r"cannot be written to .*Give another folder"):
        export_peft(mem, tmp_path / "taken" / "below", lm)
    with pytest.raises(VectorError, match=r"cannot be written to .*Give another folder"):
        export_peft(mem, Path(unwritable(tmp_path)) / "adapter", lm)
    assert (tmp_path / "taken").read_text() == "notes"
