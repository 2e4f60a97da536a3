#!/usr/bin/env bash
# torch 2.13.0: `FlopCounterMode` counts no attention on a CPU, no LSTM, and nothing at all of a Transformer layer in inference.
#
# `scaled_dot_product_attention` on a CPU runs a fused kernel that the counter does not know, and counts 0; the same call with
# the math backend counts its two products. An `nn.TransformerEncoderLayer` in eval mode under `no_grad` takes its fast path,
# one fused operator, and counts 0, with gradients it counts all. An LSTM counts 0, a GRU of the same size does not. A matrix
# times a vector counts 0; times the same vector as a column it is counted.
#
# Who is hurt: whoever divides counted operations by seconds and calls it the share of the machine that is used.
#
# Exit status 0: the behaviour is as described. Anything else: it changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

warnings.filterwarnings("ignore")
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as attention
from torch.utils.flop_counter import FlopCounterMode


def flops(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


torch.manual_seed(0)
q, x, matrix, vector = torch.randn(1, 4, 32, 16), torch.randn(2, 10, 16), torch.randn(8, 16), torch.randn(16)
layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
counted = {"attention, default kernel": flops(lambda: attention(q, q, q))}
with sdpa_kernel(SDPBackend.MATH):
    counted["attention, math kernel"] = flops(lambda: attention(q, q, q))
with torch.no_grad():
    counted["encoder layer, no_grad"] = flops(lambda: layer(x))
counted["encoder layer, with gradients"] = flops(lambda: layer(x))
counted["LSTM"] = flops(lambda: torch.nn.LSTM(16, 16)(torch.randn(5, 2, 16)))
counted["GRU"] = flops(lambda: torch.nn.GRU(16, 16)(torch.randn(5, 2, 16)))
counted["matrix @ vector"] = flops(lambda: matrix @ vector)
counted["matrix @ column"] = flops(lambda: matrix @ vector[:, None])
for name, number in counted.items():
    print(f"{name:32}{number:>10}")
zero = {name for name, number in counted.items() if number == 0}
assert zero == {"attention, default kernel", "encoder layer, no_grad", "LSTM", "matrix @ vector"}
PYTHON
