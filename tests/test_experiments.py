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


def test_an_unknown_experiment_raises_and_names_those_that_exist():
    with pytest.raises(
        UnknownExperimentError, match=r"^There is no experiment 'sinks'. Use one of: recovery, horizon, "
    ):
        experiment("sinks")


def test_the_registry_imports_no_experiment():
    code = "import memlab.experiments.registry, sys; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def search_lengths(capacity, lengths=range(16, 129, 16), first=64, attempts=2, luck=()):
    """A length search where an attempt is exact if length <= capacity, or if its (length, seed) is in ``luck``."""
    search, tried = LengthSearch(lengths, list(lengths).index(first), attempts), []
    while not search.over:
        length, seed = search.next
        tried.append((length, seed))
        search.report(length <= capacity or (length, seed) in luck)
        assert len(tried) < 50
    return (lengths[search.best] if search.best >= 0 else 0), tried


@pytest.mark.parametrize("capacity", [0, 16, 40, 63, 64, 80, 111, 112, 128, 500])
def test_length_search_finds_every_capacity(capacity):
    longest, tried = search_lengths(capacity)
    assert longest == max([n for n in range(16, 129, 16) if n <= capacity], default=0)
    assert len(set(tried)) == len(tried)  # nothing is trained twice


def test_length_search_tries_another_seed_before_a_length_fails():
    assert search_lengths(64, luck={(80, 1), (96, 1)})[0] == 96
    assert search_lengths(64, luck={(80, 5)})[0] == 64


def test_horizons_are_decoded_lengths(toy, store):
    texts = random_words(2, seed=3)
    lines = []
    table = horizon(
        Session(toy, store, log=lines.append, progress=False), texts, lengths=[2, 4, 8, 60], first=4, attempts=2,
        recipe=Recipe.default(budget=60, k=4),
    )  # fmt: skip
    reached = horizons(table)
    assert list(reached.text_id) == [t.id for t in texts]
    assert lines[-1].endswith("2 of 2 passages done")
    for row in reached.itertuples():
        exact = table[(table.text_id == row.text_id) & table.exact]
        assert row.longest_exact == exact.tokens.max() <= row.horizon
        assert all(store.get(key).exact for key in exact.key)
        assert row.token_passes == table[table.text_id == row.text_id].token_passes.sum()
    assert (table[~table.exact].exact_prefix < table[~table.exact].tokens).all()


@pytest.mark.slow
def test_a_search_resumes_from_a_table_of_another_machine(toy, store, tmp_path):
    texts = random_words(2, seed=3)
    search = dict(lengths=[2, 4, 60], first=4, attempts=1, recipe=Recipe.default(budget=8, k=4))
    reported = []
    whole = horizon(Session(toy, store, on_rows=reported.append, progress=False), texts, **search)
    pd.testing.assert_frame_equal(reported[-1], whole)
    assert len(reported) > 1
    elsewhere = Store(tmp_path / "elsewhere")
    first_round = Session(toy, elsewhere, resume_from=reported[0], progress=False)
    again = horizon(first_round, texts, **search)
    pd.testing.assert_frame_equal(again[[*ATTEMPT]], whole[[*ATTEMPT]])
    assert set(elsewhere.keys()) == set(whole.key) - set(reported[0].key)
    # That store lacks the longest exact vectors: they are trained again, and the retries have the same results.
    rows = retry_failures(Session(toy, elsewhere, progress=False), texts, whole, target=60, recipe=search["recipe"])
    here = retry_failures(Session(toy, store, progress=False), texts, whole, target=60, recipe=search["recipe"])
    assert list(rows.way) == list(here.way)
    # Except the warm start: its parent, trained again, differs in its last bits: rounding depends on the batch.
    pd.testing.assert_frame_equal(*(t[t.way != "from the longest exact"] for t in (rows, here)))
    third = Session(toy, Store(tmp_path / "third"), resume_from=rows, progress=False)
    resumed = retry_failures(third, texts, whole, target=60, recipe=search["recipe"])
    pd.testing.assert_frame_equal(resumed, rows)


@pytest.mark.slow
def test_failures_are_retried_at_the_length_that_failed(toy, store):
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


def test_growing_uses_its_token_budget_and_reports_the_decoded_prefix(toy, store):
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


def test_a_table_that_cannot_be_written_does_not_count_as_a_failed_run(toy, store):
    texts = random_words(3, seed=4)

    def full(rows):
        raise TableNotWrittenError("no room")

    recipe = Recipe.growing(k=2, grow=2, margin=0.5, patience=15)
    common = dict(recipe=recipe, token_passes={t.id: 60 * (i + 1) for i, t in enumerate(texts)}, longest=40)
    with pytest.raises(TableNotWrittenError, match="no room"):
        growing(Session(toy, store, on_rows=full, progress=False), texts, **common)
    assert len(list(store.keys())) == 1  # it stops after the first run, whose vector is stored
    table = growing(Session(toy, store, progress=False), texts, **common)
    assert len(table) == 3
    assert not store.failures()


@pytest.mark.slow
def test_growing_records_the_stage_it_failed_at_and_retries_extend_it(toy, store, monkeypatch):
    texts = random_words(3, seed=4)
    recipe = Recipe.growing(k=2, grow=2, margin=0.5, patience=15)
    session = Session(toy, store, progress=False)
    table = growing(session, texts, recipe=recipe, token_passes=0, longest=40)
    assert list(table.text_id) == [t.id for t in texts]
    for row in table.itertuples():
        mem = store.get(row.key)
        assert row.ended == ("exact" if row.exact else "patience")
        if not row.exact:
            # Every stage before the last reached the margin, so its prefix comes back by free decoding.
            assert row.exact_prefix >= row.tried - 2 > 0
            ids = decode(toy, [mem], batch=1)[0]
            np.testing.assert_array_equal(ids[: row.exact_prefix], mem.token_ids[: row.exact_prefix])
    assert not table.exact.all()
    reached = horizons(table)
    assert (reached.failed_at.isna() == table.exact.to_numpy()).all()
    assert (reached.horizon < reached.failed_at)[~table.exact].all()
    # Retries, each on the texts that are still short: as a whole, resumed, another seed, free norm.
    target = int(table.exact_prefix.max()) + 1
    settings = dict(target=target, recipe=recipe, longest=40)
    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "budget", 2)  # so that training as a whole does not succeed at once
        rows = extend_growth(session, texts, table, **settings)
    by_setting = dict(tuple(rows.groupby("way", sort=False)))
    whole = "as a whole"
    assert list(by_setting)[:4] == ["as it ended", whole, f"{whole}, four times the steps", "four times the patience"]
    assert not store.get(by_setting[whole].key.iloc[0]).recipe.grow
    short = set(table.text_id[~table.exact])
    for setting, retried in by_setting.items():
        assert set(retried.text_id) == short, setting
        if setting != "as it ended":
            assert (retried.tokens == min(target, 40)).all()  # up to the target, and no further
            short = set(retried.text_id[retried.exact_prefix < target])
    warm = by_setting["four times the patience"].set_index("text_id")
    for row in by_setting["as it ended"].itertuples():
        assert store.get(warm.key[row.text_id]).parent == store.get(row.key).lineage_id
    extended = extend_growth(session, texts, table, **settings)
    assert extended[extended.way == whole].exact.all()
    assert set(extended.way) == {"as it ended", whole}
    assert not extend_growth(session, texts, table, **settings | {"target": 1}).size
    # If the token budget ends first, the length that would fail stays unknown.
    short = growing(session, texts[:1], recipe=recipe, token_passes=30, longest=40)
    assert horizons(short).failed_at.isna().all()


def test_the_published_loop_and_memlab_take_the_same_steps(toy):
    """torch's AdamW on the model's own logits, compared with memlab's engine: same start, same losses, same stop."""
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
    # The first stage trains one token, not five.
    assert theirs["token_passes"] < 5 * theirs["steps"]
    assert ours.provenance["token_passes"] < 5 * (ours.steps + 1)


@pytest.mark.slow
def test_speed_resumes_and_counts_failures_in_full(toy, tmp_path):
    passages = random_passages(toy, 2, 4)
    out, lines = tmp_path / "speed.parquet", []
    settings = dict(out=out, recipe=Recipe.default(k=4), changes=dict(k=4, budget=30, lr=0.5), log=lines.append)
    table = speed.speed(toy, passages, **settings)
    assert table.method.tolist() == ["memlab"] * 2 + ["paper2025", "progressive2026"] * 2
    assert len(lines) == 5
    assert (table.full_seconds >= table.seconds * 0.999).all()
    assert table.decode_seconds.between(0, table.seconds.max()).all()
    assert table[table.method == "memlab"].decoded.all()
    again = speed.speed(toy, passages, **settings)
    assert len(lines) == 5
    pd.testing.assert_frame_equal(again, table, check_dtype=False)

    # After a change of passages, recipe or machine, only the rows that no longer fit are measured again.
    lines.clear()
    fewer = speed.speed(toy, passages[:1], **settings)
    assert len(fewer) == 3
    assert [line.split()[0] for line in lines] == ["memlab:"]
    lines.clear()
    speed.speed(toy, passages[:1], **settings | dict(changes=dict(budget=3, patience=10)))
    assert [line.split()[0] for line in lines] == ["paper2025", "progressive2026"]
    theirs = pd.read_parquet(out).assign(threads=99)
    theirs.to_parquet(out)
    lines.clear()
    speed.speed(toy, passages[:1], **settings)
    assert "another machine" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == ["memlab:", "paper2025", "progressive2026"]
    rows = pd.read_parquet(out)
    assert (rows.threads == 99).sum() == len(theirs)  # rows of another machine stay in the file


@pytest.mark.slow
def test_a_failure_costs_its_whole_budget_and_paper2025_decodes_with_the_first_token_given(toy, monkeypatch):
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


def test_speed_ratios_of_a_made_up_table():
    """memlab takes 1 s per passage. The other method takes 50 s if it decodes, and 500 s (full budget) if not."""
    rows = [("memlab", f"p{i}", f"t{i}", True, 1.0, 1.0, 10.0) for i in range(10)]
    rows += [("paper2025", f"p{i}", f"t{i}", i < 8, 50.0, 50.0 if i < 8 else 500.0, np.nan) for i in range(10)]
    columns = ["method", "passage", "text_id", "decoded", "seconds", "full_seconds", "once_seconds"]
    table = pd.DataFrame(rows, columns=columns)
    result = ratios(table).set_index("over")
    assert result.ratio["both decode"] == pytest.approx(50)
    assert result.low["both decode"] == pytest.approx(50) == pytest.approx(result.high["both decode"])
    assert result.passages["both decode"] == 8
    assert result.ratio["with failures"] == pytest.approx((8 * 50 + 2 * 500) / 8)
    assert result.low["with failures"] < result.ratio["with failures"] < result.high["with failures"]
    assert result.ratio["with failures, as they stopped"] == pytest.approx(10 * 50 / 8)
    assert result.ratio["with failures, and the metric"] == pytest.approx((8 * 50 + 2 * 500) / 8 / 2)
    # Twice the passages from the same ten texts: the intervals over texts stay equally wide.
    twice = pd.concat([table, table.assign(passage=table.passage + "'")])
    again = ratios(twice).set_index("over")
    assert again.passages["both decode"] == 16
    for end in ("low", "high"):
        assert again[end]["with failures"] == pytest.approx(result[end]["with failures"])
    # A slower machine with only the first eight passages: ratios are computed per machine.
    slow = table[table.passage < "p8"].copy()
    slow[["seconds", "full_seconds"]] *= np.where(slow.method == "memlab", 2, 4)[:, None]
    both = pd.concat([table.assign(device="fast"), slow.assign(device="slow")], ignore_index=True)
    by_machine = ratios(both).set_index(["device", "over"])
    assert by_machine.ratio["fast", "with failures"] == pytest.approx(result.ratio["with failures"])
    assert by_machine.ratio["slow", "both decode"] == pytest.approx(100)
    assert by_machine.passages["slow", "with failures"] == 8


def test_the_recorded_products_account_for_all_flops_of_a_step(toy):
    """The shapes give the same number of multiplications as torch's own counter."""
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


def test_processors_with_equal_names_have_different_device_names(monkeypatch):
    """Clouds use one name for several generations of processors, whose seconds must not be compared."""
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


def test_peak_memory_counts_memory_that_is_freed_again():
    def hold():
        gc.collect()
        block = torch.ones(100_000_000, dtype=torch.uint8)
        for _ in range(50):
            block.add_(1)

    class Cycle:
        def __init__(self):
            self.own, self.block = self, torch.ones(300_000_000, dtype=torch.uint8)

    Cycle()  # unreachable: it must be collected before the measurement, not during it
    assert 80e6 < step_profile.peak_memory(hold, torch.device("cpu")) < 200e6


def test_first_token_margin_is_the_margin_of_a_one_token_passage(toy):
    (mem,) = cram(toy, random_passages(toy, 1, 1), Recipe.default(k=2), progress=False)
    assert sink_position.first_token_margin(toy, mem) == pytest.approx(mem.margin, abs=1e-3)


def test_sink_compares_three_placements(toy, store):
    session = Session(toy, store, progress=False)
    table = sink_position.sink(session, random_passages(toy, 2, 3), recipe=Recipe.default(k=2, budget=40))
    assert table.placement.tolist() == ["[mem] text"] * 2 + ["s [mem] text"] * 2 + ["[mem] s text"] * 2
    default = sink_position.sink(session, random_passages(toy, 1, 1))
    # No whitening: the preconditioner is measured after the sink prefix, which would favour that placement.
    assert not any("whiten" in recipe for recipe in default.recipe)
    summary = sink_position.summary(table)
    assert len(summary) == 3
    assert summary.exact.str.match(r"\d/2 \[").all()
    # A third of the steps on every passage gives a ratio of 0.33 with an interval of zero width.
    many = pd.concat([table.iloc[[0, 2]].assign(text_id=str(i), steps=[300 + 30 * i, 100 + 10 * i]) for i in range(8)])
    assert sink_position.summary(many)["steps, over without"].tolist() == ["1", "0.33 [0.33, 0.33]"]


def test_sink_resumes_from_a_table_of_another_machine(toy, store, tmp_path):
    passages, recipe = random_passages(toy, 2, 3), Recipe.default(k=2, budget=4, whiten=0)
    first = sink_position.sink(Session(toy, store, progress=False), passages[:1], recipe=recipe)
    empty = Store(tmp_path / "another")
    both = sink_position.sink(Session(toy, empty, first, progress=False), passages, recipe=recipe)
    assert both.placement.tolist() == ["[mem] text"] * 2 + ["s [mem] text"] * 2 + ["[mem] s text"] * 2
    pd.testing.assert_frame_equal(both[both.text_id == "random-0"].reset_index(drop=True), first)
    assert set(empty.keys()) == set(both.key[both.text_id == "random-1"])


def test_the_optimizer_study_resumes(toy, store, tmp_path):
    passages, out, lines = random_passages(toy, 3, 4), tmp_path / "t.parquet", []
    contenders = {"q": {"incumbent": {}, "adamw": optimizer_study.ADAMW | dict(lr=0.5)}}
    session = Session(toy, store, log=lines.append, progress=False)
    first = optimizer_study.study(session, passages, {"q": {"incumbent": {}}}, budget=40, out=out)
    both = optimizer_study.study(session, passages, contenders, budget=40, out=out)
    assert len(lines) == 2
    pd.testing.assert_frame_equal(both[both.contender == "incumbent"], first)
    ranked = optimizer_study.ranking(both)
    assert set(ranked.contender) == set(contenders["q"])
    assert ranked.passes_per_exact.is_monotonic_increasing

    # Other passages are trained, though the contender has the same name; the first rows stay.
    others = random_passages(toy, 2, 6)
    more = optimizer_study.study(session, others, {"q": {"incumbent": {}}}, budget=40, out=out)
    assert len(lines) == 3
    assert more.tokens.tolist() == [6, 6]
    assert len(pd.read_parquet(out)) == 8


def test_the_ranking_counts_passages_not_seeds():
    rows = [("c", text, 0, seed, True, 10, 5, 0.0, 1.0) for text in "ab" for seed in range(20)]
    columns = ["contender", "text_id", "start", "seed", "exact", "token_passes", "steps", "bits", "seconds"]
    (row,) = optimizer_study.ranking(pd.DataFrame(rows, columns=columns)).to_dict("records")
    assert row["exact"] == "40/40"
    assert row["low"] == pytest.approx(share_interval(2, 2)[0], abs=1e-3)


def test_failed_runs_raise_and_leave_no_table(toy, store, monkeypatch):
    from memlab.training.job import TrainingJob

    passages = random_passages(toy, 2, 4)
    original = TrainingJob.result

    def unlucky(self):
        if self.passage.ids.tolist() == passages[1].ids.tolist():
            raise RuntimeError("made to fail")
        return original(self)

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


def test_the_stored_tables_match_the_study():
    screen, final = stored("recipe-screen"), stored("recipe-final")
    assert {name for group in optimizer_study.SCREEN.values() for name in group} <= set(screen.contender)
    assert {name for group in optimizer_study.FINAL.values() for name in group} == set(final.contender)
    assert (screen.groupby("contender").size() == 8).all()
    assert (final.groupby("contender").size() == 32 * 3).all()
    # The winner in the choosing half is the default recipe.
    winner = optimizer_study.halves(final).contender[0]
    recipes = final.recipe[final.contender == winner]
    assert {Recipe.from_json(r).replace(budget=400, seed=0) for r in recipes} == {Recipe.default()}


def test_peak_memory_is_not_hidden_by_memory_freed_before():
    """The C library keeps freed memory of a first step for reuse, so a second step could seem to need none."""
    stays = []

    def step():
        pieces = [torch.ones(2**14) for _ in range(1600)]  # 100 MiB
        stays.append(torch.ones(2**14))
        return len(pieces)

    step()
    step()
    assert 80 < step_profile.peak_memory(step, torch.device("cpu")) / 2**20 < 200
