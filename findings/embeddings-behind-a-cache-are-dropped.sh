#!/usr/bin/env bash
# transformers 5.23.0: `generate` drops the first rows of `inputs_embeds` if a cache holds the start of the prompt.
#
# To go on from a filled cache, `generate` takes the token ids of the new part only, with an attention mask for the whole.
# The same call with the embeddings of the new part treats them as the whole prompt: with 4 positions in the cache, it drops
# the first 4 of 9 rows, and generates. Nothing is raised. With a longer cache the count runs backwards: of 9 rows behind 12
# positions the first 3 are dropped, behind 9 none is, and behind 18 it is an error about an empty tensor. A comment in the
# source says that `inputs_embeds` is always the whole prompt; we found no documentation of it. The model's own `forward`
# takes the new rows only.
#
# Who is hurt: whoever caches an instruction and puts a soft prompt behind it: the soft prompt is the part that is dropped.
# What helps: rows of any value in front, as many as the cache is long. They are dropped instead.
#
# Exit status 0: the behaviour is as described. Anything else: it changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, initializer_range=0.3, bos_token_id=None, eos_token_id=None, pad_token_id=0,
)
model = LlamaForCausalLM(config).eval()
prompt = torch.randint(1, 50, (1, 21))
rows = model.get_input_embeddings()(prompt).detach()
read = []
model.model.register_forward_pre_hook(
    lambda module, args, inputs: read.append(
        inputs["input_ids"].shape[1] if inputs.get("inputs_embeds") is None else inputs["inputs_embeds"].shape[1]
    ),
    with_kwargs=True,
)


def text(cached, **inputs):
    """The 12 tokens behind the prompt whose first `cached` positions are in a cache; how many rows the first step read."""
    more = {}
    if cached:
        more = {"past_key_values": DynamicCache(), "attention_mask": torch.ones(1, cached + 9, dtype=torch.long)}
        with torch.no_grad():
            model(input_ids=prompt[:, :cached], past_key_values=more["past_key_values"])
    read.clear()
    found = model.generate(do_sample=False, max_new_tokens=12, **inputs, **more)
    return found[0, -12:].tolist(), read[0]


for cached, count in {4: 5, 9: 9, 12: 6}.items():
    new, zeros = slice(cached, cached + 9), torch.zeros(1, cached, 32)
    whole, _ = text(0, input_ids=prompt[:, : cached + 9])
    ids, rows_read = text(cached, input_ids=prompt[:, new])
    assert ids == whole and rows_read == 9
    only, rows_read = text(cached, inputs_embeds=rows[:, new])
    print(f"{cached} in the cache, 9 new ids : {ids}")
    print(f"{cached} in the cache, 9 new rows: {only}, {rows_read} rows read")
    assert rows_read == count and (only == whole) == (count == 9)
    padded, rows_read = text(cached, inputs_embeds=torch.cat([zeros, rows[:, new]], 1))
    assert padded == whole and rows_read == 9
PYTHON
