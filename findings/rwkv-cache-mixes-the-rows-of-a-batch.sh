#!/usr/bin/env bash
# transformers 5.23.0: RWKV's cached decoding mixes the rows of a batch. With one row it is right.
#
# With a state and one new token, `RwkvSelfAttention` and `RwkvFeedForward` take the last hidden state as (batch, width)
# and add it to hidden states of (batch, 1, width). The sum broadcasts to (batch, batch, width), so each row also gets
# the other rows' past. The logits of one token then have the shape (batch, batch, vocabulary), and `logits[:, -1]`, the
# usual way to read them, still looks right. No warning is given.
#
# Who is hurt: whoever calls `generate` on several prompts at once, or measures a batch with the cache. Seen: two rows,
# each of the length 4, one more token: the logits differ from those of one pass by 0.1 of their norm or more; the same
# rows alone differ by less than 1e-5.
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
from transformers import RwkvConfig, RwkvForCausalLM

transformers.logging.set_verbosity_error()
torch.manual_seed(0)
config = RwkvConfig(
    vocab_size=96, hidden_size=64, num_hidden_layers=2, context_length=64, bos_token_id=0, eos_token_id=0
)
model = RwkvForCausalLM(config).eval()
with torch.no_grad():
    for parameter in model.parameters():  # as in a trained model: no scale is exactly 0 or 1
        parameter.add_(0.2 * torch.randn_like(parameter))
ids = torch.randint(3, 93, (2, 5))


def difference(rows):
    """Relative difference of the last logits between one pass and a step with the state."""
    with torch.no_grad():
        whole = model(ids[rows], use_cache=False).logits[:, -1]
        state = model(ids[rows, :4], use_cache=True).state
        step = model(ids[rows, 4:], use_cache=True, state=state).logits
    assert step.shape == (len(ids[rows]), len(ids[rows]), 96)  # the second axis should be 1, for one token
    return float((step[:, -1] - whole).norm() / whole.norm())


one, other, both = difference(slice(0, 1)), difference(slice(1, 2)), difference(slice(0, 2))
print(f"row 1 alone {one:.1e}, row 2 alone {other:.1e}, both rows together {both:.1e}")
assert max(one, other) < 1e-5
assert both > 0.02
PYTHON
