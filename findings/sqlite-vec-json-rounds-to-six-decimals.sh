#!/usr/bin/env bash
# sqlite-vec 0.1.9: `vec_to_json` prints six decimals, so small numbers become 0 and no vector survives the way back.
#
# `vec_to_json` is the function that makes a stored vector readable, and `vec_f32` takes its text again. It prints each number
# with "%f": 1e-7 is 0.000000, -0.0 loses its sign, 0.012345678 keeps four digits, and 1e30 takes 38 characters. The blob is
# exact, and so is text in: `vec_f32` of Python's JSON gives back every bit. The API reference shows six decimals in an
# example, and does not say that the text is rounded.
#
# Who is hurt: whoever dumps or copies vectors as JSON. Seen: of 40 vectors of 576 numbers of about 400, none comes back
# bit for bit; in vectors of length 1, as embedding models give them, a number keeps four or five digits.
# What helps: the blob, with `numpy.frombuffer`.
#
# Exit status 0: the behaviour is as described. Anything else: it changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check sqlite-vec==0.1.9 apsw==3.54.1.0 numpy==2.4.6 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import json

import apsw
import numpy as np
import sqlite_vec

base = apsw.Connection(":memory:")
base.enable_load_extension(True)
base.load_extension(sqlite_vec.loadable_path())


def ask(sql, value):
    return base.execute(sql, (value,)).fetchone()[0]


large = (np.random.default_rng(0).standard_normal((40, 576)) * 400).astype(np.float32)
unit = large / np.linalg.norm(large, axis=1, keepdims=True)
base.execute("create virtual table store using vec0(v float[576])")
for name, rows in {"length 9,600": large, "length 1": unit}.items():
    blobs, texts, exact = [], [], []
    for number, row in enumerate(rows):
        base.execute("insert or replace into store(rowid, v) values (?, ?)", (number, row.tobytes()))
        blobs.append(np.frombuffer(ask("select v from store where rowid = ?", number), np.float32))
        texts.append(np.frombuffer(ask("select vec_f32(vec_to_json(v)) from store where rowid = ?", number), np.float32))
        exact.append(np.frombuffer(ask("select vec_f32(?)", json.dumps(row.tolist())), np.float32))
        base.execute("delete from store where rowid = ?", (number,))
    equal = [int((np.array(back) == rows).all(1).sum()) for back in (blobs, exact, texts)]
    error = np.linalg.norm(np.array(texts) - rows) / np.linalg.norm(rows)
    print(f"{name}: equal as a blob {equal[0]}, from Python's JSON {equal[1]}, through vec_to_json {equal[2]} of 40; error {error:.0e}")
    assert equal == [40, 40, 0]
text = ask("select vec_to_json(?)", np.float32([1e-7, 0.012345678, -0.0]).tobytes())
print("1e-7, 0.012345678, -0.0 are", text)
assert text == "[0.000000,0.012346,0.000000]"
PYTHON
