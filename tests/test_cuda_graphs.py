"""Passes of a fixed shape, as they are recorded on a GPU, against the passes they stand for. No GPU is needed."""

import numpy as np
import pytest
import torch

from memlab.models.forward import FUSED
from memlab.scoring.cuda_graphs import CapturedPass, GraphCache, ReplayError, eager, graph_cache_of, release_graphs
from memlab.scoring.objective import Batch, Row


def rows_of(lm, lengths, k=2, first_scored=1, seed=0):
    rng = np.random.default_rng(seed)
    return [Row(rng.integers(0, lm.vocabulary, n), (1,), (2,), k, first_scored) for n in lengths]


def vectors_of(lm, rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(row.k, lm.d, generator=generator) for row in rows]


def assert_same(made, slope, scores, gradients):
    torch.testing.assert_close(made[0].double(), scores.loss, rtol=1e-5, atol=1e-6)
    assert made[1].long().tolist() == scores.right.tolist()
    torch.testing.assert_close(made[2].double(), scores.min_margin, rtol=1e-4, atol=1e-5)
    expected = torch.cat(gradients)
    assert float((slope - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("first_scored", [1, 2])
def test_a_frame_gives_what_the_batch_gives(any_toy, first_scored):
    rows = rows_of(any_toy, [5, 9, 7], first_scored=first_scored)
    mems = vectors_of(any_toy, rows)
    batch = Batch(any_toy, rows)
    scores, gradients = batch.scores(mems, torch.float32, gradient=True)
    frame = CapturedPass(any_toy, 4, 16, 2, torch.float32)
    frame.load(batch, batch._layout)
    made, slope = frame.run(torch.cat(mems))
    assert_same(made[:, :3], slope[:6], scores, gradients)


def test_a_frame_keeps_nothing_of_what_it_held_before(toy):
    frame = CapturedPass(toy, 4, 24, 2, torch.float32)
    for lengths in ([20, 9, 12, 6], [5, 8]):
        rows = rows_of(toy, lengths, seed=len(lengths))
        mems, batch = vectors_of(toy, rows, seed=len(lengths)), Batch(toy, rows)
        frame.load(batch, batch._layout)
        made, slope = frame.run(torch.cat(mems))
        assert_same(made[:, : len(rows)], slope[: 2 * len(rows)], *batch.scores(mems, torch.float32, gradient=True))


class Recorded(CapturedPass):
    """Records nothing: what would be replayed is worked out."""

    def capture(self):
        return True


@pytest.fixture
def frames(toy, monkeypatch):
    monkeypatch.setattr(toy._pass, "_found", (True, FUSED))  # as on a GPU
    monkeypatch.setattr("memlab.scoring.cuda_graphs.CapturedPass", Recorded)
    monkeypatch.setattr("torch.cuda.synchronize", lambda device=None: None)
    return GraphCache()


def test_only_shapes_that_come_again_are_recorded(toy, frames):
    rows = rows_of(toy, [5, 9, 7])
    batch, flat = Batch(toy, rows), torch.cat(vectors_of(toy, rows))
    for known in (False, False, True, True):
        assert (frames.run(toy, batch, batch._layout, flat, torch.float32) is not None) == known
    # Another company of the same shape finds it again, one of mixed k never does.
    others = rows_of(toy, [8, 6], seed=1)
    flat = torch.cat(vectors_of(toy, others))
    again = Batch(toy, others)
    made, slope = frames.run(toy, again, again._layout, flat, torch.float32)
    scores, gradients = again.scores(list(flat.split(2)), torch.float32, gradient=True)
    assert_same(made, slope, scores, gradients)
    mixed = Batch(toy, [rows[0], *rows_of(toy, [5], k=1)])
    for _ in range(5):
        assert frames.run(toy, mixed, mixed._layout, torch.zeros(3, toy.d), torch.float32) is None


@pytest.mark.parametrize(
    "error", [RuntimeError("not permitted when stream is capturing"), torch.OutOfMemoryError("full")]
)
def test_what_cannot_be_recorded_goes_on_as_it_was(toy, frames, monkeypatch, error):
    def fails(self):
        raise error

    monkeypatch.setattr(Recorded, "capture", fails)
    batch = Batch(toy, rows_of(toy, [5]))
    flat = torch.zeros(2, toy.d)
    for _ in range(2):
        assert frames.run(toy, batch, batch._layout, flat, torch.float32) is None
    with pytest.warns(UserWarning, match="not replayed any more"):
        assert frames.run(toy, batch, batch._layout, flat, torch.float32) is None
    assert frames.run(toy, batch, batch._layout, flat, torch.float32) is None
    assert str(error) in frames.broken


def test_rows_that_a_window_slides_over_are_not_recorded(toy, frames, monkeypatch):
    monkeypatch.setattr(toy._pass, "_longest", 8)
    for lengths, known in (([3, 2], True), ([9, 3], False)):
        rows = rows_of(toy, lengths)
        batch, flat = Batch(toy, rows), torch.cat(vectors_of(toy, rows))
        made = [frames.run(toy, batch, batch._layout, flat, torch.float32) for _ in range(4)]
        assert (made[-1] is not None) == known


def test_a_full_card_lets_go_of_what_is_recorded(toy, frames, monkeypatch):
    """And the pass is launched instead; the shape is recorded again later."""
    batch = Batch(toy, rows_of(toy, [5]))
    flat = torch.zeros(2, toy.d)
    for _ in range(3):
        frames.run(toy, batch, batch._layout, flat, torch.float32)
    (frame,) = frames._frames.values()

    def full(vectors):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(frame, "run", full)
    assert frames.run(toy, batch, batch._layout, flat, torch.float32) is None
    assert not frames._frames
    assert not frames.broken
    monkeypatch.setattr(toy, "graph_cache", frames)
    assert not release_graphs(toy)
    for _ in range(100):
        frames.run(toy, batch, batch._layout, flat, torch.float32)
    assert release_graphs(toy)
    assert not release_graphs(toy)


def test_a_loss_that_is_no_number_is_told_from_one_that_was_none(toy, frames):
    rows = rows_of(toy, [5, 6])
    batch, flat = Batch(toy, rows), torch.cat(vectors_of(toy, rows))
    frame = CapturedPass(toy, 4, 16, 2, torch.float32)
    frame.load(batch, batch._layout)
    frame._flat[:4] = flat
    table, slope = frame.work()
    broken = table.clone()
    broken[0, 1] = torch.nan
    with pytest.raises(ReplayError):
        frame._compare((table, slope), (broken, slope))
    frame._compare((broken, slope), (broken, slope))  # a training that diverged


def test_where_room_is_short_it_is_not_tried_each_time(toy, frames, monkeypatch):
    tried = []
    monkeypatch.setattr(Recorded, "capture", lambda self: tried.append(self) or False)
    batch = Batch(toy, rows_of(toy, [5]))
    for _ in range(20):
        assert frames.run(toy, batch, batch._layout, torch.zeros(2, toy.d), torch.float32) is None
    assert len(tried) == 1
    assert not frames.broken


def test_a_replay_that_goes_wrong_is_found_out(toy, frames, monkeypatch):
    """Memory torn from under a graph, say: the first replay, and every 64th after it, is compared."""

    class Graph:
        wrong = False

        def replay(self):
            if self.wrong:
                frame._made[1].mul_(1.5)

    batch = Batch(toy, rows_of(toy, [5, 6]))
    flat = torch.cat(vectors_of(toy, rows_of(toy, [5, 6])))
    for _ in range(3):
        frames.run(toy, batch, batch._layout, flat, torch.float32)
    (frame,) = frames._frames.values()
    frame._graph, frame._made = Graph(), frame.work()
    monkeypatch.setattr("memlab.scoring.cuda_graphs.CHECK_EVERY", 4)
    for _ in range(4):
        assert frames.run(toy, batch, batch._layout, flat, torch.float32) is not None
    frame._graph.wrong = True
    with pytest.warns(UserWarning, match="off the same one launched"):
        assert frames.run(toy, batch, batch._layout, flat, torch.float32) is None
    assert not frames._frames


def test_it_is_for_who_asks_for_it(toy, monkeypatch):
    monkeypatch.setattr(toy, "device", torch.device("cuda"))
    monkeypatch.setattr(toy, "graph_cache", None)
    assert graph_cache_of(toy) is None
    monkeypatch.setenv("MEMLAB_REPLAY", "1")
    assert graph_cache_of(toy) is not None
    with eager():
        assert graph_cache_of(toy) is None
