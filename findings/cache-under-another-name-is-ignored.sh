#!/usr/bin/env bash
# transformers 5.23.0: a cache that is passed under the name of another family is ignored without a word.
#
# Mamba, Falcon-Mamba and Mamba-2 call their cache `cache_params`, RWKV calls it `state`, the others `past_key_values`.
# Every forward accepts any keyword. So a decoding loop written for one family runs on another one, raises nothing, and
# answers each step as if the token stood alone: the logits are bit for bit those of a model without any context.
#
# Who is hurt: whoever writes `model(ids, past_key_values=out.get("past_key_values") or out.get("cache_params"))`.
# Seen: five families; logits equal those of the single token exactly, and differ from the right ones.
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
from transformers import AutoModelForCausalLM

transformers.logging.set_verbosity_error()
common = dict(vocab_size=64, hidden_size=32, num_hidden_layers=2, pad_token_id=0, bos_token_id=0, eos_token_id=0)
families = {
    "mamba": (transformers.MambaConfig(**common, state_size=8), "cache_params", "past_key_values"),
    "falcon_mamba": (transformers.FalconMambaConfig(**common, state_size=8), "cache_params", "past_key_values"),
    "mamba2": (
        transformers.Mamba2Config(**common, state_size=8, num_heads=8, head_dim=8, n_groups=1),
        "cache_params", "past_key_values",
    ),
    "rwkv": (transformers.RwkvConfig(**common, attention_hidden_size=32, context_length=64), "state", "past_key_values"),
    "llama": (
        transformers.LlamaConfig(**common, num_attention_heads=4, intermediate_size=64), "past_key_values", "cache_params",
    ),
}
for family, (config, own, other) in families.items():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(1, 64, (1, 9))
    with torch.no_grad():
        whole, alone = model(ids).logits[:, -1], model(ids[:, -1:]).logits[:, -1]
        right = model(ids[:, -1:], **{own: model(ids[:, :-1], use_cache=True)[own]}, use_cache=True).logits[:, -1]
        wrong = model(ids[:, -1:], **{other: model(ids[:, :-1], use_cache=True)[own]}, use_cache=True).logits[:, -1]
    print(f"{family:13} {own}: right; {other}: accepted, and ignored")
    assert torch.allclose(right, whole, atol=1e-4) and torch.equal(wrong, alone) and not torch.allclose(wrong, whole, atol=1e-4)
PYTHON
