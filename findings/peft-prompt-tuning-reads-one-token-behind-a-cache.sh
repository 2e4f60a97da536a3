#!/usr/bin/env bash
# PEFT 0.21.2 with transformers 5.23.0: behind a cache, a prompt-tuned model reads the last new token and skips the others.
#
# `generate` with a kept cache is how one goes on with a chat: the whole text goes in, and the model reads the part that is not
# in the cache yet. With prompt tuning (and P-tuning) PEFT cuts that part to its last token as soon as the cache is at least
# as long as it. Nothing is raised. So in the second turn the message is lost up to its last token. `prefill_chunk_size`
# takes the same path: of each chunk behind the first only the last token is read, and the text changes. Without PEFT the text
# is that without a cache; with prefix tuning too, since the cache that is given stays empty. We found no issue about it.
#
# Who is hurt: whoever chats with a soft prompt, or reads a long prompt in chunks. Seen: a prompt of 9 tokens, 4 generated, a
# message of 5: one of the 6 tokens that are not in the cache yet is read.
#
# Exit status 0: the behaviour is as described. Anything else: it changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 peft==0.21.2 2>/dev/null
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import copy

import torch
import transformers
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, initializer_range=0.3, bos_token_id=None, eos_token_id=None, pad_token_id=0,
)
plain = LlamaForCausalLM(config).eval()
prompt, message = torch.randint(1, 50, (1, 9)), torch.randint(1, 50, (1, 5))


def tuned(kind):
    model = get_peft_model(copy.deepcopy(plain), kind(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    with torch.no_grad():
        model.prompt_encoder.default.embedding.weight.normal_()
    return model


def text(model, ids, length, **more):
    return model.generate(input_ids=ids, max_new_tokens=length, do_sample=False, **more)


def read(arguments):
    rows = arguments.get("inputs_embeds")
    return arguments["input_ids"].shape[1] if rows is None else rows.shape[1]


for name, model in {"no PEFT": plain, "prefix tuning": tuned(PrefixTuningConfig), "prompt tuning": tuned(PromptTuningConfig)}.items():
    cache, counts = DynamicCache(), []
    so_far = torch.cat([text(model, prompt, 4, past_key_values=cache), message], 1)
    inner = (model if model is plain else model.base_model).model
    hook = inner.register_forward_pre_hook(lambda module, args, named: counts.append(read(named)), with_kwargs=True)
    kept = text(model, so_far, 6, past_key_values=cache)[0, -6:].tolist()
    hook.remove()
    fresh = text(model, so_far, 6)[0, -6:].tolist()
    print(f"{name:13}: second turn {fresh}; with the kept cache {kept}, which reads {counts[0]}")
    assert (kept == fresh) == (name != "prompt tuning")
    assert counts[0] == {"no PEFT": 6, "prefix tuning": 18, "prompt tuning": 1}[name]
    if name != "prefix tuning":
        chunks = text(model, so_far, 6, prefill_chunk_size=4)[0, -6:].tolist()
        print(f"{name:13}: the same, read in chunks of 4: {chunks}")
        assert (chunks == fresh) == (model is plain)
PYTHON
