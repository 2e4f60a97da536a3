import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from memlab.recipes import Recipe
from memlab.results.checks import PORTABLE, Check
from memlab.results.mem_vector import MemVector, VectorError, read_metadata
from tests.helpers import make_check, make_vector


def test_key_is_the_documented_hash():
    inputs = {
        "weights": "f" * 64, "token_ids": [5, 1, 9], "prefix_ids": [0], "suffix_ids": [], "recipe": '{"k":2}',
    }  # fmt: skip
    canonical = json.dumps(inputs, sort_keys=True, separators=(",", ":")).encode()
    assert make_vector().key == hashlib.sha256(canonical).hexdigest()


def test_key_depends_on_the_inputs_and_nothing_else():
    base = make_vector().key
    assert make_vector(seed=1).key == make_vector(steps=9).key == make_vector(checks=(make_check(),)).key == base
    changes = [
        dict(token_ids=np.array([5, 1])), dict(prefix_ids=np.array([], np.int64)), dict(suffix_ids=np.array([3])),
        dict(fingerprint="e" * 64), dict(recipe=Recipe(k=2, seed=1)), dict(parent="a" * 64),
    ]  # fmt: skip
    assert len({make_vector(**c).key for c in changes} | {base}) == len(changes) + 1


def test_file_round_trip(tmp_path):
    mem = make_vector(
        checks=(make_check(), make_check(given=True, wrong=2)),
        teacher_forced=1.0,
        loss_bits=0.25,
        provenance={"torch": "x"},
    )
    back = MemVector.load(mem.save(tmp_path / "a.safetensors"))
    assert back.mem.tobytes() == mem.mem.tobytes()
    assert back.key == mem.key
    assert (back.checks, back.recipe, back.text, dict(back.provenance)) == (
        mem.checks,
        mem.recipe,
        mem.text,
        mem.provenance,
    )
    assert back.to_bytes() == mem.to_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_arrays_are_frozen_copies():
    mine = np.zeros((2, 6), np.float32)
    mem = make_vector(mem=mine)
    mine[0, 0] = 7
    assert mem.mem[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        mem.mem[0, 0] = 1


def test_exact_needs_all_of_its_settings():
    assert make_vector(checks=(make_check(),)).exact
    for other in (
        make_check("bfloat16"),
        make_check(batch=8),
        make_check(cache=False),
        make_check(given=True),
        make_check(wrong=0),
    ):
        assert not make_vector(checks=(other,)).exact


def test_portable_has_its_documented_settings():
    settings = {("float32", 1, True), ("bfloat16", 1, True), ("float32", 1, False), ("float32", 8, True)}
    assert set(PORTABLE) == {(*how, False) for how in settings}  # never with the first token given


def test_each_vector_is_rounded_by_its_own_scale():
    small_and_large = make_vector(mem=np.array([[1.0, 0.5], [1000.0, 500.0]], np.float32))
    assert (small_and_large.quantise(8).mem[0] != 0).all()


def test_lerp_needs_equal_shapes():
    with pytest.raises(VectorError, match="vectors of one shape"):
        make_vector(mem=np.ones((2, 4), np.float32)).lerp(make_vector(mem=np.ones((1, 4), np.float32)), 0.5)


def test_portable_needs_all_four_checks():
    four = tuple(Check(t, "cpu", b, c, f, 3, 3, None, 1.0) for t, b, c, f in PORTABLE)
    assert make_vector(checks=four).portable
    for i in range(4):
        assert not make_vector(checks=four[:i] + four[i + 1 :]).portable


def test_arithmetic_drops_checks_and_measurements():
    a, b = make_vector(checks=(make_check(),), teacher_forced=1.0), make_vector(seed=1)
    for changed in (a.lerp(b, 0.5), a.perturb(0.1), a.quantise(8)):
        assert not changed.checks
        assert changed.teacher_forced is None
        assert changed.provenance["from"] == a.key
    assert a.lerp(b, 0).mem.tobytes() == a.mem.tobytes()
    assert a.lerp(b, 1).mem.tobytes() == b.mem.tobytes()
    np.testing.assert_allclose(a.lerp(b, 0.25).mem, 0.75 * a.mem + 0.25 * b.mem, rtol=1e-6)
    assert np.linalg.norm(a.perturb(0.5, seed=3).mem - a.mem) == pytest.approx(0.5, rel=1e-5)
    assert not np.array_equal(a.perturb(0.5, seed=3).mem, a.perturb(0.5, seed=4).mem)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantise_rounds_to_a_grid(bits):
    a = make_vector(k=3, d=500)
    q = a.quantise(bits)
    step = np.abs(a.mem).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
    assert np.abs(q.mem - a.mem).max() <= step.max() / 2 * 1.001
    assert all(len(np.unique(row)) <= 2**bits - 1 for row in q.mem)
    with pytest.raises(VectorError, match="2 to 16"):
        a.quantise(1)


def test_cast_agrees_with_numpy_and_torch():
    import torch

    a = make_vector(k=2, d=500)
    np.testing.assert_array_equal(a.cast("float16").mem, a.mem.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(a.cast("bfloat16").mem, torch.tensor(a.mem).bfloat16().float().numpy())
    with pytest.raises(VectorError, match="expected float16 or bfloat16"):
        a.cast("float8")
    with pytest.raises(VectorError, match="65504"):
        a.with_mem(a.mem * 1e6, "larger").cast("float16")


def test_prune_keeps_the_largest():
    a = make_vector(k=3, d=500)
    for kept in (1, 0.5, 0.001):
        left = a.prune(kept).mem
        count = max(1, round(kept * 500))
        assert (left != 0).sum(1).tolist() == [count] * 3
        assert (left[left != 0] == a.mem[left != 0]).all()
        dropped = np.where(left == 0, np.abs(a.mem), 0).max(1)
        assert (dropped <= np.where(left != 0, np.abs(left), np.inf).min(1)).all()
    with pytest.raises(VectorError, match="above 0"):
        a.prune(0)


def test_dropout_zeroes_the_given_share():
    a = make_vector(k=2, d=500)
    gone = a.dropout(0.1, seed=3)
    assert (gone.mem == 0).sum() == 100
    assert (gone.mem[gone.mem != 0] == a.mem[gone.mem != 0]).all()
    assert not np.array_equal(gone.mem, a.dropout(0.1, seed=4).mem)
    np.testing.assert_array_equal(a.dropout(0).mem, a.mem)
    with pytest.raises(VectorError, match="0 to 1"):
        a.dropout(2)


def test_redaction_removes_the_text_and_keeps_the_key(tmp_path):
    mem = make_vector(checks=(make_check(),))
    red = MemVector.load(mem.redacted().save(tmp_path / "r.safetensors"))
    assert red.key == mem.key
    assert (red.n, len(red.token_ids), red.text) == (3, 0, mem.text)
    assert red.matches([5, 1, 9])
    assert not red.matches([5, 1, 8])
    assert "token_ids" not in (tmp_path / "r.safetensors").read_bytes()[:200].decode("latin1")


def test_every_flipped_bit_is_detected(tmp_path):
    file = make_vector(checks=(make_check(),)).save(tmp_path / "a.safetensors")
    sound = file.read_bytes()
    rng = np.random.default_rng(0)
    for at in [0, 8, len(sound) - 1, *rng.integers(0, len(sound), 150)]:
        damaged = bytearray(sound)
        damaged[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        try:
            loaded = MemVector.load(file)
        except VectorError as error:
            assert str(file) in str(error)  # noqa: PT017 (some flips are harmless, see below)
        else:  # the bit was in the padding of the header or in the spaces of its JSON
            assert loaded.to_bytes() == sound


@pytest.mark.parametrize("length", [0, 3, 8, 100, -1, -7])
def test_truncated_files_are_refused(tmp_path, length):
    file = make_vector().save(tmp_path / "a.safetensors")
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(VectorError, match="damaged"):
        MemVector.load(file)


def test_foreign_files_are_refused(tmp_path):
    plain = tmp_path / "plain.safetensors"
    save_file({"mem": np.zeros((1, 2), np.float32)}, plain)
    with pytest.raises(VectorError, match="memlab did not write it"):
        MemVector.load(plain)
    for meta, reason in [("not json", "not the JSON"), ("[1]", "not the JSON"), ('{"schema": 99}', "schema 99")]:
        save_file({"mem": np.zeros((1, 2), np.float32)}, plain, {"memlab": meta})
        with pytest.raises(VectorError, match=reason):
            MemVector.load(plain)
    (tmp_path / "p").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(VectorError, match="not a safetensors file"):
        MemVector.load(tmp_path / "p")
    with pytest.raises(VectorError, match="There is no file"):
        MemVector.load(tmp_path / "absent")


def test_metadata_is_json(tmp_path):
    meta = read_metadata(make_vector(checks=(make_check(),)).save(tmp_path / "a.safetensors"))
    assert meta["exact"] is True
    assert meta["schema"] == 2
    assert [check["proof"] for check in meta["checks"]] == ["decode"]


@pytest.mark.parametrize("shape", [(0, 4), (4,), (1, 2, 3)])
def test_shapes_are_checked(shape):
    with pytest.raises(VectorError, match=r"expected \(k, d\)"):
        make_vector(mem=np.zeros(shape, np.float32))


def test_numbers_must_be_finite():
    with pytest.raises(VectorError, match="not finite"):
        make_vector(mem=np.full((1, 3), np.nan, np.float32))


def test_restored_undoes_redacted():
    mem = make_vector(checks=(make_check(),))
    assert mem.redacted().restored([5, 1, 9]).to_bytes() == mem.to_bytes()
    with pytest.raises(VectorError, match="are not the 3"):
        mem.redacted().restored([5, 1, 8])


def test_a_derived_vector_has_another_lineage_id():
    mem = make_vector()
    assert mem.lineage_id == mem.key
    assert len({mem.lineage_id, mem.perturb(1.0).lineage_id, mem.perturb(2.0).lineage_id}) == 3
    assert mem.perturb(1.0).key == mem.key
