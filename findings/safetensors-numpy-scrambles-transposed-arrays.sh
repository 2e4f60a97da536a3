#!/usr/bin/env bash
# safetensors 0.8.0: a transposed numpy array comes back with its numbers in another order. Nothing is raised.
#
# `safetensors.numpy.save` and `save_file` write the memory of the array and the shape of the view. So `x.T`, or an array in
# Fortran order, is stored with the right shape and the wrong numbers. Version 0.7.0 stored the same arrays correctly.
# The documentation asks for contiguous tensors; `safetensors.torch` refuses others, the numpy side does not look.
#
# Who is hurt: whoever stores `matrix.T`, the V of an SVD, or `tensor.t().numpy()`, and upgrades. What helps:
# `np.ascontiguousarray` around each array.
#
# Exit status 0: the behaviour is as described. Anything else: it changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
for version in 0.7.0 0.8.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet --disable-pip-version-check "safetensors==$version" numpy==2.4.6 2>/dev/null
  "$folder/$version/bin/python" - <<'PYTHON'
import numpy as np
import safetensors
from safetensors.numpy import load, save

x = np.arange(6, dtype=np.float32).reshape(2, 3)
scrambled = safetensors.__version__ == "0.8.0"
for name, array in {"as it is": x, "transposed": x.T, "Fortran order": np.asfortranarray(x)}.items():
    back = load(save({"a": array}))["a"]
    same = bool(np.array_equal(back, array))
    print(f"safetensors {safetensors.__version__}, {name}: {array.tolist()} -> {back.tolist()}")
    assert back.shape == array.shape and same == (name == "as it is" or not scrambled)
PYTHON
done
