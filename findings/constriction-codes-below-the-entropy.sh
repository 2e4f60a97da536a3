#!/usr/bin/env bash
# constriction 0.5.0: a message of rare symbols is coded in fewer bits than its cross-entropy under the model that was given.
#
# Categorical models are rounded to 24-bit fixed point, and no symbol gets less than 2**-24. A language model has thousands
# of tokens whose probability is far below that. Each of them costs 24 bits here, whatever the model says; the common
# symbols pay for it by an amount that is too small to see. `perfect=True` does not change this.
#
# Who is hurt: whoever compares "arithmetic coding with a language model" with its cross-entropy, or takes the code length
# for it. Seen: 100 symbols of probability 1e-12 each take 2,432 bits; their cross-entropy is 3,986 bits.
#
# Exit status 0: the behaviour is as described. Anything else: it changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check constriction==0.5.0 numpy==2.4.6 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import constriction
import numpy as np

vocabulary, symbols = 49_152, np.arange(1, 101, dtype=np.int32)
for rare in (1e-6, 1e-9, 1e-12):
    probabilities = np.full(vocabulary, rare)
    probabilities[0] = 1 - probabilities[1:].sum()
    cross_entropy = float(-np.log2(probabilities[symbols]).sum())
    for perfect in (False, True):
        coder = constriction.stream.queue.RangeEncoder()
        coder.encode(symbols, constriction.stream.model.Categorical(probabilities, perfect=perfect))
        bits = coder.num_bits()
        print(f"probability {rare:g}, perfect={perfect}: {bits} bits stored, cross-entropy {cross_entropy:.0f} bits")
        assert (bits < cross_entropy - 500) == (rare < 2**-24)
        decoder = constriction.stream.queue.RangeDecoder(coder.get_compressed())
        model = constriction.stream.model.Categorical(probabilities, perfect=perfect)
        assert (decoder.decode(model, len(symbols)) == symbols).all()  # and it does come back
PYTHON
