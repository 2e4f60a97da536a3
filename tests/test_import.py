"""``memlab import``: vectors in files of other programs, in the formats that these programs write."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy
import torch
from pyarrow import ipc, parquet
from typer.testing import CliRunner

from memlab import Recipe, Store, StoreError, VectorError, cram, export_peft
from memlab.cli import app
from memlab.decoding.foreign_files import last_stages, read_foreign
from memlab.decoding.imports import checked, imported

TEXT = "Meet me at nine."


@pytest.fixture(scope="module")
def mem(toy):
    """An exact vector that stands at position 0, as those of other programs do."""
    (trained,) = cram(toy, toy.passage(TEXT, 6), Recipe.default(k=2, prefix="none", budget=200), progress=False)
    assert trained.exact
    return trained


def row(mem, toy, **changes):
    """A row as the trainers of arXiv 2607.21231 save it."""
    return {
        "sample_id": 0,
        "text": toy.decode_ids(mem.token_ids),
        "input_ids": mem.token_ids.tolist(),
        "embedding": mem.mem.tolist(),
        "pca_coefficients": None,
        "initialization_embedding": np.zeros_like(mem.mem).tolist(),
        "final_convergence": 1.0,
        "num_input_tokens": mem.n,
        "num_compression_tokens": mem.k,
        "hidden_size": mem.d,
        "dtype": "bf16",
        "model_checkpoint": "toy:llama",
    } | changes


def stage(mem, toy, index, length, **changes):
    """A row of progressive cramming: it has no token ids."""
    text = toy.decode_ids(mem.token_ids[:length])
    more = {"stage_index": index, "stage_seq_len": length, "text": text, "orig_embedding": mem.mem.tolist()}
    full = row(mem, toy, num_input_tokens=length, **more)
    return {name: value for name, value in full.items() if name != "input_ids"} | changes


def saved_data_set(folder, rows):
    """As ``datasets.Dataset.save_to_disk``: an Arrow stream and two JSON files."""
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    with ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text("{}")
    (folder / "dataset_info.json").write_text("{}")
    return folder


def run(*arguments):
    return CliRunner().invoke(app, ["import", *map(str, arguments)])


def rows_of(result):
    assert result.exit_code in (0, 3), result.output
    return json.loads(result.stdout)


# Formats -------------------------------------------------------------------------------------------------------------


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def torch_saved(path, value):
    torch.save(value, path)
    return path


FORMATS = {
    "vectors.npy": lambda path, mem: np.save(path, mem.mem),
    "vectors.npz": lambda path, mem: np.savez(path, anything=mem.mem),
    # compression_embeddings.pt of arXiv 2607.21231: (samples, k, d)
    "compression_embeddings.pt": lambda path, mem: torch.save(torch.tensor(mem.mem)[None], path),
    "named.pt": lambda path, mem: torch.save({"memory": torch.tensor(mem.mem), "step": torch.tensor(3.0)}, path),
    "parameter.pt": lambda path, mem: torch.save(torch.nn.Parameter(torch.tensor(mem.mem)), path),
    "double.npy": lambda path, mem: np.save(path, mem.mem.astype(np.float64)),
    "vectors.safetensors": lambda path, mem: safetensors.numpy.save_file({"prompt_embeddings": mem.mem}, path),
}


@pytest.mark.parametrize("name", FORMATS)
def test_numbers_alone_need_a_model_and_a_text(name, mem, tmp_path):
    FORMATS[name](tmp_path / name, mem)
    (tmp_path / "text.txt").write_text(TEXT)
    options = ("--model", "toy:llama", "--text", tmp_path / "text.txt", "--tokens", 6, "--store", tmp_path / "store")
    (found,) = rows_of(run(tmp_path / name, *options, "--json"))
    assert (found["exact"], found["tokens"], found["k"], found["teacher_forced"]) == (True, 6, 2, 1.0)
    stored = Store(tmp_path / "store").get(found["key"])
    np.testing.assert_array_equal(stored.mem, mem.mem)
    np.testing.assert_array_equal(stored.token_ids, mem.token_ids)
    assert stored.provenance["imported"] == name
    assert len(stored.provenance["file_sha256"]) == 64


def test_bfloat16_and_a_flat_array(mem, tmp_path):
    """As ``embedding_sample_0_stage_500.pt`` of arXiv 2607.21231; ``row["embedding"]`` may be flat there."""
    rounded = torch.tensor(mem.mem).bfloat16()
    (found,) = read_foreign(torch_saved(tmp_path / "stage.pt", rounded))
    np.testing.assert_array_equal(found.mem, rounded.float().numpy())
    flat = npz(tmp_path / "flat.npz", embedding=mem.mem.reshape(-1), num_compression_tokens=2)
    np.testing.assert_array_equal(next(read_foreign(flat)).mem, mem.mem)
    (alone,) = read_foreign(torch_saved(tmp_path / "one.pt", torch.ones(5)))
    assert alone.mem.shape == (1, 5)


def test_ids_instead_of_a_text(mem, tmp_path):
    np.save(tmp_path / "v.npy", np.stack([mem.mem, mem.mem]))
    wrong = [7, *mem.token_ids[1:]]
    (tmp_path / "ids.txt").write_text("\n".join(" ".join(map(str, ids)) for ids in (mem.token_ids, wrong)))
    options = ("-m", "toy:llama", "--ids", tmp_path / "ids.txt", "--store", tmp_path / "store", "--json")
    right, other = rows_of(run(tmp_path / "v.npy", *options))
    assert (right["exact"], other["exact"], other["first_wrong"]) == (True, False, 0)
    assert right["from"].endswith("v.npy, vector 0")


@pytest.mark.parametrize("form", ["folder", "parquet"])
def test_a_data_set_names_its_model_and_its_texts(form, mem, toy, tmp_path):
    rows = [row(mem, toy), stage(mem, toy, 5, 6, sample_id=1)]
    if form == "folder":
        source = saved_data_set(tmp_path / "run" / "compressed_prefixes", rows)
    else:
        source = tmp_path / "baseline-00000-of-00001.parquet"
        parquet.write_table(pa.Table.from_pylist(rows), source)
    found = rows_of(run(source, "--store", tmp_path / "store", "--json"))
    assert [one["exact"] for one in found] == [True, True]
    assert found[0]["from"].endswith("row 0")
    # The same numbers for the same text are the same result.
    assert found[0]["key"] == found[1]["key"]


def test_the_gallery_keeps_padding_behind_the_ids(mem, toy, tmp_path):
    """``build_demo_gallery.py`` of arXiv 2607.21231: ids padded to the longest length, ``n_cram``, ``num_tokens``."""
    gallery = {"input_ids": [*mem.token_ids.tolist(), 0, 0], "embedding": mem.mem.tolist(), "n_cram": 2}
    parquet.write_table(
        pa.Table.from_pylist([gallery | {"num_tokens": mem.n, "model_checkpoint": "toy:llama", "text": "unused"}]),
        tmp_path / "gallery.parquet",
    )
    (found,) = rows_of(run(tmp_path / "gallery.parquet", "--store", tmp_path / "store", "--json"))
    assert (found["tokens"], found["exact"]) == (mem.n, True)


def test_a_converted_run_of_the_2025_paper(mem, toy, tmp_path):
    """``train.py`` of arXiv 2502.13063 saves pickles. The .npz that the documentation makes of one is imported."""
    run_2025 = {
        "best_memory_params": mem.mem,
        "suffix_text": TEXT,
        "max_length": mem.n,
        "args": {"model_name": "toy:llama"},
    }
    (tmp_path / "mem_2_len_6.pkl").write_bytes(pickle.dumps([run_2025]))
    refused = run(tmp_path / "mem_2_len_6.pkl", "--store", tmp_path / "store")
    assert refused.exit_code == 1
    assert "memlab reads no pickle" in refused.stderr
    kept = {name: run_2025[name] for name in ("best_memory_params", "suffix_text", "max_length")}
    np.savez(tmp_path / "run.npz", **kept, model_name="toy:llama")
    (found,) = rows_of(run(tmp_path / "run.npz", "--store", tmp_path / "store", "--json"))
    assert (found["exact"], found["tokens"]) == (True, mem.n)


def test_an_adapter_of_peft(mem, toy, tmp_path):
    adapter = export_peft(mem, tmp_path / "adapter", toy) / "adapter_model.safetensors"
    (found,) = read_foreign(adapter)
    np.testing.assert_array_equal(found.mem, mem.mem)


# What is stored ------------------------------------------------------------------------------------------------------


def imported_from(path, mem, toy, numbers):
    np.save(path, numbers)
    (found,) = read_foreign(path)
    return imported(toy, found, toy.passage_of_ids(mem.token_ids))


def test_the_key_depends_on_the_numbers_and_is_none_that_memlab_trains(mem, toy, tmp_path, store):
    one = imported_from(tmp_path / "a.npy", mem, toy, mem.mem)
    again = imported_from(tmp_path / "b.npy", mem, toy, mem.mem)
    other = imported_from(tmp_path / "c.npy", mem, toy, mem.mem + 1)
    assert one.key == again.key
    assert len({mem.key, one.key, other.key}) == 3
    assert one.is_original
    store.put(checked(toy, one))
    assert store.verify() == {}
    # Zero steps of the same recipe, and a warm start from the imported vector, are other results.
    plain = cram(toy, toy.passage_of_ids(mem.token_ids), one.recipe, store, progress=False)[0]
    assert plain.key != one.key
    assert store.get(one.key).exact
    with pytest.raises(StoreError, match="is not what its key names"):
        store.put(one.perturb(0.1))


def test_a_prefix_belongs_to_the_key_and_to_the_decode(mem, toy, tmp_path):
    (trained,) = cram(toy, toy.passage(TEXT, 6), Recipe.default(k=2, prefix=(1,), budget=200), progress=False)
    np.save(tmp_path / "v.npy", trained.mem)
    (tmp_path / "text.txt").write_text(TEXT)
    options = ("-m", "toy:llama", "--text", tmp_path / "text.txt", "-n", 6, "--store", tmp_path / "store", "--json")
    (with_prefix,) = rows_of(run(tmp_path / "v.npy", *options, "--prefix", "1"))
    (without,) = rows_of(run(tmp_path / "v.npy", *options))
    assert with_prefix["exact"]
    assert with_prefix["key"] != without["key"]
    assert Store(tmp_path / "store").get(with_prefix["key"]).prefix_ids.tolist() == [1]


def test_the_summary_counts_what_decodes_freely(mem, toy, tmp_path):
    """A vector with the first token never trained, as in arXiv 2502.13063: right only if that token is given."""
    recipe = Recipe.default(k=2, prefix="none", budget=300, first_scored=2, stop="teacher_forced")
    trained = cram(toy, toy.passage(TEXT, 6), recipe, progress=False)[0]
    rows = [row(mem, toy), row(trained, toy, sample_id=1)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "both.parquet")
    result = run(tmp_path / "both.parquet", "--store", tmp_path / "store")
    assert result.exit_code == 3
    assert "exact: 1/2 [" in result.stdout
    assert "NOT exact (token 1 is wrong), right with the first token given: yes" in result.stdout
    assert "right with the first token given: 2/2 [" in result.stdout
    assert "right teacher-forced: 1/2 [" in result.stdout
    # A second import repeats no check.
    assert run(tmp_path / "both.parquet", "--store", tmp_path / "store").stdout == result.stdout


def test_portable_checks_are_made_for_a_stored_vector_too(mem, toy, tmp_path):
    parquet.write_table(pa.Table.from_pylist([row(mem, toy)]), tmp_path / "one.parquet")
    options = (tmp_path / "one.parquet", "--store", tmp_path / "store", "--json")
    assert [rows_of(run(*options, *more))[0]["portable"] for more in ((), ("--portable",))] == [False, True]
    assert rows_of(run(*options[:-2], tmp_path / "other", "--json", "--portable"))[0]["portable"]


def test_the_last_stage_of_each_sample(mem, toy, tmp_path):
    rows = [stage(mem, toy, i, length, sample_id=s) for s in (0, 1) for i, length in enumerate((2, 5, 3))]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "stages.parquet")
    found = list(read_foreign(tmp_path / "stages.parquet"))
    assert [one.length for one in found] == [2, 5, 3, 2, 5, 3]
    assert [(one.sample, one.length) for one in last_stages(found)] == [("0", 5), ("1", 5)]
    assert len(rows_of(run(tmp_path / "stages.parquet", "--last-stage", "--store", tmp_path / "s", "--json"))) == 2


# What is refused -----------------------------------------------------------------------------------------------------


BAD = {
    "absent.npy": (lambda path: None, "There is no file"),
    "half.npy": (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00"), "cannot be read without pickle"),
    "objects.npy": (lambda path: np.save(path, np.array([{}], object), allow_pickle=True), "allow_pickle=False"),
    "text.pt": (lambda path: path.write_text("not torch"), "cannot be read without pickle"),
    "pickle.pt": (lambda path: path.write_bytes(pickle.dumps(Recipe())), "cannot be read without pickle"),
    "broken.safetensors": (lambda path: path.write_bytes(b"\xff" * 20), "cannot be read as safetensors"),
    "broken.parquet": (lambda path: path.write_bytes(b"PAR1"), "cannot be read as a data set"),
    "broken.arrow": (lambda path: path.write_bytes(b"nothing"), "cannot be read as a data set"),
    "other.parquet": (
        lambda path: parquet.write_table(pa.table({"x": [1]}), path),
        "has no column of vectors. Name it mem or embedding",
    ),
    "notes.txt": (lambda path: path.write_text("hello"), "does not end like a file of vectors"),
    "runs.pkl": (lambda path: path.write_bytes(pickle.dumps([1])), "memlab reads no pickle"),
    "ints.npy": (lambda path: np.save(path, np.arange(4)), "holds int64; expected floating-point numbers"),
    "deep.npy": (lambda path: np.save(path, np.ones((1, 1, 1, 3))), r"shape \(1, 1, 1, 3\)"),
    "empty.npy": (lambda path: np.save(path, np.ones((0, 3))), r"shape \(0, 3\)"),
    "two.npz": (lambda path: np.savez(path, a=np.ones(3), b=np.ones(3)), "not clear which entry.*a, b"),
    "odd.npz": (lambda path: np.savez(path, mem=np.ones(5), n_cram=2), "5 numbers are not 2 vectors"),
    "ids.npz": (lambda path: np.savez(path, mem=np.ones((2, 1, 3)), token_ids=[1, 2]), "token ids are not a row"),
    "few.npz": (lambda path: np.savez(path, mem=np.ones(3), token_ids=[1, 2], tokens=3), "2 token ids for 3 tokens"),
    "lengths.npz": (lambda path: np.savez(path, mem=np.ones(3), tokens=[1, 2]), "entry tokens has 2 values"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_clear_error(name, tmp_path):
    make, message = BAD[name]
    make(tmp_path / name)
    with pytest.raises(VectorError, match=message) as error:
        list(read_foreign(tmp_path / name))
    assert name in str(error.value)
    result = run(tmp_path / name, "-m", "toy:llama", "--store", tmp_path / "store")
    assert (result.exit_code, result.stderr.count("memlab: error:")) == (1, 1)


def test_a_file_of_memlab_and_an_empty_folder(mem, tmp_path):
    with pytest.raises(VectorError, match="memlab store add"):
        list(read_foreign(mem.save(tmp_path / "mem.safetensors")))
    with pytest.raises(VectorError, match="holds no data set"):
        list(read_foreign(tmp_path))


def test_one_bad_row_does_not_lose_the_others(mem, toy, tmp_path):
    wide = row(mem, toy, embedding=[[1.0, 2.0]], sample_id=1)
    ragged = row(mem, toy, embedding=[[1.0, 2.0], [1.0]], sample_id=2)
    long = stage(mem, toy, 0, 6, sample_id=3, num_input_tokens=9)
    endless = row(mem, toy, embedding=[[float("nan")] * mem.d], sample_id=4)
    foreign = row(mem, toy, input_ids=[10_000], num_input_tokens=1, sample_id=5)
    absent = [row(mem, toy, model_checkpoint="./absent", sample_id=i) for i in (6, 7)]
    rows = [wide, ragged, long, endless, foreign, *absent, row(mem, toy)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    result = run(tmp_path / "rows.parquet", "--store", tmp_path / "store")
    assert result.exit_code == 1
    assert "exact: 1/1" in result.stdout
    errors = result.stderr.splitlines()
    for place, message in (
        ("row 0", "the vector has width 2, but toy:llama needs 384"),
        ("row 1", "floating-point numbers"),
        ("row 2", "the text has 6 tokens for toy:llama, but the file says 9"),
        ("row 3", "not finite"),
        ("row 4", "Give ids from 0 to 95"),
    ):
        assert [line for line in errors if place in line and message in line], (place, errors)
    assert len([line for line in errors if "./absent" in line]) == 1  # not one for each row
    assert len(errors) == 6


def test_what_a_file_lacks_must_be_given(mem, tmp_path):
    np.save(tmp_path / "v.npy", mem.mem)
    (tmp_path / "text.txt").write_text(TEXT)
    store = ("--store", tmp_path / "store")
    assert "does not name its model. Give it with --model" in run(tmp_path / "v.npy", *store).stderr
    no_text = run(tmp_path / "v.npy", "-m", "toy:llama", *store)
    assert "v.npy: the file has no text and no token ids. Give the text (--text)" in no_text.stderr
    three = [option for _ in range(3) for option in ("--text", tmp_path / "text.txt")]
    many = run(tmp_path / "v.npy", "-m", "toy:llama", *three, *store)
    assert (many.exit_code, "3 texts for 1 vectors" in many.stderr) == (2, True)
    (tmp_path / "ids.txt").write_text("one two")
    wrong = run(tmp_path / "v.npy", "-m", "toy:llama", "--ids", tmp_path / "ids.txt", *store)
    assert (wrong.exit_code, "expected token ids" in wrong.stderr) == (2, True)
    both = run(tmp_path / "v.npy", "--text", tmp_path / "text.txt", "--ids", tmp_path / "ids.txt", *store)
    assert (both.exit_code, "not both" in both.stderr) == (2, True)
