#!/usr/bin/env bash
# transformers 5.23.0: xLSTM with its default shape cannot generate with its cache.
#
# The default `qk_dim_factor` of 0.5 makes keys half as wide as values. The cache is made with a state that is square, in
# the width of the values, and the second token of `generate` ends in a ValueError about `matC_old`. With
# `qk_dim_factor=1.0` the same call works, and without the cache it always does.
#
# Who is hurt: whoever decodes with xLSTM as transformers ships it, without the xlstm package.
#
# Exit status 0: the behaviour is as described. Anything else: it changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

warnings.filterwarnings("ignore")
import torch
import transformers
from transformers import AutoModelForCausalLM, xLSTMConfig

transformers.logging.set_verbosity_error()


def generate(use_cache, **settings):
    torch.manual_seed(0)
    config = xLSTMConfig(
        vocab_size=64, hidden_size=64, num_hidden_layers=3, num_heads=4, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        **settings,
    )
    ids = torch.arange(1, 10)[None]
    try:
        return AutoModelForCausalLM.from_config(config).eval().generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, eos_token_id=None,
            pad_token_id=0, use_cache=use_cache,
        )[0, 9:].tolist()
    except ValueError as error:
        return f"ValueError: {error}"


default, without, square = generate(True), generate(False), generate(True, qk_dim_factor=1.0)
print("default shape, with cache:   ", default)
print("default shape, without cache:", without)
print("qk_dim_factor=1.0, with cache:", square)
assert "matC_old" in str(default) and isinstance(without, list) and isinstance(square, list)
PYTHON
