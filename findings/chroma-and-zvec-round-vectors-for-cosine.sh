#!/usr/bin/env bash
# chromadb 1.5.9 and zvec 0.8.0: with cosine distance, a stored float32 vector does not come back as it was put in.
#
# Chroma scales a vector to length 1, keeps the length beside it, and multiplies them when it is read (chroma-core/hnswlib
# #2; we found nothing about it in Chroma's documentation). Zvec's come back in the same way. Each number is then within a few
# units in the last place, so `allclose` passes, and no vector is equal to the one that was added. With Euclidean distance
# both give back every bit. milvus-lite 3.2.2 and lancedb 0.40.0, with cosine too, keep the bits.
# In Chroma, what is read and put into another collection changes again. A vector of length 1e-30 comes back as zeros.
#
# Who is hurt: whoever compares, hashes or removes duplicates by bytes, or stores vectors that are not for search only.
# Seen with 40 vectors of 576 numbers and length 9,600: none is equal; about a fifth of the numbers differ in Chroma.
# What helps: Euclidean distance ("l2"), which is Chroma's default, or the bytes in the metadata.
#
# Exit status 0: the behaviour is as described. Anything else: it changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check chromadb==1.5.9 zvec==0.8.0 numpy==2.4.6 2>/dev/null
cd "$folder"
venv/bin/python - <<'PYTHON'
import chromadb
import numpy as np
import zvec

vectors = (np.random.default_rng(0).standard_normal((40, 576)) * 400).astype(np.float32)
names = [f"{i:02}" for i in range(len(vectors))]


def chroma(distance, rows):
    client = chromadb.EphemeralClient()
    store = client.create_collection("rows", configuration={"hnsw": {"space": distance}}, embedding_function=None)
    store.add(ids=names[: len(rows)], embeddings=rows)
    found = store.get(include=["embeddings"])
    client.delete_collection("rows")
    found = dict(zip(found["ids"], found["embeddings"]))
    return np.array([found[name] for name in names[: len(rows)]], np.float32)


def in_zvec(distance, rows):
    kind = {"cosine": zvec.MetricType.COSINE, "l2": zvec.MetricType.L2}[distance]
    index = zvec.HnswIndexParam(metric_type=kind)
    schema = zvec.CollectionSchema(
        name="rows", vectors=zvec.VectorSchema("v", zvec.DataType.VECTOR_FP32, rows.shape[1], index_param=index)
    )
    store = zvec.create_and_open(path=f"zvec-{distance}", schema=schema)
    store.insert([zvec.Doc(id=name, vectors={"v": row.tolist()}) for name, row in zip(names, rows)])
    found = store.fetch(names)
    return np.array([found[name].vectors["v"] for name in names], np.float32)


for store, read in (("chroma", chroma), ("zvec", in_zvec)):
    for distance in ("l2", "cosine"):
        back = read(distance, vectors)
        equal, numbers = int((back == vectors).all(1).sum()), (back != vectors).mean()
        error = float(np.abs(back / vectors - 1).max())
        print(f"{store}, {distance}: {equal} of 40 vectors are equal; {numbers:.0%} of the numbers differ, at most by {error:.1e}")
        assert equal == (40 if distance == "l2" else 0) and error < 1e-6
once = chroma("cosine", vectors)
again = chroma("cosine", once)
print(f"chroma, copied to a second collection: {int((again == once).all(1).sum())} of 40 are equal to the first copy")
assert (again == once).all(1).sum() < 20
tiny = vectors[:1] * np.float32(1e-34)
print(f"chroma, cosine, length {np.linalg.norm(tiny.astype(float)):.1e}: comes back with {np.count_nonzero(chroma('cosine', tiny))} numbers that are not 0")
assert np.count_nonzero(tiny) == 576 and not chroma("cosine", tiny).any() and (chroma("l2", tiny) == tiny).all()
PYTHON
