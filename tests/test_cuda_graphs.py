"""Captured passes compared with passes without a graph. No GPU is needed: the capture is replaced."""

import numpy as np
import pytest
import torch

from memlab.models.forward import FUSED, ForwardPass
from memlab.scoring.cuda_graphs import CapturedPass, GraphCache, ReplayError, eager, graph_cache_of, release_graphs
from memlab.scoring.objective import Batch, Row


def rows_of(lm, lengths, k=2, first_scored=1, seed=0):
    rng = np.random.default_rng(seed)
    return [Row(rng.integers(0, lm.vocabulary, n), (1,), (2,), k, first_scored) for n in lengths]


def vectors_of(lm, rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(row.k, lm.d, generator=generator) for row in rows]


def assert_same(table, gradient, scores, gradients):
    torch.testing.assert_close(table[0].double(), scores.loss, rtol=1e-5, atol=1e-6)
    assert table[1].long().tolist() == scores.right.tolist()
    torch.testing.assert_close(table[2].double(), scores.min_margin, rtol=1e-4, atol=1e-5)
    expected = torch.cat(gradients)
    assert float((gradient - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("first_scored", [1, 2])
def test_a_captured_pass_equals_the_batch(any_toy, first_scored):
    rows = rows_of(any_toy, [5, 9, 7], first_scored=first_scored)
    mems = vectors_of(any_toy, rows)
    batch = Batch(any_toy, rows)
    scores, gradients = batch.scores(mems, torch.float32, gradient=True)
    graph = CapturedPass(any_toy, 4, 16, 2, torch.float32)
    graph.load(batch, batch._layout)
    table, gradient = graph.run(torch.cat(mems))
    assert_same(table[:, :3], gradient[:6], scores, gradients)


def test_a_captured_pass_forgets_the_rows_loaded_before(toy):
    graph = CapturedPass(toy, 4, 24, 2, torch.float32)
    for lengths in ([20, 9, 12, 6], [5, 8]):
        rows = rows_of(toy, lengths, seed=len(lengths))
        mems, batch = vectors_of(toy, rows, seed=len(lengths)), Batch(toy, rows)
        graph.load(batch, batch._layout)
        table, gradient = graph.run(torch.cat(mems))
        assert_same(table[:, : len(rows)], gradient[: 2 * len(rows)], *batch.scores(mems, torch.float32, gradient=True))


class WithoutGraph(CapturedPass):
    """Captures nothing: each run computes the pass."""

    def capture(self):
        return True


@pytest.fixture
def graphs(toy, monkeypatch):
    monkeypatch.setattr(toy, "_pass", ForwardPass(toy.model, toy.d, (True, FUSED)))  # as on a GPU
    monkeypatch.setattr("memlab.scoring.cuda_graphs.CapturedPass", WithoutGraph)
    monkeypatch.setattr("torch.cuda.synchronize", lambda device=None: None)
    return GraphCache()


def test_only_repeated_shapes_are_captured(toy, graphs):
    rows = rows_of(toy, [5, 9, 7])
    batch, flat = Batch(toy, rows), torch.cat(vectors_of(toy, rows))
    for captured in (False, False, True, True):
        assert (graphs.run(toy, batch, batch._layout, flat, torch.float32) is not None) == captured
    # Other rows of the same shape use the same graph. Rows of mixed k never use one.
    others = rows_of(toy, [8, 6], seed=1)
    flat = torch.cat(vectors_of(toy, others))
    again = Batch(toy, others)
    table, gradient = graphs.run(toy, again, again._layout, flat, torch.float32)
    scores, gradients = again.scores(list(flat.split(2)), torch.float32, gradient=True)
    assert_same(table, gradient, scores, gradients)
    mixed = Batch(toy, [rows[0], *rows_of(toy, [5], k=1)])
    for _ in range(5):
        assert graphs.run(toy, mixed, mixed._layout, torch.zeros(3, toy.d), torch.float32) is None


@pytest.mark.parametrize(
    "error", [RuntimeError("not permitted when stream is capturing"), torch.OutOfMemoryError("full")]
)
def test_a_failed_capture_falls_back_to_passes_without_graphs(toy, graphs, monkeypatch, error):
    def fails(self):
        raise error

    monkeypatch.setattr(WithoutGraph, "capture", fails)
    batch = Batch(toy, rows_of(toy, [5]))
    flat = torch.zeros(2, toy.d)
    for _ in range(2):
        assert graphs.run(toy, batch, batch._layout, flat, torch.float32) is None
    with pytest.warns(UserWarning, match="no longer replayed"):
        assert graphs.run(toy, batch, batch._layout, flat, torch.float32) is None
    assert graphs.run(toy, batch, batch._layout, flat, torch.float32) is None
    assert str(error) in graphs.broken


def test_rows_longer_than_an_attention_window_are_not_captured(toy, graphs, monkeypatch):
    monkeypatch.setattr(toy._pass, "_longest", 8)
    for lengths, captured in (([3, 2], True), ([9, 3], False)):
        rows = rows_of(toy, lengths)
        batch, flat = Batch(toy, rows), torch.cat(vectors_of(toy, rows))
        results = [graphs.run(toy, batch, batch._layout, flat, torch.float32) for _ in range(4)]
        assert (results[-1] is not None) == captured


def test_a_full_gpu_frees_captured_passes(toy, graphs, monkeypatch):
    """The pass runs without a graph instead, and its shape is captured again later."""
    batch = Batch(toy, rows_of(toy, [5]))
    flat = torch.zeros(2, toy.d)
    for _ in range(3):
        graphs.run(toy, batch, batch._layout, flat, torch.float32)
    (graph,) = graphs._graphs.values()

    def full(vectors):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(graph, "run", full)
    assert graphs.run(toy, batch, batch._layout, flat, torch.float32) is None
    assert not graphs._graphs
    assert not graphs.broken
    monkeypatch.setattr(toy, "graph_cache", graphs)
    assert not release_graphs(toy)
    for _ in range(100):
        graphs.run(toy, batch, batch._layout, flat, torch.float32)
    assert release_graphs(toy)
    assert not release_graphs(toy)


def test_nan_loss_is_reported_only_if_the_pass_without_a_graph_is_finite(toy, graphs):
    rows = rows_of(toy, [5, 6])
    batch, flat = Batch(toy, rows), torch.cat(vectors_of(toy, rows))
    graph = CapturedPass(toy, 4, 16, 2, torch.float32)
    graph.load(batch, batch._layout)
    graph._flat[:4] = flat
    table, gradient = graph.work()
    broken = table.clone()
    broken[0, 1] = torch.nan
    with pytest.raises(ReplayError):
        graph._compare((table, gradient), (broken, gradient))
    graph._compare((broken, gradient), (broken, gradient))  # a training that diverged


def test_a_capture_without_room_is_not_tried_again_at_once(toy, graphs, monkeypatch):
    tried = []
    monkeypatch.setattr(WithoutGraph, "capture", lambda self: tried.append(self) or False)
    batch = Batch(toy, rows_of(toy, [5]))
    for _ in range(20):
        assert graphs.run(toy, batch, batch._layout, torch.zeros(2, toy.d), torch.float32) is None
    assert len(tried) == 1
    assert not graphs.broken


def test_a_wrong_replay_is_detected(toy, graphs, monkeypatch):
    """For instance overwritten memory. The first replay and every 64th after it are compared."""

    class Graph:
        wrong = False

        def replay(self):
            if self.wrong:
                graph._outputs[1].mul_(1.5)

    batch = Batch(toy, rows_of(toy, [5, 6]))
    flat = torch.cat(vectors_of(toy, rows_of(toy, [5, 6])))
    for _ in range(3):
        graphs.run(toy, batch, batch._layout, flat, torch.float32)
    (graph,) = graphs._graphs.values()
    graph._graph, graph._outputs = Graph(), graph.work()
    monkeypatch.setattr("memlab.scoring.cuda_graphs.CHECK_EVERY", 4)
    for _ in range(4):
        assert graphs.run(toy, batch, batch._layout, flat, torch.float32) is not None
    graph._graph.wrong = True
    with pytest.warns(UserWarning, match="differs by .* from the same pass without a graph"):
        assert graphs.run(toy, batch, batch._layout, flat, torch.float32) is None
    assert not graphs._graphs


@pytest.mark.parametrize("switch", ["MEMLAB_CUDA_GRAPHS", "MEMLAB_REPLAY"])
def test_cuda_graphs_are_used_only_if_switched_on(toy, monkeypatch, switch):
    """By the current variable, or by its old name."""
    monkeypatch.setattr(toy, "device", torch.device("cuda"))
    monkeypatch.setattr(toy, "graph_cache", None)
    assert graph_cache_of(toy) is None
    monkeypatch.setenv(switch, "1")
    assert graph_cache_of(toy) is not None
    with eager():
        assert graph_cache_of(toy) is None
