"""Laws that every method of the landscape keeps, on a small model and on passages that this model wrote.

Trained encoders (F3) need an encoder of this model, and stored vectors (F6) codebooks and a corpus: they have tests of
their own.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from memlab import Recipe, Store, cram, load
from memlab.experiments.landscape import measure
from memlab.experiments.landscape.registry import FAMILIES, methods
from memlab.experiments.session import Session
from memlab.measures.landscape import above_the_bound

BOUND = Path(__file__).parents[1] / "data" / "bench" / "landscape-bound.csv"
NAMES = [m.name for family in FAMILIES if family not in ("F3", "F6") for m in methods(Store("/nonexistent"), [family])]


@pytest.fixture(scope="module")
def toy():
    return load("toy:llama")


@pytest.fixture(scope="module")
def passages(toy):
    return measure.sampled_passages(toy, 8, 12, seed=3)


@pytest.fixture(scope="module")
def shelf(toy, passages, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("shelf"))
    mems = cram(toy, passages, Recipe.default(k=4), store=store, progress=False)
    assert all(mem.exact for mem in mems)
    return store


def test_no_method_is_above_the_bound_in_the_kept_run():
    kept = pd.read_csv(BOUND)
    assert (kept.passages == 256).all()
    assert not (kept.over > 3 * kept.error).any()
    families = {m.name: m.family for m in methods(Store("/nonexistent"))}
    assert {families[name] for name in kept.method} == {"F1", "F2", "F4", "F5", "F6"}
    assert kept.method.is_unique
    assert len(kept) == 122


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_method_stores_bytes_and_stays_below_the_bound(name, toy, passages, shelf):
    (method,) = methods(shelf, None, [name])
    said = []
    table = measure.landscape(Session(toy, shelf, log=said.append), {"sampled": passages}, [method], cue="")
    assert len(table) == len(passages), said
    assert not above_the_bound(table).above.any()
    assert (table.stored_bits >= 0).all()
    assert table.exact_prefix.between(0, 12).all()
    assert not (table.exact & (table.exact_prefix < 12)).any()
    # The same passage gives the same bytes, and the same bytes the same reader.
    row = table.iloc[0]
    data = [method.store(toy, passages[0]) for _ in range(2)]
    assert data[0] == data[1]
    if method.fixed_size:
        assert row.stored_bits == 8 * len(data[0])
    if row.decoder != "find":
        cue = ()
        costs = [
            measure.reading.token_bits(toy, method.context(toy, one, 12), passages[0].ids, cue)[0].sum() for one in data
        ]
        assert costs[0] == costs[1] == pytest.approx(row.bits_with, rel=1e-4, abs=1e-3)
    # Bytes of another passage are worth less, on the mean.
    finite = table[np.isfinite(table.bits_shuffled)]
    if len(finite) > 3 and (table.bits_without - table.bits_with).mean() > 2:
        assert finite.bits_shuffled.mean() > finite.bits_with.mean()
