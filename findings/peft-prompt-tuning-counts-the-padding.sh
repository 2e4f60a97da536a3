#!/usr/bin/env bash
# PEFT 0.21.2 with transformers 5.23.0: with prompt tuning, a prompt padded on the left generates another text than alone.
#
# Padding on the left is what `generate` asks for, and it hides the padding with the mask and with position ids. PEFT puts the
# virtual tokens in front of the padding and drops the position ids ("Position ids are not supported", a warning that comes for
# every prompt, padded or not). So the padding is masked and counted: it moves the virtual tokens away from the prompt, by as
# many positions as the longest prompt of the batch is longer. The same rows given to the model itself, padding
# in the middle, generate what they generate alone. Prefix tuning is not affected. Discussed for training in huggingface/peft
# #1093 and #1212 (closed), where the distance is taken for a matter of taste.
#
# Who is hurt: whoever decodes prompts of unequal length in a batch with a soft prompt: what a prompt generates depends on its
# neighbours. Seen: a prompt of 6 tokens beside one of 9.
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
from transformers import LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, initializer_range=0.3, bos_token_id=None, eos_token_id=None, pad_token_id=0,
)
plain = LlamaForCausalLM(config).eval()
long, short = torch.randint(1, 50, (1, 9)), torch.randint(1, 50, (1, 6))
batch = torch.cat([long, torch.cat([torch.zeros(1, 3, dtype=torch.long), short], 1)])
mask = (batch > 0).long()


def text(model, **inputs):
    return model.generate(max_new_tokens=8, do_sample=False, **inputs)[:, -8:].tolist()


for name, kind in {"no PEFT": None, "prefix tuning": PrefixTuningConfig, "prompt tuning": PromptTuningConfig}.items():
    model = plain
    if kind:
        model = get_peft_model(copy.deepcopy(plain), kind(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
        with torch.no_grad():
            model.prompt_encoder.default.embedding.weight.normal_()
    alone = [text(model, input_ids=ids, attention_mask=torch.ones_like(ids))[0] for ids in (long, short)]
    together = text(model, input_ids=batch, attention_mask=mask)
    print(f"{name:13}: the short prompt alone {alone[1]}, in the batch {together[1]}")
    assert together[0] == alone[0] and (together[1] == alone[1]) == (name != "prompt tuning")
# the same rows without PEFT: virtual tokens, padding, prompt
virtual = model.prompt_encoder.default.embedding.weight.detach().expand(2, -1, -1)
rows = torch.cat([virtual, plain.get_input_embeddings()(batch).detach()], 1)
direct = text(plain, inputs_embeds=rows, attention_mask=torch.cat([torch.ones(2, 3, dtype=torch.long), mask], 1))
print("the same rows as inputs_embeds, in the batch", direct[1])
assert direct == alone
PYTHON
