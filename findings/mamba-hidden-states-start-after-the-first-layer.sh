#!/usr/bin/env bash
# transformers 5.23.0: `hidden_states` of Mamba, Mamba-2 and Falcon-Mamba start after the first layer.
#
# With `output_hidden_states=True` a causal model returns one tensor more than it has layers. For Llama, and as the
# documentation of the output says, the first is the embeddings, and number i is the input of layer i. For the three
# Mamba types the first is the output of layer 0, number i is the output of layer i, and the last two are the same
# states before and after the final norm. The embeddings are missing. The tuple has the usual length, so nothing fails.
#
# Who is hurt: whoever compares layers of different models, probes "layer i", patches or steers the input of a layer
# with states taken from `hidden_states[i]`, or reads the embeddings from `hidden_states[0]`: all is off by one layer.
#
# Exit status 0: the behaviour is as described. Anything else: it changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import torch
import transformers
from transformers import FalconMambaConfig, LlamaConfig, Mamba2Config, MambaConfig

transformers.logging.set_verbosity_error()
SIZE = dict(vocab_size=64, hidden_size=64, num_hidden_layers=3, pad_token_id=0, bos_token_id=1, eos_token_id=2)
HEADS = dict(num_attention_heads=4, num_key_value_heads=4, intermediate_size=128)
MODELS = {
    "Llama": LlamaConfig(**SIZE, **HEADS),
    "Mamba": MambaConfig(**SIZE, state_size=8),
    "Mamba-2": Mamba2Config(**SIZE, num_heads=8, head_dim=16, state_size=8, n_groups=1, chunk_size=8),
    "Falcon-Mamba": FalconMambaConfig(**SIZE, state_size=8),
}


@torch.no_grad()
def places(config):
    """Which input or output of a layer each entry of hidden_states is."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    layers = model.model.layers if hasattr(model, "model") else model.backbone.layers
    seen = {}

    def note(i):
        def hook(_, args, kwargs, output):
            seen[f"input of layer {i}"] = args[0] if args else kwargs["hidden_states"]
            seen[f"output of layer {i}"] = output[0] if isinstance(output, tuple) else output

        return hook

    for i, layer in enumerate(layers):
        layer.register_forward_hook(note(i), with_kwargs=True)
    found = model(torch.tensor([[5, 9, 2, 7]]), output_hidden_states=True, use_cache=False).hidden_states
    return [next((name for name, state in seen.items() if torch.equal(state, entry)), "after the norm") for entry in found]


found = {name: places(config) for name, config in MODELS.items()}
for name, entries in found.items():
    print(f"{name}: {'; '.join(entries)}")
assert found["Llama"][0] == "input of layer 0" and found["Llama"][-1] == "after the norm"
for name in ("Mamba", "Mamba-2", "Falcon-Mamba"):
    # The output of layer i is the input of layer i + 1; the dictionary's first name is shown.
    assert len(found[name]) == 4, "the number of entries changed"
    assert found[name][:3] == [f"output of layer {i}" for i in range(3)], "the entries begin elsewhere now"
    assert found[name][3] == "after the norm"
PYTHON
