#!/usr/bin/env bash
# kvpress 0.5.5: in a batch, `ChunkKVPress` keeps in every row the chunks that the first row's scores choose.
#
# The scores are computed for each row. The loop that turns the best chunks into indices reads `top_chunks.indices[0]`,
# and the indices are expanded to all rows. No error, no warning: the other rows lose the chunks that matter to them.
# The presses inside it (`KnormPress`, `SnapKVPress`) choose for each row. The README has no restriction to one row.
#
# Also seen, and smaller: the budget counts chunks, and a chunk that is not full counts as one, so half of 60 positions
# in chunks of 20 is 20 positions, not 30 (two thirds are removed, where `compression_ratio` says half); and the fraction
# to keep is rounded down after a float error, so 0.9 removed of 100 positions leaves 9.
#
# Who is hurt: whoever prefills several contexts at once with this press. Seen: two rows of 60 tokens, half kept: row 1
# keeps what it keeps alone; row 2 keeps the positions of row 1, and not those that it keeps alone.
#
# Exit status 0: the behaviour is as described. Anything else: it changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.2.0 kvpress==0.5.5 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from kvpress import ChunkKVPress, KnormPress
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=96, hidden_size=96, intermediate_size=128, num_hidden_layers=2, num_attention_heads=6,
    num_key_value_heads=2, initializer_range=0.2, bos_token_id=None, eos_token_id=None, pad_token_id=None,
)
model = LlamaForCausalLM(config).eval()
ids = torch.randint(0, 96, (2, 60))


def kept(rows, press):
    """(layers, rows, KV heads, kept): positions that are left in the cache."""
    whole, short = DynamicCache(), DynamicCache()
    with torch.no_grad():
        model.model(input_ids=rows, past_key_values=whole)
        with press(model):
            model.model(input_ids=rows, past_key_values=short)
    found = []
    for full, part in zip(whole.layers, short.layers):
        distances = (part.keys[:, :, :, None] - full.keys[:, :, None]).abs().amax(-1)
        assert distances.amin(-1).max() < 1e-4  # every kept key is one of the whole cache
        found.append(distances.argmin(-1).sort(-1).values)
    return torch.stack(found)


chunks = lambda share: ChunkKVPress(KnormPress(share), chunk_length=10)
both, alone = kept(ids, chunks(0.5)), [kept(ids[row : row + 1], chunks(0.5)) for row in (0, 1)]
own, again = kept(ids, KnormPress(0.5)), [kept(ids[row : row + 1], KnormPress(0.5)) for row in (0, 1)]
for row in (0, 1):
    print(f"row {row + 1}, layer 1, ChunkKVPress, in a batch: chunks {sorted({int(i) // 10 for i in both[0, row, 0]})}, "
          f"alone: {sorted({int(i) // 10 for i in alone[row][0, 0, 0]})}")
    assert torch.equal(own[:, row], again[row][:, 0])  # the press inside is right
assert torch.equal(both[:, 0], alone[0][:, 0])
assert torch.equal(both[:, 1], both[:, 0]) and not torch.equal(both[:, 1], alone[1][:, 0])
left = kept(ids[:1], ChunkKVPress(KnormPress(0.5), chunk_length=20)).shape[-1]
few = kept(ids.repeat(1, 2)[:1, :100], KnormPress(0.9)).shape[-1]
print(f"half of 60 positions in chunks of 20: {left} are left; 0.9 of 100 positions removed: {few} are left")
assert left == 20 and few == 9
PYTHON
