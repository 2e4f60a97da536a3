"""Experiments on toys, compared with answers that are known by other means."""

import gc
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from memlab import ModelError, Recipe, Store, cram, decode
from memlab.cli.bench import bench_app
from memlab.decoding import decode as decoding
from memlab.experiments import optimizer_study, sink_position, speed, step_profile
from memlab.experiments.attempts import ATTEMPT
from memlab.experiments.growing import growing
from memlab.experiments.horizon import LengthSearch, horizon
from memlab.experiments.registry import EXPERIMENTS, UnknownExperimentError, experiment
from memlab.experiments.retries import extend_growth, retry_failures
from memlab.experiments.session import Session
from memlab.experiments.speed import published, ratios
from memlab.experiments.tables import TableNotWrittenError, stored
from memlab.measures.capacity import horizons
from memlab.measures.statistics import share_interval
from memlab.sweeps.runner import RunsFailedError
from memlab.texts import random_words
from tests.conftest import random_passages


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_a_function_a_summary_and_a_command(name):
    assert experiment(name).name == name
    assert callable(experiment(name).run)
    assert experiment(name).run.__doc__
    assert experiment(name).summary.endswith(".")
    assert "\n" not in experiment(name).summary
    assert name in {command.name for command in bench_app.registered_commands}


def test_every_bench_command_is_an_experiment():
    assert {command.name for command in bench_app.registered_commands if not command.hidden} == {*EXPERIMENTS, "report"}


def test_an_unknown_experiment_raises_and_names_those_that_exist():
    with pytest.raises(
        UnknownExperimentError, match=r"^There is no experiment 'sinks'. Use one of: recovery, horizon, "
    ):
        experiment("sinks")


def test_the_registry_imports_no_experiment():
    code = "import memlab.experiments.registry, sys; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def climb(capacity, lengths=range(16, 129, 16), first=64, attempts=2, luck=()):
    """Search where a length is exact up to ``capacity``, or where (length, seed) is in ``luck``."""
    attempts_by_length, tried = LengthSearch(lengths, list(lengths).index(first), attempts), []
    while not attempts_by_length.over:
        length, seed = attempts_by_length.next
        tried.append((length, seed))
        attempts_by_length.report(length <= capacity or (length, seed) in luck)
        assert len(tried) < 50
    return (lengths[attempts_by_length.best] if attempts_by_length.best >= 0 else 0), tried


@pytest.mark.parametrize("capacity", [0, 16, 40, 63, 64, 80, 111, 112, 128, 500])
def test_the_ladder_finds_every_capacity(capacity):
    found, tried = climb(capacity)
    assert found == max([n for n in range(16, 129, 16) if n <= capacity], default=0)
    assert len(set(tried)) == len(tried)  # nothing is trained twice


def test_another_seed_may_save_a_length():
    assert climb(64, luck={(80, 1), (96, 1)})[0] == 96
    assert climb(64, luck={(80, 5)})[0] == 64


def test_horizons_are_what_was_decoded(toy, store):
    texts = random_words(2, seed=3)
    told = []
    table = horizon(
        Session(toy, store, log=told.append, progress=False), texts, lengths=[2, 4, 8, 60], first=4, attempts=2,
        recipe=Recipe.default(budget=60, k=4),
    )  # fmt: skip
    found = horizons(table)
    assert list(found.text_id) == [t.id for t in texts]
    assert told[-1].endswith("2 of 2 passages done")
    for row in found.itertuples():
        exact = table[(table.text_id == row.text_id) & table.exact]
        assert row.longest_exact == exact.tokens.max() <= row.horizon
        assert all(store.get(key).exact for key in exact.key)
        assert row.token_passes == table[table.text_id == row.text_id].token_passes.sum()
    assert (table[~table.exact].exact_prefix < table[~table.exact].tokens).all()


def test_a_search_goes_on_from_another_machines_table(toy, store, tmp_path):
    texts = random_words(2, seed=3)
    search = dict(lengths=[2, 4, 60], first=4, attempts=1, recipe=Recipe.default(budget=8, k=4))
    kept = []
    whole = horizon(Session(toy, store, on_rows=kept.append, progress=False), texts, **search)
    pd.testing.assert_frame_equal(kept[-1], whole)
    assert len(kept) > 1
    elsewhere = Store(tmp_path / "elsewhere")
    first_round = Session(toy, elsewhere, resume_from=kept[0], progress=False)
    again = horizon(first_round, texts, **search)
    pd.testing.assert_frame_equal(again[[*ATTEMPT]], whole[[*ATTEMPT]])
    assert set(elsewhere.keys()) == set(whole.key) - set(kept[0].key)
    # The longest exact vectors are not there: they are made again, and pressing comes to the same.
    rows = retry_failures(Session(toy, elsewhere, progress=False), texts, whole, target=60, recipe=search["recipe"])
    here = retry_failures(Session(toy, store, progress=False), texts, whole, target=60, recipe=search["recipe"])
    assert list(rows.way) == list(here.way)
    # What starts from a vector that was trained again starts from its last bits too: rounding depends on the company.
    pd.testing.assert_frame_equal(*(t[t.way != "from the longest exact"] for t in (rows, here)))
    third = Session(toy, Store(tmp_path / "third"), resume_from=rows, progress=False)
    resumed = retry_failures(third, texts, whole, target=60, recipe=search["recipe"])
    pd.testing.assert_frame_equal(resumed, rows)


def test_what_failed_is_pressed_at_the_length_it_failed_at(toy, store):
    texts = random_words(3, seed=3)
    recipe = Recipe.default(budget=8, k=4)
    session = Session(toy, store, progress=False)
    table = horizon(session, texts, lengths=[2, 4, 60], first=4, attempts=1, recipe=recipe)
    assert not retry_failures(session, texts, table, target=59, recipe=recipe).size  # none failed below 59
    rows = retry_failures(session, texts, table, target=60, recipe=recipe)
    assert set(rows.length) == {60}
    assert set(rows.text_id) == {t.id for t in texts}
    counts = rows.way.value_counts()
    assert counts["another seed"] == 9
    assert counts["as it failed"] == counts["four times the steps"] == counts["from the longest exact"] == 3
    warm = rows[rows.way == "from the longest exact"]
    assert all(store.get(key).parent for key in warm.key)
    assert rows[rows.way == "four times the steps"].steps.between(9, 32).all()


def test_growing_spends_what_it_was_given_and_counts_what_it_decodes(toy, store):
    texts = random_words(2, seed=3)
    passes = {texts[0].id: 150, texts[1].id: 600}
    recipe = Recipe.progressive2026(k=4, lr=0.2)
    table = growing(Session(toy, store, progress=False), texts, recipe=recipe, token_passes=passes, longest=30)
    for row, text in zip(table.itertuples(), texts, strict=True):
        assert passes[text.id] <= row.token_passes < passes[text.id] + 30
        mem = store.get(row.key)
        decoded = decode(toy, [mem], batch=1)[0]
        np.testing.assert_array_equal(decoded[: row.exact_prefix], mem.token_ids[: row.exact_prefix])
        assert row.exact_prefix == 30 or decoded[row.exact_prefix] != mem.token_ids[row.exact_prefix]
    assert table.exact_prefix.max() > 2


def test_a_table_that_cannot_be_written_is_no_failure_of_a_training(toy, store):
    texts = random_words(3, seed=4)

    def full(rows):
        raise TableNotWrittenError("no room")

    recipe = Recipe.growing(k=2, grow=2, margin=0.5, patience=15)
    common = dict(recipe=recipe, token_passes={t.id: 60 * (i + 1) for i, t in enumerate(texts)}, longest=40)
    with pytest.raises(TableNotWrittenError, match="no room"):
        growing(Session(toy, store, on_rows=full, progress=False), texts, **common)
    assert len(list(store.keys())) == 1  # it ends with the first one, which is kept
    table = growing(Session(toy, store, progress=False), texts, **common)
    assert len(table) == 3
    assert not store.failures()


def test_a_growing_text_needs_the_margin_and_says_where_it_gave_up(toy, store, monkeypatch):
    texts = random_words(3, seed=4)
    recipe = Recipe.growing(k=2, grow=2, margin=0.5, patience=15)
    session = Session(toy, store, progress=False)
    table = growing(session, texts, recipe=recipe, token_passes=0, longest=40)
    assert list(table.text_id) == [t.id for t in texts]
    for row in table.itertuples():
        mem = store.get(row.key)
        assert row.ended == ("exact" if row.exact else "patience")
        if not row.exact:
            # Each stage but the last was right with the margin, so the prefix before it comes back, decoded freely.
            assert row.exact_prefix >= row.tried - 2 > 0
            ids = decode(toy, [mem], batch=1)[0]
            np.testing.assert_array_equal(ids[: row.exact_prefix], mem.token_ids[: row.exact_prefix])
    assert not table.exact.all()
    reached = horizons(table)
    assert (reached.failed_at.isna() == table.exact.to_numpy()).all()
    assert (reached.horizon < reached.failed_at)[~table.exact].all()
    # Pressed further: as a whole, from where it stood, from another seed, with a free norm, as long as it is short.
    target = int(table.exact_prefix.max()) + 1
    asked = dict(target=target, recipe=recipe, longest=40)
    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "budget", 2)  # of the way as a whole, which would bring them all there
        rows = extend_growth(session, texts, table, **asked)
    ways = dict(tuple(rows.groupby("way", sort=False)))
    whole = "as a whole"
    assert list(ways)[:4] == ["as it ended", whole, f"{whole}, four times the steps", "four times the patience"]
    assert not store.get(ways[whole].key.iloc[0]).recipe.grow
    short = set(table.text_id[~table.exact])
    for way, made in ways.items():
        assert set(made.text_id) == short, way
        if way != "as it ended":
            assert (made.tokens == min(target, 40)).all()  # up to there, and no further
            short = set(made.text_id[made.exact_prefix < target])
    warm = ways["four times the patience"].set_index("text_id")
    for row in ways["as it ended"].itertuples():
        assert store.get(warm.key[row.text_id]).parent == store.get(row.key).lineage_id
    there = extend_growth(session, texts, table, **asked)
    assert there[there.way == whole].exact.all()
    assert set(there.way) == {"as it ended", whole}
    assert not extend_growth(session, texts, table, **asked | {"target": 1}).size
    # Out of passes, nothing is known of where it would have given up.
    short = growing(session, texts[:1], recipe=recipe, token_passes=30, longest=40)
    assert horizons(short).failed_at.isna().all()


def test_the_published_loop_and_ours_take_the_same_steps(toy):
    """torch's AdamW and the model's own logits, against the engine: same start, same losses, same stop."""
    (passage,) = random_passages(toy, 1)
    recipe = Recipe.paper2025(k=4, lr=0.1, budget=400)
    theirs = published(toy, passage, recipe)
    (ours,) = cram(toy, passage, recipe, progress=False)
    assert abs(theirs["steps"] - ours.steps) <= 2
    assert theirs["accuracy"] == 1.0
    short = recipe.replace(budget=5, patience=0x7FFF)
    theirs, (ours,) = published(toy, passage, short), cram(toy, passage, short, progress=False)
    np.testing.assert_allclose(theirs["mem"], ours.mem, rtol=1e-3, atol=1e-3)


def test_progressive_grows_token_by_token(toy):
    (passage,) = random_passages(toy, 1, 5)
    recipe = Recipe.progressive2026(k=4, budget=500)
    theirs = published(toy, passage, recipe)
    (ours,) = cram(toy, passage, recipe, progress=False)
    assert theirs["reached"] == 5
    assert theirs["accuracy"] == 1.0 == ours.teacher_forced
    assert abs(theirs["steps"] - ours.steps) <= 4
    # The first stage had one token to learn, not five.
    assert theirs["token_passes"] < 5 * theirs["steps"]
    assert ours.provenance["token_passes"] < 5 * (ours.steps + 1)


@pytest.mark.slow
def test_speed_resumes_and_counts_failures_in_full(toy, tmp_path):
    passages = random_passages(toy, 2, 4)
    out, told = tmp_path / "speed.parquet", []
    settings = dict(out=out, recipe=Recipe.default(k=4), changes=dict(k=4, budget=30, lr=0.5), log=told.append)
    table = speed.speed(toy, passages, **settings)
    assert table.method.tolist() == ["memlab"] * 2 + ["paper2025", "progressive2026"] * 2
    assert len(told) == 5
    assert (table.full_seconds >= table.seconds * 0.999).all()
    assert table.decode_seconds.between(0, table.seconds.max()).all()
    assert table[table.method == "memlab"].decoded.all()
    again = speed.speed(toy, passages, **settings)
    assert len(told) == 5
    pd.testing.assert_frame_equal(again, table, check_dtype=False)

    # Other passages, another recipe, another machine: what does not fit is measured again, and only that.
    told.clear()
    fewer = speed.speed(toy, passages[:1], **settings)
    assert len(fewer) == 3
    assert [line.split()[0] for line in told] == ["memlab:"]
    told.clear()
    speed.speed(toy, passages[:1], **settings | dict(changes=dict(budget=3, patience=10)))
    assert [line.split()[0] for line in told] == ["paper2025", "progressive2026"]
    theirs = pd.read_parquet(out).assign(threads=99)
    theirs.to_parquet(out)
    told.clear()
    speed.speed(toy, passages[:1], **settings)
    assert "another machine" in told[0]
    assert [line.split()[0] for line in told[1:]] == ["memlab:", "paper2025", "progressive2026"]
    kept = pd.read_parquet(out)
    assert (kept.threads == 99).sum() == len(theirs)  # hours of another machine's are not thrown away


def test_a_failure_costs_its_whole_budget_and_the_first_token_is_given_where_it_was_never_trained(toy, monkeypatch):
    (passage,) = random_passages(toy, 1, 4)
    (mem,) = cram(toy, passage, Recipe.paper2025(k=4, lr=0.5, budget=400), progress=False)
    assert mem.teacher_forced > 0.7
    made = dict(mem=mem.mem, steps=10, seconds=1.0, token_passes=40, accuracy=0.0, reached=0)
    monkeypatch.setattr(speed, "published", lambda *_: dict(made))
    given = decoding.check(toy, mem, first_given=True)
    row = speed._theirs(toy, passage, "n", "paper2025", Recipe.paper2025(k=4, budget=50))
    assert row["decoded"] == given.passed
    assert given.passed
    assert not decoding.check(toy, mem).passed  # else this shows nothing
    assert row["full_seconds"] == pytest.approx(row["seconds"])
    nothing = np.zeros_like(mem.mem)
    monkeypatch.setattr(speed, "published", lambda *_: made | {"mem": nothing})
    failed = speed._theirs(toy, passage, "n", "paper2025", Recipe.paper2025(k=4, budget=50))
    assert not failed["decoded"]
    assert failed["full_seconds"] - failed["seconds"] == pytest.approx(4)  # 50 steps at 0.1 s, of which 10 were taken
    grown = speed._theirs(toy, passage, "n", "progressive2026", Recipe.progressive2026(k=4))
    assert grown["full_seconds"] == pytest.approx(grown["seconds"])  # its budget is its patience


def test_ratios_of_a_made_up_table():
    """Ours takes 1 s each; theirs 50 s where it decodes, and 500 s at full budget where it does not."""
    rows = [("memlab", f"p{i}", f"t{i}", True, 1.0, 1.0, 10.0) for i in range(10)]
    rows += [("paper2025", f"p{i}", f"t{i}", i < 8, 50.0, 50.0 if i < 8 else 500.0, np.nan) for i in range(10)]
    columns = ["method", "passage", "text_id", "decoded", "seconds", "full_seconds", "once_seconds"]
    table = pd.DataFrame(rows, columns=columns)
    found = ratios(table).set_index("over")
    assert found.ratio["both decode"] == pytest.approx(50)
    assert found.low["both decode"] == pytest.approx(50) == pytest.approx(found.high["both decode"])
    assert found.passages["both decode"] == 8
    assert found.ratio["with failures"] == pytest.approx((8 * 50 + 2 * 500) / 8)
    assert found.low["with failures"] < found.ratio["with failures"] < found.high["with failures"]
    assert found.ratio["with failures, as they stopped"] == pytest.approx(10 * 50 / 8)
    assert found.ratio["with failures, and the metric"] == pytest.approx((8 * 50 + 2 * 500) / 8 / 2)
    # The same table twice over, of the same ten texts, holds no more texts: the intervals stay as wide.
    twice = pd.concat([table, table.assign(passage=table.passage + "'")])
    again = ratios(twice).set_index("over")
    assert again.passages["both decode"] == 16
    for end in ("low", "high"):
        assert again[end]["with failures"] == pytest.approx(found[end]["with failures"])
    # Seconds of a machine half as fast, which had only the first eight: each machine is compared with itself.
    slow = table[table.passage < "p8"].copy()
    slow[["seconds", "full_seconds"]] *= np.where(slow.method == "memlab", 2, 4)[:, None]
    both = pd.concat([table.assign(device="fast"), slow.assign(device="slow")], ignore_index=True)
    of_each = ratios(both).set_index(["device", "over"])
    assert of_each.ratio["fast", "with failures"] == pytest.approx(found.ratio["with failures"])
    assert of_each.ratio["slow", "both decode"] == pytest.approx(100)
    assert of_each.passages["slow", "with failures"] == 8


def test_the_products_of_a_step_are_all_seen(toy):
    """Their shapes account for every multiplication that torch's own counter sees."""
    step = step_profile.training_step(toy, 3, 7)
    step()
    with step_profile._Products() as products:
        step()
    counted = 0
    for (_, a, _, b, _), times in products.seen.items():
        counted += 2 * int(np.prod(a)) * b[-1] * times
    assert counted == step_profile.step_flops(step)


def test_a_step_takes_longer_than_its_products(toy):
    table = step_profile.profile_steps(toy, [(4, 16)], repeats=3)
    row = table.iloc[0]
    assert 0 < row.share_linear < row.share < 1.2
    assert row.peak_gib < 1


def test_processors_of_one_name_are_told_apart(monkeypatch):
    """Rented machines call several generations by one name, and their seconds are not to be set beside each other."""
    names = set()
    for has in ({}, {"avx512_bf16": True}, {"avx512_bf16": True, "amx_bf16": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has)
        names.add(step_profile.device_name(torch.device("cpu")))
    assert len(names) == 3
    assert any(name.endswith("AVX512 BF16, AMX BF16)") for name in names)


def test_a_step_of_a_published_shape_needs_no_weights(monkeypatch):
    tiny = dict(
        step_profile.SHAPES["llama-3.1-8b"], hidden_size=64, intermediate_size=96, num_hidden_layers=2, vocab_size=50
    )
    monkeypatch.setitem(step_profile.SHAPES, "tiny", tiny | dict(num_attention_heads=4, num_key_value_heads=2))
    lm = step_profile.random_weights("tiny")
    assert lm.parameters > 2 * 64 * 50
    (row,) = step_profile.profile_steps(lm, [(2, 20)], repeats=2).to_dict("records")
    assert row["tokens"] == 20
    with pytest.raises(ModelError, match=r"llama-3\.1-8b"):
        step_profile.random_weights("gpt-9")


def test_peak_memory_sees_what_comes_and_goes():
    def hold():
        gc.collect()
        block = torch.ones(100_000_000, dtype=torch.uint8)
        for _ in range(50):
            block.add_(1)

    class Cycle:
        def __init__(self):
            self.own, self.block = self, torch.ones(300_000_000, dtype=torch.uint8)

    Cycle()  # nobody can reach it: the collector frees it, and that must not be while the work is measured
    assert 80e6 < step_profile.peak_memory(hold, torch.device("cpu")) < 200e6


def test_first_lead_is_the_margin_of_a_one_token_passage(toy):
    (mem,) = cram(toy, random_passages(toy, 1, 1), Recipe.default(k=2), progress=False)
    assert sink_position.first_token_margin(toy, mem) == pytest.approx(mem.margin, abs=1e-3)


def test_sink_compares_three_placements(toy, store):
    session = Session(toy, store, progress=False)
    table = sink_position.sink(session, random_passages(toy, 2, 3), recipe=Recipe.default(k=2, budget=40))
    assert table.placement.tolist() == ["[mem] text"] * 2 + ["s [mem] text"] * 2 + ["[mem] s text"] * 2
    usual = sink_position.sink(session, random_passages(toy, 1, 1))
    # The metric is measured behind the sink prefix: whitened with it, that placement alone would be at home.
    assert not any("whiten" in recipe for recipe in usual.recipe)
    summary = sink_position.summary(table)
    assert len(summary) == 3
    assert summary.exact.str.match(r"\d/2 \[").all()
    # Three times the steps on every passage is three, with no doubt about it.
    many = pd.concat([table.iloc[[0, 2]].assign(text_id=str(i), steps=[300 + 30 * i, 100 + 10 * i]) for i in range(8)])
    assert sink_position.summary(many)["steps, over without"].tolist() == ["1", "0.33 [0.33, 0.33]"]


def test_sink_goes_on_from_another_machines_table(toy, store, tmp_path):
    passages, recipe = random_passages(toy, 2, 3), Recipe.default(k=2, budget=4, whiten=0)
    first = sink_position.sink(Session(toy, store, progress=False), passages[:1], recipe=recipe)
    empty = Store(tmp_path / "another")
    both = sink_position.sink(Session(toy, empty, first, progress=False), passages, recipe=recipe)
    assert both.placement.tolist() == ["[mem] text"] * 2 + ["s [mem] text"] * 2 + ["[mem] s text"] * 2
    pd.testing.assert_frame_equal(both[both.text_id == "random-0"].reset_index(drop=True), first)
    assert set(empty.keys()) == set(both.key[both.text_id == "random-1"])


def test_the_study_resumes_where_it_stopped(toy, store, tmp_path):
    passages, out, told = random_passages(toy, 3, 4), tmp_path / "t.parquet", []
    contenders = {"q": {"incumbent": {}, "adamw": optimizer_study.ADAMW | dict(lr=0.5)}}
    session = Session(toy, store, log=told.append, progress=False)
    first = optimizer_study.study(session, passages, {"q": {"incumbent": {}}}, budget=40, out=out)
    both = optimizer_study.study(session, passages, contenders, budget=40, out=out)
    assert len(told) == 2
    pd.testing.assert_frame_equal(both[both.contender == "incumbent"], first)
    ranked = optimizer_study.ranking(both)
    assert set(ranked.contender) == set(contenders["q"])
    assert ranked.passes_per_exact.is_monotonic_increasing

    # Of other passages nothing is there yet, whatever the contender is called; and the first ones' rows stay.
    others = random_passages(toy, 2, 6)
    more = optimizer_study.study(session, others, {"q": {"incumbent": {}}}, budget=40, out=out)
    assert len(told) == 3
    assert more.tokens.tolist() == [6, 6]
    assert len(pd.read_parquet(out)) == 8


def test_seeds_are_no_passages_in_the_ranking():
    rows = [("c", text, 0, seed, True, 10, 5, 0.0, 1.0) for text in "ab" for seed in range(20)]
    columns = ["contender", "text_id", "start", "seed", "exact", "token_passes", "steps", "bits", "seconds"]
    (row,) = optimizer_study.ranking(pd.DataFrame(rows, columns=columns)).to_dict("records")
    assert row["exact"] == "40/40"
    assert row["low"] == pytest.approx(share_interval(2, 2)[0], abs=1e-3)


def test_an_experiment_with_failed_runs_says_so_and_makes_no_table(toy, store, monkeypatch):
    from memlab.training.job import TrainingJob

    passages = random_passages(toy, 2, 4)
    usual = TrainingJob.result

    def unlucky(self):
        if self.passage.ids.tolist() == passages[1].ids.tolist():
            raise RuntimeError("made to fail")
        return usual(self)

    monkeypatch.setattr(TrainingJob, "result", unlucky)
    with pytest.raises(RunsFailedError, match=r"1 of 2 runs failed.*made to fail"):
        optimizer_study.study(Session(toy, store, progress=False), passages, {"q": {"incumbent": {}}}, budget=40)


def test_every_contender_is_a_recipe():
    names = [name for group in optimizer_study.SCREEN.values() for name in group]
    assert len(set(names)) == len(names)
    for stage in (optimizer_study.SCREEN, optimizer_study.FINAL):
        for changes in (dict(c) for group in stage.values() for c in group.values()):
            base = changes.pop("base", "default")
            Recipe.named(base, **{k: v for k, v in changes.items() if k != "start" and v != "bos"})


def test_the_stored_tables_are_of_what_the_study_says():
    screen, final = stored("recipe-screen"), stored("recipe-final")
    assert {name for group in optimizer_study.SCREEN.values() for name in group} <= set(screen.contender)
    assert {name for group in optimizer_study.FINAL.values() for name in group} == set(final.contender)
    assert (screen.groupby("contender").size() == 8).all()
    assert (final.groupby("contender").size() == 32 * 3).all()
    # What the half that chooses put first is the default.
    winner = optimizer_study.halves(final).contender[0]
    recipes = final.recipe[final.contender == winner]
    assert {Recipe.from_json(r).replace(budget=400, seed=0) for r in recipes} == {Recipe.default()}


def test_what_was_freed_before_does_not_hide_what_is_held_now():
    """The C library keeps what a first step has freed below what stays: a second one then seems to need nothing."""
    stays = []

    def step():
        pieces = [torch.ones(2**14) for _ in range(1600)]  # 100 MiB
        stays.append(torch.ones(2**14))
        return len(pieces)

    step()
    step()
    assert 80 < step_profile.peak_memory(step, torch.device("cpu")) / 2**20 < 200
