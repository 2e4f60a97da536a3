"""What is measured of smaller models, the table's summary, and its charts."""

import numpy as np
import pandas as pd
import pytest

from memlab import Recipe, charts, check, cram
from memlab.decoding.decode import context_of, teacher_forced
from memlab.experiments.session import Session
from memlab.experiments.smaller_models import Maker, Material, NoModelError, moved, smaller_models, stored_bits
from memlab.measures import landscape
from memlab.measures.smaller_models import (
    COLUMNS,
    FULL,
    HELD,
    PREDICTIONS,
    SEARCH,
    TEXT,
    TRANSFER,
    VARIANTS,
    Variant,
    breaks_first,
    landscape_rows,
    outcomes,
    summary,
)  # fmt: skip
from memlab.models import smaller
from memlab.probes.token_costs import token_scores
from tests.chart_rules import faults
from tests.conftest import random_passages

SOME = (Variant(FULL, "full"), Variant("4 bits", "rounded", bits=4), Variant("1 layer fewer", "fewer layers", fewer=1))


@pytest.fixture(scope="module")
def toy():
    from memlab.models import load

    return load("toy:llama")


@pytest.fixture(scope="module")
def mems(toy):
    return cram(toy, random_passages(toy, 3, 6), Recipe.default(k=2), progress=False)


@pytest.fixture(scope="module")
def given(toy, mems):
    passages = random_passages(toy, 4, 6, seed=4)
    return Material(
        samples=[np.arange(5, 40), np.arange(50, 90)], stored={"random": mems}, search={"random": passages[:2]},
        held={"random": passages[2:]}, calibration=[np.arange(30)], search_steps=60, held_steps=3,
    )  # fmt: skip


# One model --------------------------------------------------------------------------------------------------------


def test_the_full_model_reads_a_stored_vector_as_its_own_check_says(toy, mems):
    for mem, another in zip(mems, [*mems[1:], mems[0]], strict=True):
        assert mem.exact
        row = moved(toy, mem, another)
        assert row["exact"]
        assert row["exact_prefix"] == row["right"] == mem.n
        assert row["ids"] == mem.token_ids.tolist()
        assert row["edit"] == 1
        first = token_scores(toy, mem.token_ids, context_of(toy, mem))[0][0]  # nothing predicts it without the vector
        whole = mem.n * teacher_forced(toy, mem)[1]
        assert row["bits_with"] == pytest.approx(whole - first, rel=1e-3)
        assert row["bits_shuffled"] > 2 * row["bits_with"]
        other = mem.with_mem(mem.mem[::-1].copy() * 0.5, "other numbers")  # the control
        found = check(toy, other)
        broken = moved(toy, other, mem)
        assert not broken["exact"]
        assert broken["exact_prefix"] == found.first_wrong
        assert broken["bits_shuffled"] == row["bits_with"]


def test_another_model_reads_something_else_from_it(toy, mems):
    less = smaller.without_layers(toy, [1])
    rows = [moved(less, mem, mems[0]) for mem in mems]
    assert not any(row["exact"] for row in rows)
    own = [moved(toy, mem, mems[0])["bits_with"] for mem in mems]
    assert np.mean([row["bits_with"] for row in rows]) > np.mean(own)


def test_bits_of_all_weights(toy):
    inside = sum(m.weight.numel() for m in smaller.matrices(toy.model, toy.layers.path).values())
    outside = 16 * (toy.parameters - inside)
    for variant, each in (
        (Variant("a", "full"), 16),
        (Variant("a", "rounded", bits=4), 5),
        (Variant("a", "pruned", share=0.5), 9),
        (Variant("a", "pruned", share=0.5, group=4), 9),
    ):
        assert stored_bits(variant, toy) == each * inside + outside


@pytest.mark.slow
def test_every_variant_is_made_as_it_is_named(toy, given):
    maker = Maker(toy, given.calibration)
    made = {name: maker.make(variant) for name, variant in VARIANTS.items() if not variant.fewer and variant.early < 3
            and name != "exit 2 layers early"}  # fmt: skip
    assert made[FULL] is toy
    prints = {name: lm.fingerprint for name, lm in made.items()}
    assert len(set(prints.values())) == len(made)
    for name, lm in made.items():
        zeros = np.mean([float((m.weight == 0).float().mean())
                         for m in smaller.matrices(lm.model, lm.layers.path).values()])  # fmt: skip
        assert zeros == pytest.approx(VARIANTS[name].share, abs=0.002)
    assert maker.make(Variant("exit 1 early", "early exit", early=1)).layers.count == 1
    assert maker.make(VARIANTS[FULL]) is toy
    with pytest.raises(NoModelError, match="Run `make corpus`"):
        maker.make(Variant("d", "distilled", fewer=1, distilled=True))
    trained = Maker(toy, given.calibration, lambda full, less: (full, less))
    full, less = trained.make(Variant("d", "distilled", fewer=1, distilled=True))
    assert full is toy
    assert less.layers.count == 1


# The table --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_table_resumes_part_by_part(toy, given, store):
    seen, said = [], []
    table = smaller_models(Session(toy, store, log=said.append, on_rows=seen.append, progress=False), given, SOME)
    assert list(table.columns) == list(COLUMNS)
    assert table.groupby("part").size().to_dict() == {TEXT: 3, TRANSFER: 9, SEARCH: 6, HELD: 6}
    assert len(seen) == 12
    full = table[table.model == FULL]
    assert full[full.part == TRANSFER].exact.all()
    assert (full.fingerprint == toy.fingerprint).all()
    assert set(table.fingerprint) == {toy.fingerprint, *table[table.model != FULL].fingerprint}
    assert table.fingerprint.nunique() == 3
    assert (table[table.part == HELD].steps <= 3).all()
    # Killed after five parts: the rest is measured, and nothing twice.
    rest = []
    again = smaller_models(Session(toy, store, seen[4], log=rest.append, progress=False), given, SOME)
    assert len(rest) == 7
    same = [name for name in COLUMNS if name != "seconds"]
    pd.testing.assert_frame_equal(again[same], table[same])
    nothing = []
    assert smaller_models(Session(toy, store, table, log=nothing.append), given, SOME) is not None
    assert not nothing
    # Rows of another model of the same name do not count.
    forged = table.assign(fingerprint=table.fingerprint.where(table.model != "4 bits", "0" * 64))
    forged = forged[~((forged.model == "4 bits") & (forged.part == HELD))]
    told = []
    mended = smaller_models(Session(toy, store, forged, log=told.append, progress=False), given, SOME)
    assert told[0] == "4 bits is not the model of the earlier rows, so all of it is measured again"
    assert "0" * 64 not in set(mended.fingerprint)
    assert len(mended) == len(table)
    # A distilled model without text is left out by name.
    left = []
    some = (Variant("d", "distilled", fewer=1, distilled=True),)
    assert not len(smaller_models(Session(toy, store, log=left.append), given, some))
    assert left == ["d is left out: d needs text to be trained on. Run `make corpus`, then try again."]


def test_the_command_writes_its_table_and_refuses_unknown_names(mems, given, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from memlab.cli import app
    from memlab.experiments import smaller_models as experiment

    monkeypatch.setattr(experiment, "material", lambda lm, shelf, **_: given)
    command = ["bench", "smaller-models", "-m", "toy:llama", "--store", str(tmp_path / "store"), "--out"]
    out = tmp_path / "models.parquet"
    chosen = ["--only", FULL, "--only", "2 bits", "--part", TEXT, "--part", TRANSFER]
    result = CliRunner().invoke(app, [*command, str(out), *chosen])
    assert result.exit_code == 0, result.output
    table = pd.read_parquet(out)
    assert table.groupby("model").size().to_dict() == {FULL: 4, "2 bits": 4}
    again = CliRunner().invoke(app, [*command, str(out), *chosen])
    assert "2 bits: text" in result.output
    assert "2 bits: text" not in again.output
    pd.testing.assert_frame_equal(pd.read_parquet(out), table)
    for option, name in (("--only", "5 bits"), ("--part", "size")):
        wrong = CliRunner().invoke(app, [*command, str(out), option, name])
        assert wrong.exit_code == 2
        assert name in wrong.output


@pytest.mark.slow
def test_a_model_is_distilled_on_the_corpus(toy, given, tmp_path, monkeypatch):
    from memlab.experiments import smaller_models_distilled as distilled
    from memlab.training.encoders.corpus import Corpus, Document

    documents = tuple(Document(f"speech {i}", ("We the people of this place. " * 30,)) for i in range(40))
    monkeypatch.setattr(distilled, "load_corpus", lambda: Corpus(documents))
    said = []
    distil = distilled.on_corpus(0.02, tmp_path, log=said.append)
    variant = Variant("d", "distilled", fewer=1, distilled=True)
    one = Maker(toy, given.calibration, distil).make(variant)
    assert one.layers.count == 1
    assert said[-1].startswith("distilled for ")
    assert Maker(toy, given.calibration, distil).make(variant).fingerprint == one.fingerprint  # read, not trained again
    rows = distilled.held_rows(toy, ["abcdefghij" * 10], rows=3, tokens=20)
    assert [len(row) for row in rows] == [20] * 3
    assert rows[0].tolist() == distilled.ids_of(toy, ["abcdefghij" * 2]).tolist()


def rows_of(model, kind, code, exact, found, held, texts=8):
    """Rows of one model: bits a token, exact stored vectors, exact searches, and bits held of 100, per text."""
    base = {"model": model, "kind": kind, "tokens": 10.0, "bits_without": 100.0, "bits_with": 20.0, "steps": 7.0,
            "exact_prefix": 5.0, "text_bits": 30.0, "flops": 1.0, "stored_bits": 160.0, "weights": 10.0}  # fmt: skip
    rows = [base | {"part": TEXT, "text_id": "", "code_bits": code}]
    for i in range(texts):
        rows.append(base | {"part": TRANSFER, "text_id": f"t{i}", "exact": float(i < exact)})
        rows.append(base | {"part": SEARCH, "text_id": f"t{i}", "exact": float(i < found), "steps": 7.0 + i})
        rows.append(base | {"part": HELD, "text_id": f"t{i}", "exact": 0.0, "bits_with": 100.0 - held - i})
    return rows


@pytest.fixture(scope="module")
def made_up():
    rows = [*rows_of(FULL, "full", 5.0, 8, 8, 60), *rows_of("2 bits", "rounded", 6.0, 2, 8, 30),
            *rows_of("another", "pruned", 8.0, 0, 0, 6)]  # fmt: skip
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


def test_the_summary_has_the_known_answers(made_up):
    points = summary(made_up, draws=200).set_index("model")
    assert points.index.tolist() == [FULL, "2 bits", "another"]
    assert points.more_bits.tolist() == [0, 1, 3]
    assert points.perplexity_share.tolist() == [1, 0.5, 0.125]
    assert points.transfer_exact.tolist() == [1, 0.25, 0]
    assert points.transfer_recovered.tolist() == pytest.approx([0.8] * 3)
    assert points.search_exact.tolist() == [1, 1, 0]
    assert points.search_steps[FULL] == 10.5
    assert np.isnan(points.search_steps["another"])
    assert points.weight_bits[FULL] == 16
    assert points.held_bits.tolist() == [63.5, 33.5, 9.5]
    assert points.held_share.tolist() == pytest.approx([1, 33.5 / 63.5, 9.5 / 63.5])
    assert (points.held_low <= points.held_share).all()
    assert (points.held_share <= points.held_high).all()
    broke = breaks_first(points.reset_index()).set_index("measure")
    assert broke.models.tolist() == [2, 2, 2]
    assert broke.broke_before_perplexity.to_dict() == {"transfer_exact": 2, "search_exact": 1, "held_share": 0}
    told = outcomes(made_up).set_index(["model", "quantity"])
    assert bool(told.held[FULL, "transfer_exact"])
    assert not told.held["2 bits", "more_bits"]  # predicted at least 3
    assert told.held["3 bits", "more_bits"] is None


def test_parts_that_are_missing_are_missing(made_up):
    points = summary(made_up[made_up.part == TRANSFER], draws=2)
    assert points[["code_bits", "search_exact", "held_share"]].isna().all(axis=None)
    assert points.transfer_exact.tolist() == [1, 0.25, 0]
    assert outcomes(made_up[:0]).measured.isna().all()


def test_predictions_are_of_models_and_columns_that_exist(made_up):
    assert {p.model for p in PREDICTIONS} <= set(VARIANTS)
    assert {p.quantity for p in PREDICTIONS} <= set(summary(made_up, draws=2))
    assert all(p.low <= p.high for p in PREDICTIONS)
    assert len([v for v in VARIANTS.values() if v.kind != "full"]) >= 12


@pytest.mark.parametrize("name", ["what_breaks_first", "what_is_left"])
def test_the_charts_keep_the_rules_and_name_every_model(made_up, name):
    points = summary(made_up, draws=20)
    svg = charts.to_svg(getattr(charts, name)(points))
    assert not faults(svg)
    assert all(model in svg for model in ("2 bits", "another"))
    assert "no data" in charts.to_svg(getattr(charts, name)(points[points.kind == "full"]))


@pytest.mark.parametrize("name", ["what_breaks_first", "what_is_left"])
def test_a_measure_that_nearly_no_model_has_is_not_drawn(made_up, name):
    points = summary(made_up, draws=20)
    known = points.index[points.kind != "full"]
    assert "bits that a new vector holds" in charts.to_svg(getattr(charts, name)(points))
    points.loc[known[1:], "held_share"] = np.nan
    svg = charts.to_svg(getattr(charts, name)(points))
    assert "bits that a new vector holds" not in svg
    assert "new searches that end exact" in svg
    points.loc[known, ["transfer_exact", "search_exact", "held_share"]] = np.nan
    assert ("no data" in charts.to_svg(getattr(charts, name)(points))) == (name == "what_breaks_first")


def test_stored_vectors_read_by_smaller_models_are_rows_of_the_landscape(made_up):
    table = made_up.assign(kind=made_up.kind.where(made_up.model != "another", "early exit"))
    table["texts"], table["ids"] = "random", [[1, 2]] * len(table)
    table.loc[table.model == "2 bits", "bits_with"] = 80.0
    table.loc[table.model == "2 bits", "bits_without"] = 500.0  # the smaller model's own count does not decide
    rows = landscape_rows(table, 320)
    assert set(rows.method) == {"mem vector read by: 2 bits", "mem vector read by: another"}
    assert rows.groupby("system").size().to_dict() == {"LLM-KICK": 8, "Model-compression survey": 8}
    points = landscape.summary(rows).set_index("method")
    assert points.stored_share["mem vector read by: 2 bits"] == pytest.approx(320 / 100)
    assert points.recovered_share["mem vector read by: 2 bits"] == pytest.approx(0.2)
    assert points.exact["mem vector read by: 2 bits"] == 2
    assert rows.tokens.dtype == int
