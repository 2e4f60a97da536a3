"""Writes ``data/bench/kvpress-agreement.csv``: which positions of a cache kvpress keeps, and which ours keeps.

    python -m tests.kvpress_agreement

kvpress (https://pypi.org/project/kvpress) needs older transformers and pandas than memlab. So it runs in an environment
of its own, in a temporary folder. Both sides load one small random model from one safetensors file. Not part of CI: it
installs about 1 GB. ``--python`` uses an environment that has kvpress already.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers

TABLE = Path(__file__).parents[1] / "data" / "bench" / "kvpress-agreement.csv"
KVPRESS = "0.5.5"
POSITIONS, WINDOW, SINKS = 64, 8, 4
BUDGETS = (0.125, 0.25, 0.5, 0.75)
CONFIG = dict(
    vocab_size=96, hidden_size=96, intermediate_size=128, num_hidden_layers=4, num_attention_heads=6,
    num_key_value_heads=2, initializer_range=0.2, bos_token_id=None, eos_token_id=None, pad_token_id=None,
)  # fmt: skip
THEIRS = """
import json, sys
import torch, transformers, kvpress
from importlib.metadata import version

transformers.utils.logging.disable_progress_bar()
plan = json.load(open(sys.argv[1]))
model = transformers.AutoModelForCausalLM.from_pretrained(plan["model"], dtype=torch.float32).eval()
ids = torch.tensor([plan["ids"]])

def cache_of(press=None):
    cache = transformers.DynamicCache()
    with torch.no_grad():
        if press is None:
            model.model(input_ids=ids, past_key_values=cache)
        else:
            with press(model):
                model.model(input_ids=ids, past_key_values=cache)
    return cache

whole, rows, turned = cache_of(), {}, {}
for budget in plan["budgets"]:
    presses = {
        "KnormPress": kvpress.KnormPress(1 - budget),
        "SnapKVPress": kvpress.SnapKVPress(1 - budget, window_size=plan["window"], kernel_size=5),
        "StreamingLLMPress": kvpress.StreamingLLMPress(1 - budget, n_sink=plan["sinks"]),
    }
    for name, press in presses.items():
        layers = []
        for short, full in zip(cache_of(press).layers, whole.layers):
            distances = (short.keys[0][:, :, None] - full.keys[0][:, None]).abs().amax(-1)
            assert distances.amin(-1).max() < 1e-5  # each kept key is one of the whole cache
            layers.append([sorted(head) for head in distances.argmin(-1).tolist()])
        rows[f"{name} {budget}"] = layers
    press = kvpress.KeyRerotationPress(presses["SnapKVPress"])
    turned[str(budget)] = [layer.keys[0].tolist() for layer in cache_of(press).layers]
versions = {name: version(name) for name in ("kvpress", "transformers", "torch")}
json.dump({"kept": rows, "turned": turned, "versions": versions}, open(sys.argv[2], "w"))
"""


def ours(lm, ids, press, budget):
    """(layers, KV heads, positions) bool."""
    from memlab.experiments.landscape import cache_scores
    from memlab.probes.attention import attention_shares

    layers, heads, _ = lm.kv.shape
    count = int(len(ids) * budget)
    if press == "StreamingLLMPress":
        kept = torch.zeros(len(ids), dtype=torch.bool)
        kept[: min(SINKS, count)] = True
        kept[len(ids) - max(count - SINKS, 0) :] = True
        return kept.expand(layers, heads, -1)
    if press == "KnormPress":
        scores = -lm.kv.of(lm.embed(ids))[0].norm(dim=-1)
    else:
        shares = attention_shares(lm, lm.embed(ids))
        scores = torch.stack([cache_scores.of_cue(layer, WINDOW, heads, kernel=5) for layer in shares])
    return cache_scores.top(scores, torch.full((layers, heads), count))


def compare(folder: Path, python: str) -> pd.DataFrame:
    from memlab.models import FrozenLM

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG))
    model.save_pretrained(folder / "model")
    ids = np.random.default_rng(0).integers(0, CONFIG["vocab_size"], POSITIONS).tolist()
    plan = dict(model=str(folder / "model"), ids=ids, budgets=BUDGETS, window=WINDOW, sinks=SINKS)
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / "theirs.py").write_text(THEIRS)
    subprocess.run([python, folder / "theirs.py", folder / "plan.json", folder / "found.json"], check=True)
    found = json.loads((folder / "found.json").read_text())
    lm = FrozenLM.from_model(model, device="cpu")
    keys, rows = lm.kv.of(lm.embed(ids))[0], []
    for name, layers in found["kept"].items():
        press, budget = name.split()
        mine = ours(lm, ids, press, float(budget))
        theirs = torch.zeros_like(mine)
        for layer, heads in enumerate(layers):
            for head, kept in enumerate(heads):
                theirs[layer, head, kept] = True
        row = {
            "press": press, "share_kept": float(budget), "positions": POSITIONS, "layers": mine.shape[0],
            "kv_heads": mine.shape[1], "kept_theirs": int(theirs.sum()), "kept_ours": int(mine.sum()),
            "share_agreed": float((mine & theirs).sum() / theirs.sum()), "largest_key_difference": np.nan,
        }  # fmt: skip
        if press == "SnapKVPress":  # the same choice, moved together
            by = mine.cumsum(-1) - 1 - torch.arange(POSITIONS)
            moved = lm.kv.rotate(keys, by)[mine].view(*mine.shape[:2], -1, keys.shape[-1])
            row["largest_key_difference"] = float((moved - torch.tensor(found["turned"][budget])).abs().max())
        rows.append(row | found["versions"])
    return pd.DataFrame(rows).assign(transformers_ours=transformers.__version__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", help="a Python that has kvpress; default: a new environment in a temporary folder")
    parser.add_argument("--out", type=Path, default=TABLE)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = asked.python
        if not python:
            subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
            python = str(folder / "venv" / "bin" / "python")
            subprocess.run([python, "-m", "pip", "install", "--quiet", f"kvpress=={KVPRESS}"], check=True)
        table = compare(folder, python)
    table.to_csv(asked.out, index=False)
    print(table.to_string())


if __name__ == "__main__":
    main()
