"""Training and decoding on a CUDA device. Skipped without one."""

import numpy as np
import pytest
import torch

from memlab import Recipe, cram, decode, load
from memlab.decoding.decode import check
from memlab.experiments import step_profile
from memlab.scoring.cuda_graphs import graph_cache_of
from memlab.scoring.objective import Batch, Row

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
RECIPE = Recipe.default(budget=300)


@pytest.fixture(autouse=True, params=["", "1"], ids=["eager", "cuda graphs"])
def replayed(request, monkeypatch):
    """Whether passes are replayed as CUDA graphs."""
    monkeypatch.delenv("MEMLAB_REPLAY", raising=False)
    monkeypatch.setenv("MEMLAB_CUDA_GRAPHS", request.param)
    return bool(request.param)


@pytest.fixture(params=["llama", "mamba", "gemma3"])
def pair(request):
    """The same toy on both devices."""
    return load(f"toy:{request.param}", device="cuda"), load(f"toy:{request.param}", device="cpu")


def rows_of(lm, lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [Row(rng.integers(0, lm.vocabulary, n), lm.sink_prefix, (), 1) for n in lengths]


def passages_of(lm, count, tokens, seed=0):
    rng = np.random.default_rng(seed)
    return [lm.passage_of_ids(rng.integers(0, lm.vocabulary, tokens), name=f"random-{i}") for i in range(count)]


def test_loss_and_gradient_equal_the_cpus(pair, replayed):
    gpu, cpu = pair
    rows = rows_of(cpu, [5, 17, 9])
    mems = [torch.randn(1, cpu.d, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    expected, cpu_gradients = Batch(cpu, rows).scores(mems, torch.float32, gradient=True)
    batch = Batch(gpu, rows)
    for use in range(5):  # without a graph at first, replayed later
        scores, gradients = batch.scores(mems, torch.float32, gradient=True)
        torch.testing.assert_close(scores.loss, expected.loss, rtol=1e-5, atol=1e-6)
        assert scores.right.tolist() == expected.right.tolist()
        for mine, theirs in zip(gradients, cpu_gradients, strict=True):
            assert float((mine - theirs).norm() / theirs.norm()) < 1e-4, use
    if replayed:
        graphs = graph_cache_of(gpu)
        assert not graphs.broken
        assert graphs._graphs, "no pass was captured"


def test_a_row_alone_and_in_a_batch_agree(pair):
    gpu, _ = pair
    rows = rows_of(gpu, [5, 33, 9, 20])
    mems = [torch.randn(1, gpu.d, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    together = Batch(gpu, rows)
    for _ in range(4):
        scores, gradients = together.scores(mems, torch.float32, gradient=True)
        for i, row in enumerate(rows):
            alone, (gradient,) = Batch(gpu, [row]).scores([mems[i]], torch.float32, gradient=True)
            assert float(scores.loss[i] - alone.loss[0]) == pytest.approx(0, abs=1e-5)
            assert float((gradients[i] - gradient).norm() / gradient.norm()) < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_vector_trained_on_the_gpu_decodes_on_the_cpu(dtype):
    gpu, cpu = load("toy:llama", device="cuda", dtype=dtype), load("toy:llama", device="cpu")
    mems = cram(gpu, passages_of(gpu, 6, 8), RECIPE, progress=False)
    assert [mem.exact for mem in mems] == [True] * 6
    assert all(mem.checks[0].device == "cuda" for mem in mems)
    for mem in mems:
        assert check(cpu, mem).exact
        assert decode(gpu, [mem])[0].tolist() == mem.token_ids.tolist()


def test_a_text_grows_on_the_gpu(pair):
    gpu, _ = pair
    (mem,) = cram(gpu, passages_of(gpu, 1, 16), RECIPE.replace(grow=4, patience=60), progress=False)
    assert mem.checks[0].first_wrong is None or mem.checks[0].first_wrong >= 4


def test_a_full_gpu_loses_no_passage(monkeypatch):
    """Memory is really limited, and the memory budget believes that there is more."""
    lm = load("toy:llama", device="cuda")
    passages = passages_of(lm, 64, 24)
    from memlab.scoring import memory
    from memlab.training import scheduler

    measured = memory.measure_budget(lm)
    monkeypatch.setattr(
        scheduler,
        "measure_budget",
        lambda lm: memory.MemoryBudget(1 << 20, measured.bytes_per_position, measured.bytes_per_pair, 1 << 50),
    )
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    one = measured.bytes_per_position * 24
    room = torch.cuda.memory_allocated() + max(8 * one, 24 << 20)
    torch.cuda.set_per_process_memory_fraction(min(1.0, room / total))
    try:
        mems = cram(lm, passages, RECIPE.replace(budget=5), progress=False)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(mems) == 64
    assert {m.text.id for m in mems} == {p.span.id for p in passages}


def test_peak_memory_and_rate_are_the_gpus(replayed):
    lm = load("toy:llama", device="cuda")
    table = step_profile.profile_steps(lm, [(4, 8)], repeats=3)
    assert (table.share > 0).all()
    assert (table.peak_gib > 0).any()  # a replayed pass needs no new memory
    assert set(table.replayed) == ({False, True} if replayed else {False})
    assert table.device[0] == torch.cuda.get_device_name(0)
    assert step_profile.machine_rate(lm.device, torch.bfloat16) > step_profile.machine_rate(lm.device, torch.float32)
