#!/usr/bin/env bash
# transformers 5.23.0: `generate` gives RoBERTa decoders other positions than a forward pass, and so writes another text.
#
# RoBERTa's positions begin at `pad_token_id + 1` (2 by default). Its forward pass computes them so from ids and from
# embeddings. `generate` passes `position_ids` of its own, which begin at 0. So a decoder that was trained with plain
# forward passes is decoded with position rows that it never used there (0 and 1), and all others shifted by two.
# There is no error and no warning. CamemBERT, XLM-RoBERTa, Data2Vec-text, X-MOD and RoBERTa-PreLayerNorm do the same;
# BERT does not.
#
# Who is hurt: whoever trains a RoBERTa decoder (`RobertaForCausalLM` with `is_decoder`, in encoder-decoder models, too) and
# decodes it with `generate`, or compares the loss of a text with what `generate` gives for it.
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
SIZES = dict(vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)


@torch.no_grad()
def texts(family):
    """(greedy loop over forward passes, the same with positions from 0, `generate`): 12 token ids each."""
    config = AutoConfig.for_model(family, is_decoder=True, max_position_embeddings=64, **SIZES)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.normal_(std=0.2)
    prompt = torch.randint(5, 96, (1, 8))

    def loop(from_zero):
        ids = prompt
        for _ in range(12):
            given = dict(position_ids=torch.arange(ids.shape[1])[None]) if from_zero else {}
            ids = torch.cat([ids, model(ids, use_cache=False, **given).logits[:, -1:].argmax(-1)], 1)
        return ids[0, 8:].tolist()

    settings = dict(max_new_tokens=12, do_sample=False, eos_token_id=None, attention_mask=torch.ones_like(prompt))
    return loop(False), loop(True), model.generate(prompt, **settings)[0, 8:].tolist()


for family in ("roberta", "camembert", "xlm-roberta", "data2vec-text", "roberta-prelayernorm"):
    forward, from_zero, generated = texts(family)
    print(f"{family}: forward {forward}, generate {generated}")
    assert generated != forward, f"{family}: generate now agrees with the forward pass"
    assert generated == from_zero, f"{family}: the difference has another cause"
forward, _, generated = texts("bert")
assert generated == forward, "bert"
PYTHON
