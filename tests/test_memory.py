import gc
import itertools

import numpy as np
import pytest
import torch

from memlab.scoring import memory as module
from memlab.scoring.memory import LAUNCH_COST, MemoryBudget, group_by_length, measure_budget, out_of_memory, saved_bytes


def cost(parts, lengths):
    return sum(len(p) * max(lengths[i] for i in p) + LAUNCH_COST for p in parts)


def test_groups_are_the_cheapest_split_by_length():
    rng = np.random.default_rng(0)
    for _ in range(20):
        lengths = rng.integers(8, 130, 7).tolist()
        parts = group_by_length(lengths)
        assert sorted(i for p in parts for i in p) == list(range(7))
        order = sorted(range(7), key=lambda i: -lengths[i])
        every = []
        for cuts in itertools.product([False, True], repeat=6):
            split = [[order[0]]]
            for i, cut in zip(order[1:], cuts, strict=True):
                if cut:
                    split.append([])
                split[-1].append(i)
            every.append(cost(split, lengths))
        assert cost(parts, lengths) == min(every)


def test_similar_lengths_share_a_pass():
    assert group_by_length([33] * 16) == [list(range(16))]
    assert [sorted(p) for p in group_by_length([129, 10, 128, 11, 127, 9, 126, 10])] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert group_by_length([]) == []


def test_saved_bytes_of_long_rows_are_predicted_from_short_ones(toy):
    budget = measure_budget(toy)
    for length in (30, 120):
        predicted = length * (budget.bytes_per_position + length * budget.bytes_per_pair)
        assert saved_bytes(toy, length) == pytest.approx(predicted, rel=0.1)


def test_number_of_rows_follows_length_and_memory():
    roomy = MemoryBudget(positions=1024, bytes_per_position=1e5, bytes_per_pair=0, free=2**40)
    assert [roomy.rows(n) for n in (8, 32, 128, 2000)] == [128, 32, 8, 1]
    tight = MemoryBudget(positions=1024, bytes_per_position=1e6, bytes_per_pair=0, free=1_000_000_000)
    assert tight.rows(32) == int(module.MEMORY_FRACTION * 1000 / 32)
    long = MemoryBudget(positions=10**6, bytes_per_position=0, bytes_per_pair=1e3, free=1_000_000_000)
    assert long.rows(100) == pytest.approx(4 * long.rows(200), abs=4)


def test_free_memory_limits_the_rows(toy, monkeypatch):
    monkeypatch.setattr(module, "free_bytes", lambda device: 50_000_000)
    assert 1 <= measure_budget(toy).rows(100) < 10
    monkeypatch.setattr(module, "free_bytes", lambda device: 10)
    assert measure_budget(toy).rows(100) == 1  # one row always fits


def test_out_of_memory_recognises_each_devices_error():
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert out_of_memory(caught.value)
    assert out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"))
    assert out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"))
    assert not out_of_memory(RuntimeError("shapes do not match"))


def test_measuring_saved_bytes_keeps_no_tensor(any_toy):
    def tensors():
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    saved_bytes(any_toy, 16)
    before = tensors()
    assert saved_bytes(any_toy, 16) == saved_bytes(any_toy, 16) > 0
    assert tensors() == before
