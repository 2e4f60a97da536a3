"""The example of ``memlab/README.md``: nnsight 0.8.1 reads and changes a model that a vector steers."""

import re
from pathlib import Path

import pytest
import torch

from memlab import Recipe, cram
from memlab.decoding.decode import context_of
from memlab.probes.hidden_states import patched, stream
from tests.conftest import random_passages

nnsight = pytest.importorskip("nnsight", reason="nnsight is not installed (pip install nnsight==0.8.1)")
README = Path(__file__).parents[1] / "memlab" / "README.md"


def example():
    """The Python block of the documentation that mentions nnsight."""
    return next(code for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "nnsight" in code)


def test_nnsight_sees_and_changes_what_memlab_does(toy, tmp_path):
    one, two = cram(toy, random_passages(toy, 2, 6), Recipe.default(), progress=False)
    file = tmp_path / "example.py"  # nnsight reads the source of its caller
    file.write_text(example())
    names = {"lm": toy, "mem": one, "other": two}
    exec(compile(file.read_text(), str(file), "exec"), names)
    states, logits = names["states"], names["logits"]
    fed = torch.cat([context_of(toy, one), toy.embed(one.token_ids[:-1])])
    expected = stream(toy, context_of(toy, one), one.token_ids)
    for layer, state in enumerate(states):
        torch.testing.assert_close(state[0], expected[layer + 1], rtol=1e-5, atol=1e-5)
    # The state of the other vector at layer 1: the same as the library's own exchange.
    slot = len(one.prefix_ids)
    its = stream(toy, context_of(toy, two), two.token_ids)[1, slot]
    bits, _ = patched(toy, context_of(toy, one), one.token_ids, its[None], slot, 1)
    nats = torch.nn.functional.cross_entropy(
        logits[0, len(fed) - one.n :].float(), torch.tensor(one.token_ids), reduction="none"
    )
    torch.testing.assert_close(nats / torch.log(torch.tensor(2.0)), torch.tensor(bits).float(), rtol=1e-3, atol=1e-3)
