#!/usr/bin/env bash
# transformers 5.23.0, safetensors 0.8.0, on a CPU: writing into a weights file changes a model that is already loaded.
#
# If the file has the dtype that the model is loaded in, the parameters are the mapped file and no copy of it. A program
# that writes into the same file (`cp`, `rsync --inplace`, a download that resumes) changes the weights of every model
# that was loaded from it and still runs. torch's version counter of the tensors does not move. `save_pretrained` writes
# a new file, so it has no such effect; nor has loading in another dtype, which copies.
#
# Who is hurt: whoever updates a folder of weights under a running server or notebook, and whoever compares two versions
# of a model in one process. Seen: after `cp new/model.safetensors old/model.safetensors` the first number of the output
# head of the loaded model is that of the new file.
#
# Exit status 0: the behaviour is as described. Anything else: it changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 safetensors==0.8.0 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import subprocess

import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
config = LlamaConfig(
    vocab_size=96, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, tie_word_embeddings=False,
)
model = LlamaForCausalLM(config)
model.save_pretrained("old")
with torch.no_grad():
    model.lm_head.weight.add_(1)
model.save_pretrained("new")

mapped = AutoModelForCausalLM.from_pretrained("old", dtype=torch.float32).eval()
copied = AutoModelForCausalLM.from_pretrained("old", dtype=torch.bfloat16).eval()
ids = torch.arange(10)[None]


def state(model):
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    head = model.lm_head.weight
    return float(head[0, 0].detach()), float(logits.float().abs().mean()), head._version


before = state(mapped), state(copied)
subprocess.run(["cp", "new/model.safetensors", "old/model.safetensors"], check=True)
after = state(mapped), state(copied)
for name, b, a in zip(("float32", "bfloat16"), before, after):
    print(f"{name:9} first weight {b[0]:.3f} -> {a[0]:.3f}, mean |logit| {b[1]:.3f} -> {a[1]:.3f}, version {b[2]} -> {a[2]}")
assert abs(after[0][0] - before[0][0] - 1) < 1e-6
assert after[0][2] == before[0][2]
assert after[1] == before[1]
PYTHON
