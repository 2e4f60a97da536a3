#!/usr/bin/env bash
# peft and transformers 5.23.0: with a prompt-tuning adapter on Mamba, `generate` writes another text than the model means.
#
# Greedy decoding with the cache (the default) agrees with decoding without it on the first token of the continuation and
# then leaves it. PEFT looks for the cache under `past_key_values`; Mamba's is `cache_params`. So PEFT takes every step for
# the first one and puts the virtual tokens in front of the newest token once more. No error, no warning. The same
# adapter on Llama is right both ways.
#
# Who is hurt: whoever trains a soft prompt for Mamba and judges it by what `generate` writes. What helps:
# `use_cache=False`.
#
# Exit status 0: the behaviour is as described. Anything else: it changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 peft==0.21.2 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

warnings.filterwarnings("ignore")
import peft
import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, MambaConfig

transformers.logging.set_verbosity_error()
common = dict(
    vocab_size=64, hidden_size=32, num_hidden_layers=2, pad_token_id=0, bos_token_id=0, eos_token_id=0,
    initializer_range=0.5,
)


def continuations(config):
    """Tokens that an adapted model writes: with its cache, without it, and by hand, one whole pass per token."""
    torch.manual_seed(0)
    prompt = peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, num_attention_heads=1, num_layers=2, token_dim=32,
        num_transformer_submodules=1,
    )
    model = peft.get_peft_model(AutoModelForCausalLM.from_config(config), prompt).eval()
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.normal_()
        ids = torch.randint(1, 64, (1, 4))
        asked = dict(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=None,
            pad_token_id=0,
        )
        cached, uncached = (model.generate(**asked, use_cache=c)[0, 4:].tolist() for c in (True, False))
        by_hand = ids
        for _ in range(12):
            by_hand = torch.cat([by_hand, model(input_ids=by_hand).logits[:, -1].argmax(-1, keepdim=True)], 1)
    return cached, uncached, by_hand[0, 4:].tolist()


print("peft", peft.__version__, "transformers", transformers.__version__)
for name, config, right in (
    ("llama", LlamaConfig(**common, num_attention_heads=4, num_key_value_heads=4, intermediate_size=64), True),
    ("mamba", MambaConfig(**common, state_size=8), False),
):
    cached, uncached, by_hand = continuations(config)
    print(f"{name}: with cache    {cached}\n{name}: without cache {uncached}")
    assert uncached == by_hand and (cached == by_hand) == right and cached[:1] == by_hand[:1]
PYTHON
