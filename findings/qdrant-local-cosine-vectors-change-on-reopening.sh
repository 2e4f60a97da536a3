#!/usr/bin/env bash
# qdrant-client 1.20.0, local mode: with cosine distance, a vector has length 1 until the folder is opened again.
#
# The server scales cosine vectors to length 1, for good, and its documentation says so. Local mode (`QdrantClient(path=...)`,
# no server) does it too, in memory; the file has the vector as it was given, and opening it again does not scale. So the
# same `retrieve` gives the unit vector in the process that stored it, and the given vector in the next. A vector added after
# reopening has length 1 beside the old ones. The length is not lost, but who tests in one process will think that it is, and
# who tests in two will lose it on a server. qdrant/qdrant-client #1381 (open) reports the first half.
# Local mode also takes `datatype` "uint8" and "float16" and stores float32 all the same.
#
# Who is hurt: whoever stores vectors whose length matters, or compares what two processes read.
#
# Exit status 0: the behaviour is as described. Anything else: it changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check qdrant-client==1.20.0 numpy==2.4.6 2>/dev/null
cd "$folder"
for turn in first second; do
venv/bin/python - $turn <<'PYTHON'
import sys

import numpy as np
from qdrant_client import QdrantClient
from qdrant_client.models import Datatype, Distance, PointStruct, VectorParams

vectors = (np.random.default_rng(0).standard_normal((2, 576)) * 400).astype(np.float32)
client, turn = QdrantClient(path="store"), sys.argv[1]
if turn == "first":
    client.create_collection("cosine", vectors_config=VectorParams(size=576, distance=Distance.COSINE))
    client.upsert("cosine", [PointStruct(id=0, vector=vectors[0].tolist())])
    client.create_collection(
        "bytes", vectors_config=VectorParams(size=576, distance=Distance.EUCLID, datatype=Datatype.UINT8)
    )
    client.upsert("bytes", [PointStruct(id=0, vector=vectors[0].tolist())])


def read(name, number):
    return np.array(client.retrieve(name, [number], with_vectors=True)[0].vector, np.float32)


back = read("cosine", 0)
print(f"{turn} process: length {np.linalg.norm(back):.6g} of {np.linalg.norm(vectors[0]):.6g}, equal: {np.array_equal(back, vectors[0])}")
if turn == "first":
    assert abs(np.linalg.norm(back) - 1) < 1e-5
else:
    assert np.array_equal(back, vectors[0])
    client.upsert("cosine", [PointStruct(id=1, vector=vectors[1].tolist())])
    print(f"{turn} process: a vector added now has length {np.linalg.norm(read('cosine', 1)):.6g}")
    assert abs(np.linalg.norm(read("cosine", 1)) - 1) < 1e-5
    assert np.array_equal(read("cosine", 0), vectors[0])
assert np.array_equal(read("bytes", 0), vectors[0])
client.close()
PYTHON
done
