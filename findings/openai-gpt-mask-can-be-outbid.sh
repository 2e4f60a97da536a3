#!/usr/bin/env bash
# transformers 5.23.0: OpenAI GPT is not causal for long input embeddings. Its mask is the attention score -10,000.
#
# `OpenAIGPTModel` hides a later token by giving it the score -10,000, and not minus infinity. Attention scores of
# ordinary tokens never come near that. Trained input embeddings (soft prompts, prompt tuning, adversarial inputs) can be
# a thousand times as long as a token's, and then a visible token's score can be lower than -10,000: the hidden tokens win
# the softmax. GPT-2's mask in the same package does not have this property.
#
# Who is hurt: whoever trains input embeddings of this model with the text behind them. The loss falls because the model
# reads the answer, and free decoding then gives another text. Seen: with embeddings of length 110,000 the logits of
# earlier positions change when only the last input changes; at length 2 they stay bit for bit, and GPT-2's always do.
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
from transformers import GPT2Config, GPT2LMHeadModel, OpenAIGPTConfig, OpenAIGPTLMHeadModel

transformers.logging.set_verbosity_error()
shape = dict(vocab_size=96, n_embd=128, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2)


def change_of_earlier_logits(model, scale):
    torch.manual_seed(1)
    first = scale * torch.randn(1, 10, 128)
    second = first.clone()
    second[:, -1] = torch.randn(128) * scale
    with torch.no_grad():
        a, b = (model(inputs_embeds=rows).logits[:, :-1] for rows in (first, second))
    return float((a - b).norm() / a.norm())


torch.manual_seed(0)
for kind, config in ((OpenAIGPTLMHeadModel, OpenAIGPTConfig(**shape)), (GPT2LMHeadModel, GPT2Config(**shape))):
    model = kind(config).eval()
    short, long = change_of_earlier_logits(model, 0.2), change_of_earlier_logits(model, 1e4)
    print(f"{kind.__name__:22} change of earlier logits: {short:.1e} at length 2, {long:.1e} at length 110,000")
    assert short == 0
    assert (long > 1e-3) == (kind is OpenAIGPTLMHeadModel)
PYTHON
