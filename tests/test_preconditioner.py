import itertools

import numpy as np
import pytest
import torch

from memlab import Recipe, Store, cram, load
from memlab.models import FrozenLM, toys
from memlab.training import preconditioner as module
from memlab.training.preconditioner import FLOOR, Preconditioner, preconditioner_of
from tests.conftest import random_passages


def random_result(d=12, r=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(d, r, generator=generator)).Q.T
    return Preconditioner(basis, torch.logspace(0, -4, r))


@pytest.mark.parametrize("power", [0.25, 0.5, 1.0])
def test_whitening_is_the_power_of_a_matrix(power):
    """Compared with the full matrix, directions outside the basis included, up to the common factor.

    In float64: in float32 the zero eigenvalues are uncertain by a ten-thousandth of the floor.
    """
    single = random_result()
    preconditioner = Preconditioner(torch.linalg.qr(single.basis.double().T).Q.T, single.spectrum.double())
    moment = (preconditioner.basis.T * preconditioner.spectrum) @ preconditioner.basis
    values, vectors = torch.linalg.eigh(moment)
    whole = (vectors * (values.clamp_min(0) + FLOOR) ** -power) @ vectors.T
    rows = torch.randn(3, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(preconditioner.whiten(rows, power) * FLOOR**-power, rows @ whole, rtol=1e-9, atol=1e-9)


def test_whitening_with_power_zero_changes_nothing():
    rows = torch.randn(2, 12)
    torch.testing.assert_close(random_result().whiten(rows, 0.0), rows)


def test_preconditioner_is_the_second_moment_of_unit_gradients(toy, monkeypatch):
    monkeypatch.setattr(module, "SAMPLES", 64)
    fresh = FrozenLM(*toys.toy("llama"), name="fresh")
    preconditioner = preconditioner_of(fresh)
    assert preconditioner.basis.shape == (64, toy.d)
    torch.testing.assert_close(preconditioner.basis @ preconditioner.basis.T, torch.eye(64), atol=1e-4, rtol=0)
    assert float(preconditioner.spectrum.sum()) == pytest.approx(1, rel=1e-4)  # of unit gradients
    assert (preconditioner.spectrum.diff() <= 1e-7).all()
    again = module.measure_preconditioner(fresh)
    assert again.digest == preconditioner.digest
    assert preconditioner_of(fresh) is preconditioner


def test_preconditioner_is_measured_in_parts_if_memory_is_short(toy, monkeypatch):
    monkeypatch.setattr(module, "SAMPLES", 32)
    whole, usual, sizes = module.measure_preconditioner(toy), module.Batch, []

    def small(lm, rows):
        sizes.append(len(rows))
        if len(rows) > 8:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")
        return usual(lm, rows)

    monkeypatch.setattr(module, "Batch", small)
    torch.testing.assert_close(module.measure_preconditioner(toy).spectrum, whole.spectrum, rtol=1e-4, atol=1e-7)
    assert sizes[:3] == [32, 16, 8]
    assert sizes.count(8) == 4


def test_preconditioner_is_cached_on_disk_for_models_with_files(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAMPLES", 32)
    monkeypatch.setenv("MEMLAB_CACHE", str(tmp_path / "cache"))
    model, tokenizer = toys.toy("llama")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    lm = load(str(tmp_path / "model"))
    digest = preconditioner_of(lm).digest
    (file,) = (tmp_path / "cache" / "metrics").iterdir()
    assert file.name == f"{lm.fingerprint}.safetensors"
    monkeypatch.setattr(module, "measure_preconditioner", lambda *_, **__: pytest.fail("measured twice"))
    module._known.clear()
    assert preconditioner_of(lm).digest == digest
    file.write_bytes(b"damaged")
    monkeypatch.undo()
    monkeypatch.setattr(module, "SAMPLES", 32)
    monkeypatch.setenv("MEMLAB_CACHE", str(tmp_path / "cache"))
    module._known.clear()
    assert preconditioner_of(lm).digest == digest
    assert file.stat().st_size > 1000


def test_a_read_only_cache_costs_only_time(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAMPLES", 32)
    monkeypatch.setattr(module, "cache_folder", lambda: tmp_path / "file" / "in the way")
    (tmp_path / "file").write_text("")
    fresh = FrozenLM(*toys.toy("opt"), name="fresh")
    monkeypatch.setattr(FrozenLM, "has_files", property(lambda self: True))
    assert preconditioner_of(fresh).basis.shape == (32, 384)


def test_provenance_names_the_preconditioner(toy):
    (mem,) = cram(toy, random_passages(toy, 1), Recipe.default(k=4), progress=False)
    assert mem.provenance["metric"] == preconditioner_of(toy).digest
    (mem,) = cram(toy, random_passages(toy, 1), Recipe(k=4), progress=False)
    assert "metric" not in mem.provenance
    assert np.isfinite(mem.mem).all()


@pytest.mark.real
def test_a_trained_model_reacts_to_some_directions_far_more_than_to_others(real):
    """The reason for the preconditioner. A toy with random weights reacts nearly equally to all directions."""
    spectrum = preconditioner_of(real).spectrum
    assert float(spectrum[0] / spectrum[300]) > 100
    toy = preconditioner_of(load("toy:llama")).spectrum
    assert float(toy[0] / toy[200]) < 30


@pytest.mark.real
def test_the_shipped_preconditioner_is_that_of_the_default_model(real, monkeypatch, tmp_path):
    """It foretells how fresh gradients spread over its directions, and the bundled vectors were trained with it."""
    monkeypatch.setenv("MEMLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "_known", type(module._known)())
    full = module.measure_preconditioner
    monkeypatch.setattr(module, "measure_preconditioner", lambda *_, **__: pytest.fail("measured"))
    shipped = preconditioner_of(real)
    store = Store.bundled()
    digests = [store.get(key).provenance.get("metric") for key in itertools.islice(store.keys(), 20)]
    assert digests.count(shipped.digest) > 10
    monkeypatch.setattr(module, "SAMPLES", 64)
    monkeypatch.setattr(np.random, "default_rng", lambda seed, make=np.random.default_rng: make(seed + 1))
    fresh = full(real)
    weights = fresh.spectrum[:, None] * (fresh.basis @ shipped.basis.T) ** 2
    found = weights.sum(0)  # how much of the fresh gradients lies along each shipped direction
    parts = [slice(0, 20), slice(20, 100), slice(100, 576)]
    expected = [float(shipped.spectrum[part].sum()) for part in parts]
    # 768 samples fit their own large directions better than fresh ones, so more of these lies in the small ones.
    assert [float(found[part].sum()) for part in parts] == pytest.approx(expected, rel=0.5)
    means = [float(found[part].mean()) for part in parts]
    assert means[0] > 5 * means[1] > 10 * means[2]
    # Control: directions in another order foretell nothing.
    mixed = found[torch.randperm(576, generator=torch.Generator().manual_seed(0))]
    assert float(mixed[:20].sum()) < 0.5 * expected[0]
