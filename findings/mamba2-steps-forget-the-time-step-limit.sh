#!/usr/bin/env bash
# transformers 5.23.0: Mamba-2 layers compute something else step by step than in one pass, if a time-step limit is active.
#
# The pass over many tokens clamps the discretisation step dt to `time_step_limit` (Nemotron-H and Zamba2: from
# `time_step_min` up). The recurrent form for one token at a time calls `mamba2_selective_state_update` without that
# limit. So `generate` with its cache and a plain forward pass over the same tokens disagree, and no warning is given.
# Without an active limit both forms agree to float32 rounding.
#
# Who is hurt: whoever scores with one pass and decodes with the cache (perplexity against generation, speculative
# decoding, soft prompts). Seen: Mamba-2 with a limit of (0.01, 0.05) differs by 6e-2 logits (standard deviation of the
# logits: 0.8), without it by 2e-6; Nemotron-H differs by 7e-2 with the default time_step_min and by 2e-5 with it at 1e-30.
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
from transformers import AutoConfig, AutoModelForCausalLM

transformers.logging.set_verbosity_error()


def largest_difference(family, **settings):
    """Largest logit difference between one pass and one token at a time, and the standard deviation of the logits."""
    common = dict(vocab_size=64, hidden_size=64, pad_token_id=0, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **common, **settings)).eval()
    ids = torch.randint(1, 64, (1, 30))
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits[0]
        step = model(ids[:, :9], use_cache=True)
        name = "cache_params" if "cache_params" in step else "past_key_values"
        cache, largest = step[name], 0.0
        for t in range(9, 30):
            step = model(ids[:, t : t + 1], use_cache=True, **{name: cache})
            largest = max(largest, float((step.logits[0, -1] - whole[t]).abs().max()))
    return largest, float(whole.std())


mamba2 = dict(num_hidden_layers=2, state_size=16, num_heads=8, head_dim=16, n_groups=1)
nemotron = dict(
    num_hidden_layers=3, hybrid_override_pattern="M*-", num_attention_heads=4, num_key_value_heads=4,
    intermediate_size=64, ssm_state_size=16, mamba_num_heads=8, mamba_head_dim=16, n_groups=1, initializer_range=0.3,
)
cases = {
    "mamba2, no limit": (largest_difference("mamba2", **mamba2), False),
    "mamba2, time_step_limit (0.01, 0.05)": (largest_difference("mamba2", **mamba2, time_step_limit=(0.01, 0.05)), True),
    "nemotron_h, time_step_min 1e-30": (largest_difference("nemotron_h", **nemotron, time_step_min=1e-30), False),
    "nemotron_h, time_step_min 0.001 (default)": (largest_difference("nemotron_h", **nemotron), True),
}
for name, ((difference, spread), differs) in cases.items():
    print(f"{name:45} largest difference {difference:.1e} logits, standard deviation {spread:.2f}")
    assert (difference > 1e-2) == differs and (differs or difference < 1e-4), name
PYTHON
