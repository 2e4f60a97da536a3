"""Exported vectors in PEFT: its own loader and generate."""

import json

import numpy as np
import pytest
import torch

from memlab import ModelError, Recipe, cram, decode, export_peft, load
from tests.conftest import random_passages

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
