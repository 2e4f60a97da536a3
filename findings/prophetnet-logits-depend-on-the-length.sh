#!/usr/bin/env bash
# transformers 5.23.0: the logits of a ProphetNet decoder at one position change with the number of tokens after it.
#
# `ProphetNetForCausalLM` is causal in the values: another last token leaves earlier logits as they are. But a shorter
# row gives other logits at the same positions, and decoding with the cache gives others than one pass. No warning.
#
# Who is hurt: whoever scores a text in one pass and decodes token by token, pads rows to different lengths, or compares
# perplexities of texts of unequal lengths. Seen (2 layers, width 64, random weights of standard deviation 0.1; the logits
# have a standard deviation of 0.75): leaving out the last of 12 tokens changes earlier logits by up to 0.7, another last
# token by 0.0, and the cache by up to 0.8. GPT-2 in the same test: 1e-6 or less.
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
from transformers import GPT2Config, GPT2LMHeadModel, ProphetNetConfig, ProphetNetForCausalLM

transformers.logging.set_verbosity_error()
prophet = ProphetNetConfig(
    vocab_size=96, hidden_size=64, num_encoder_layers=2, num_decoder_layers=2, num_encoder_attention_heads=4,
    num_decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64,
    is_decoder=True, add_cross_attention=False,
)
gpt2 = GPT2Config(vocab_size=96, n_embd=64, n_layer=2, n_head=4, n_positions=64)


def changes(model):
    """Largest change of earlier logits: without the last token, with another last token, with the cache."""
    torch.manual_seed(0)
    model.eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.randint(5, 90, (1, 12))
    other = ids.clone()
    other[0, -1] = 3
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits[0]
        shorter = model(input_ids=ids[:, :-1], use_cache=False).logits[0] - whole[:-1]
        changed = model(input_ids=other, use_cache=False).logits[0, :-1] - whole[:-1]
        step = model(input_ids=ids[:, :4], use_cache=True)
        cached = [step.logits[0, -1] - whole[3]]
        for at in range(4, 12):
            step = model(input_ids=ids[:, at : at + 1], use_cache=True, past_key_values=step.past_key_values)
            cached.append(step.logits[0, -1] - whole[at])
    return [float(difference.abs().max()) for difference in (shorter, changed, torch.stack(cached))]


for model, depends in ((ProphetNetForCausalLM(prophet), True), (GPT2LMHeadModel(gpt2), False)):
    shorter, changed, cached = changes(model)
    name = type(model).__name__
    print(f"{name:24} shorter row {shorter:.1e}, another last token {changed:.1e}, cache {cached:.1e}")
    assert changed == 0
    assert (shorter > 0.1) == depends
    assert (cached > 0.1) == depends
PYTHON
