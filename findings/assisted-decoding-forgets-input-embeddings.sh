#!/usr/bin/env bash
# transformers 5.23.0: assisted decoding gives another text if `generate` gets input embeddings next to the token ids.
#
# Greedy assisted decoding is meant to give the greedy text, only faster: the model checks each proposed token. If
# `inputs_embeds` and `input_ids` are given together (so that the ids come back with the text, and penalties see them), the
# first check reads the embeddings of the prompt and not the tokens proposed behind it. The scores that it takes for the
# proposed tokens belong to the prompt. Nothing is raised. Even a model that assists itself changes its own text.
# It needs a proposal in the first step, so prompt lookup goes wrong only if the end of the prompt occurs earlier in it.
#
# Who is hurt: whoever decodes soft prompts or edited embeddings and turns on an assistant or `prompt_lookup_num_tokens` for
# speed. Seen: embeddings that are exactly those of the ids: 12 greedy tokens without an assistant, other tokens with one.
# With `input_ids` alone the assistant changes nothing. With `inputs_embeds` alone an assistant model raises an error, and
# prompt lookup is right.
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
from transformers import LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()


def made(seed, layers):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


model, small = made(0, 2), made(1, 1)
prompt = torch.tensor([[3, 4, 5, 6, 7, 3, 4, 5]])  # its end occurs earlier in it
embeddings = model.get_input_embeddings()(prompt).detach()


def text(**inputs):
    found = model.generate(do_sample=False, max_new_tokens=12, **inputs)
    return found[0, -12:].tolist()


ids, both, rows = {"input_ids": prompt}, {"input_ids": prompt, "inputs_embeds": embeddings}, {"inputs_embeds": embeddings}
lookup = {"prompt_lookup_num_tokens": 3}
greedy = text(**ids)
print("greedy, ids                 ", greedy)
assert text(**both) == greedy and text(**rows) == greedy
for name, help_ in {"a smaller model": {"assistant_model": small}, "itself": {"assistant_model": model}, "lookup": lookup}.items():
    alone, together = text(**ids, **help_), text(**both, **help_)
    print(f"{name:15}, ids         ", alone)
    print(f"{name:15}, ids and rows", together)
    assert alone == greedy and together != greedy
assert text(**rows, **lookup) == greedy
PYTHON
