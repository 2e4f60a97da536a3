"""Shared by several test modules: vectors and files without a model, and readers for rendered charts."""

import json
import os
import re
import struct

import numpy as np
import safetensors
import safetensors.numpy
import torch

from memlab import charts
from memlab.recipes import Recipe
from memlab.results.checks import Check
from memlab.results.file_format import payload_hash
from memlab.results.mem_vector import MemVector
from memlab.texts import TextSpan


def make_check(dtype="float32", batch=1, cache=True, given=False, wrong=None):
    return Check(dtype, "cpu", batch, cache, given, 3, 3 - (wrong is not None), wrong, 1.5)


def make_vector(seed=0, k=2, d=6, **changes):
    rng = np.random.default_rng(seed)
    fields = dict(
        mem=rng.standard_normal((k, d)).astype(np.float32),
        token_ids=np.array([5, 1, 9]),
        prefix_ids=np.array([0]),
        suffix_ids=np.array([], np.int64),
        model="toy:llama",
        fingerprint="f" * 64,
        recipe=Recipe(k=k),
        text=TextSpan("tale", "somewhere", 3, 17),
        trace={"step": [0, 1], "loss": [9.5, 1.25], "accuracy": [0.0, 1.0]},
        seconds=1.5,
        steps=1,
    )
    return MemVector(**(fields | changes))


def unwritable(tmp_path):
    """A folder without write permission, for root too."""
    if os.geteuid() == 0:
        return "/proc/self/memlab"
    folder = tmp_path / "readonly"
    folder.mkdir(mode=0o555)
    return folder


def generated(lm, mem, n):
    """Greedy ids from ``generate`` of transformers, from the embeddings alone."""
    embedding = lm.model.get_input_embeddings()
    parts = [embedding(torch.tensor(mem.prefix_ids)), torch.tensor(mem.mem), embedding(torch.tensor(mem.suffix_ids))]
    return lm.model.generate(
        inputs_embeds=torch.cat(parts)[None], max_new_tokens=n, do_sample=False, eos_token_id=None, pad_token_id=0
    )[0].numpy()


def symbol_places(chart, role):
    """Positions (x, y) of the symbols in a chart, in drawing order; y grows downwards."""
    svg = charts.to_svg(chart)
    places = re.findall(rf'aria-roledescription="{role}"[^>]*transform="translate\(([-\d.]+),([-\d.]+)\)', svg)
    return np.array(places, float)


def spoken_labels(chart):
    """The aria labels of a chart's marks, which a screen reader speaks."""
    return re.findall(r'aria-label="([^"]*)"', charts.to_svg(chart))


def meta_of(raw):
    """The metadata in the bytes of a vector file."""
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["memlab"])


MEM = make_vector(checks=(make_check(),))
SOUND = MEM.to_bytes()


TENSORS = {n: getattr(MEM, n) for n in ("mem", "token_ids", "prefix_ids", "suffix_ids")}


def forged_file(tensors=TENSORS, metadata=None, **changes):
    """A file with false contents and a correct hash, as an attacker can make it. ``field=...`` leaves a field out."""
    meta = meta_of(SOUND) | changes
    meta.pop("payload_sha256")
    for name in [n for n, v in meta.items() if v is ...]:
        del meta[name]
    tensors = {n: np.asarray(t) for n, t in tensors.items()}
    meta["payload_sha256"] = payload_hash(tensors, meta)
    return safetensors.numpy.save(tensors, {"memlab": metadata or json.dumps(meta)})
