import bz2
import csv
import gzip
import json
import lzma
import subprocess
import sys
import time
import types

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from typer.testing import CliRunner

from memlab.cli import app
from memlab.texts import (
    SOURCES,
    Source,
    Text,
    TextError,
    classics,
    from_path,
    hugging_face,
    load_texts,
    originals,
    random_words,
    with_unique_ids,
)


def test_originals_are_enough_and_long_and_of_many_kinds():
    texts = originals()
    words = {t.id: len(t.string.split()) for t in texts}
    assert sum(n >= 500 for n in words.values()) >= 32
    assert sum(n >= 2500 for n in words.values()) >= 4
    assert len({t.kind for t in texts}) >= 10
    assert len({t.string[:200] for t in texts}) == len(texts)


def test_originals_do_not_repeat_one_another():
    """No eight words in a row occur in two texts, because the texts should be independent."""
    seen: dict[tuple[str, ...], str] = {}
    for text in originals():
        words = text.string.lower().split()
        for run in {tuple(words[i : i + 8]) for i in range(len(words) - 7)}:
            assert seen.setdefault(run, text.id) == text.id


def test_random_words_are_seeded_and_common():
    a, b = random_words(2, words=50, seed=4), random_words(3, words=50, seed=4)
    assert a == b[:2]
    assert a[0].string != a[1].string
    assert a[0].string != random_words(1, words=50, seed=5)[0].string
    from wordfreq import zipf_frequency

    assert all(w.isalpha() and w.islower() and w.isascii() and zipf_frequency(w, "en") > 1 for w in a[0].string.split())


def test_random_words_are_drawn_from_the_whole_list():
    from memlab.texts.sources import _common_words

    assert len(_common_words()) == 93_628  # counted apart from the code, see arXiv 2502.13063 for the idea
    ranks = {w: i for i, w in enumerate(_common_words())}
    drawn = [ranks[w] for w in random_words(1, words=4000)[0].string.split()]
    thirds = [sum(i // 31210 == t for i in drawn) for t in range(3)]
    assert min(thirds) > 1200  # uniform gives 1,333 each, with a standard deviation of 30


def test_plain_files_and_folders(tmp_path):
    (tmp_path / "b.txt").write_text("\ufeffBeta text.", encoding="utf-8")
    (tmp_path / "a.md").write_text("# Alpha")
    (tmp_path / "skip.png").write_bytes(b"\x89PNG")
    assert [(t.id, t.string) for t in from_path(tmp_path)] == [("a", "# Alpha"), ("b", "Beta text.")]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_tables(tmp_path, ending):
    file = tmp_path / f"t.{ending}"
    frame = pd.DataFrame({"id": ["x", "y"], "text": ["First, with a comma.", "Second."], "n": [1, 2]})
    {"csv": lambda: frame.to_csv(file, index=False), "parquet": lambda: frame.to_parquet(file)}.get(
        ending, lambda: file.write_text("\n".join(json.dumps(r) for r in frame.to_dict("records")))
    )()
    assert [(t.id, t.string) for t in from_path(file)] == [("x", "First, with a comma."), ("y", "Second.")]
    with pytest.raises(TextError, match="no column 'body'"):
        from_path(file, column="body")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.txt", b"", "is empty"),
        ("blank.txt", b" \n\n ", "is empty"),
        ("binary.bin", bytes(range(256)), "not UTF-8"),
        ("nul.txt", b"abc\0def", "NUL"),
        ("bad.jsonl", b'{"text": "a"}\n{oops', "line 2 is not JSON"),
        ("list.jsonl", b"[1, 2]", "line 1"),
        ("none.jsonl", b'{"text": null}', "has no text"),
        ("bad.parquet", b"PAR1 not really", "cannot be read as parquet"),
    ],
)
def test_bad_files_are_named_with_the_reason(tmp_path, name, content, reason):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(TextError, match=reason) as caught:
        from_path(file)
    assert name in str(caught.value)


def test_missing_texts_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("MEMLAB_CLASSICS", raising=False)
    with pytest.raises(TextError, match="no file or folder"):
        from_path(tmp_path / "absent.txt")
    with pytest.raises(TextError, match="There is no text in"):
        from_path(tmp_path)
    with pytest.raises(TextError, match="MEMLAB_CLASSICS"):
        classics()
    with pytest.raises(TextError, match="is empty"):
        Text("x", "  ")
    with pytest.raises(TextError, match="--text"):  # a text where a file's name should be
        from_path("It was a long night. " * 300)
    with pytest.raises(TextError, match="no file or folder ~nobody-of-this-name"):
        from_path("~nobody-of-this-name/a.txt")
    with pytest.raises(TextError, match="at least 1"):
        load_texts("random", count=0)


def test_texts_by_name(tmp_path, monkeypatch):
    file = tmp_path / "c.jsonl"
    file.write_text('{"id": "classic-1", "text": "Call it a day."}')
    monkeypatch.setenv("MEMLAB_CLASSICS", str(file))
    assert load_texts("classics")[0].id == "classic-1"
    assert len(load_texts("originals", count=3)) == 3
    assert len(load_texts("random", count=2)) == 2


def test_an_unknown_source_is_refused_with_the_names_of_the_sources(tmp_path):
    with pytest.raises(TextError, match=r"no file or folder orignals\.") as caught:
        load_texts("orignals")
    assert all(name in str(caught.value) for name in [*SOURCES, "hf:DATASET"])
    with pytest.raises(TextError, match="--text"):
        load_texts("It was a long night. " * 300)


def test_a_source_is_one_function_and_one_line(monkeypatch):
    monkeypatch.setitem(
        SOURCES, "mine", Source(lambda count, seed, words: [Text(f"mine-{i}", "a b") for i in range(9)])
    )
    assert [text.id for text in load_texts("mine", count=2)] == ["mine-0", "mine-1"]


def test_hugging_face_data_sets(monkeypatch):
    """A replacement for the library: its rows are lazy, and only the requested ones are read."""
    calls = []

    def load_dataset(name, *, split, streaming):
        calls.append((name, split, streaming))
        return ({"text": f"Book {i}."} for i in range(10**9))

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert [t.string for t in load_texts("pg19", count=2)] == ["Book 0.", "Book 1."]
    assert calls == [("emozilla/pg19", "validation", True)]
    with pytest.raises(TextError, match=r"no column 'body'\. .* The columns are: text"):
        hugging_face("a/b", column="body")
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=lambda *_, **__: 1 / 0))
    with pytest.raises(TextError, match="could not be read: ZeroDivisionError"):
        load_texts("hf:a/b")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TextError, match=r"memlab\[data\]"):
        load_texts("hf:a/b")


def test_ten_million_characters_are_read_quickly(tmp_path):
    file = tmp_path / "big.txt"
    file.write_text("It rained on the tenth million. " * 320_000)
    began = time.perf_counter()
    (text,) = from_path(file)
    assert len(text.string) > 10_000_000
    assert time.perf_counter() - began < 5


def test_odd_but_valid_tables(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"id": 0, "text": "Line\u2028separator."}\n{"text": "NEL\x85here."}\n', encoding="utf-8"
    )
    assert [(t.id, t.string) for t in from_path(tmp_path / "a.jsonl")] == [
        ("0", "Line\u2028separator."),
        ("a-1", "NEL\x85here."),
    ]
    (tmp_path / "b.csv").write_text("id,text\n7,NA\n")
    assert [(t.id, t.string) for t in from_path(tmp_path / "b.csv")] == [("7", "NA")]


def pairs(texts):
    return [(text.id, text.string) for text in texts]


def test_what_editors_and_systems_leave_in_a_folder_is_not_read(tmp_path):
    (tmp_path / "novel.txt").write_text("The new beginning.")
    (tmp_path / "part two").mkdir()
    (tmp_path / "part two" / "ch.1.md").write_text("The middle.")
    (tmp_path / "old.txt~").write_text("Left by an editor.")
    for left in (
        ".ipynb_checkpoints/novel-checkpoint.txt", ".git/info/description.txt", ".venv/lib/a/LICENSE.md", ".hidden.txt",
        "__MACOSX/novel.txt", "part two/.ipynb_checkpoints/x.csv", "~$table.csv",
        "README.md", "part two/readme.txt", "settings.json",
    ):  # fmt: skip
        (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / left).write_text("Not a text.")
    (tmp_path / "._novel.txt").write_bytes(b"\x00\x05\x16\x07 Mac OS X")
    assert pairs(load_texts(tmp_path)) == [("novel", "The new beginning."), ("ch.1", "The middle.")]
    assert pairs(load_texts(tmp_path / "README.md")) == [("README", "Not a text.")]
    assert pairs(load_texts(tmp_path / ".git" / "info")) == [("description", "Not a text.")]  # its own path was given
    (only := tmp_path / "only").mkdir()
    (only / "README.md").write_text("Not a text.")
    with pytest.raises(TextError, match=r"README files and \.json files are only read if"):
        load_texts(only)


def test_a_folder_is_read_only_as_far_as_needed(tmp_path):
    (tmp_path / "a.txt").write_text("One.")
    (tmp_path / "b.jsonl").write_text('{"text": "Two."}\nbroken')
    assert pairs(from_path(tmp_path, count=2)) == [("a", "One."), ("b-0", "Two.")]
    with pytest.raises(TextError, match="line 2 is not JSON"):
        from_path(tmp_path)


TABLES = {
    "a.csv": b'\xef\xbb\xbfid,text\n1,"First, ""with"" a comma."\n2,Second.\n',
    "semicolon.csv": b'id;text\n1;First, "with" a comma.\n2;Second.\n',
    "crlf.csv": b'"id","text"\r\n"1","First, ""with"" a comma."\r\n\r\n"2","Second."\r\n',
    "spaces.csv": b'id, Text\n1, "First, ""with"" a comma."\n2, Second.\n',
    "blank.csv": b'\n\r\nid,text\n\n1,"First, ""with"" a comma."\n2,Second.',
    "more.csv": b'n,TEXT,ID,\n5,"First, ""with"" a comma.",1,\n6,Second.,2,,,\n',
    "bar.csv": b'id|text\n1|First, "with" a comma.\n2|Second.\n',
    "a.tsv": b'id\ttext\n1\tFirst, "with" a comma.\n2\tSecond.\n',
    "a.ndjson": b'{"id": 1, "text": "First, \\"with\\" a comma."}\n\n{"id": 2.0, "text": "Second."}',
    "bom.jsonl": b'\xef\xbb\xbf{"id": 1, "text": "First, \\"with\\" a comma."}\r\n{"id": "2", "text": "Second."}\r\n',
    "lines.json": b'{"id": 1, "text": "First, \\"with\\" a comma."}\n{"id": 2, "text": "Second."}',
    "list.json": b'[{"id": 1, "text": "First, \\"with\\" a comma."},\n {"id": 2, "text": "Second."}]',
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_as_other_programs_write_them(tmp_path, name):
    (file := tmp_path / name).write_bytes(TABLES[name])
    assert pairs(load_texts(file)) == [("1", 'First, "with" a comma.'), ("2", "Second.")]
    assert pairs(load_texts(str(file), count=1)) == [("1", 'First, "with" a comma.')]
    for ending, module in ((".gz", gzip), (".bz2", bz2), (".xz", lzma), (".zst", zstandard)):
        half = len(TABLES[name]) // 2  # a compressed file may have several parts
        parts = module.compress(TABLES[name][:half]) + module.compress(TABLES[name][half:])
        (packed := tmp_path / f"{name}{ending}").write_bytes(parts)
        assert pairs(from_path(packed)) == pairs(from_path(file))


def test_json_texts_without_names_and_compressed_plain_text(tmp_path):
    (tmp_path / "a.json").write_text('["One.", "Two."]')
    (tmp_path / "a.jsonl").write_text('"One."\n"Two."')
    assert pairs(load_texts(tmp_path / "a.json")) == [("a-0", "One."), ("a-1", "Two.")]
    assert pairs(load_texts(tmp_path / "a.jsonl")) == [("a-0", "One."), ("a-1", "Two.")]
    (tmp_path / "novel.txt.gz").write_bytes(gzip.compress(b"Packed."))
    assert pairs(load_texts(tmp_path / "novel.txt.gz")) == [("novel", "Packed.")]
    for name, content in {"a.html": "<p>Hi</p>", "a.py": "def f(): pass", "a.tex": "\\emph{Hi}"}.items():
        (tmp_path / name).write_text(content)
        assert pairs(load_texts(tmp_path / name)) == [("a", content)]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.pdf", b"%PDF-1.4", r"a \.pdf file.*Save the text"),
        ("a.docx", b"PK", r"a \.docx file"),
        ("a.ipynb", b"{}", r"a \.ipynb file"),
        ("a.json", b'[{"text": "a"', "is not JSON"),
        ("a.json", b'{"data": [{"text": "a"}]}', "no column text or content or body.*columns are: data"),
        ("a.json", b"3", "item 1, is 3"),
        ("a.jsonl", b'{"text": 3}', "line 1: column 'text' holds int"),
        ("a.jsonl", b'{"text": [{"role": "user", "content": "hi"}]}', "a chat or another list"),
        ("a.jsonl", b'{"text": "\xff"}', "line 1 is not JSON"),
        ("a.csv", b"", "has no rows"),
        ("a.csv", b"id,text\n", "has no rows"),
        ("a.csv", b"id,text\n1,Hello, world.\n", "line 2, has 3 values, but the header names 2 columns"),
        ("a.csv", b"\n\nid,text\n1,One\n\ntwo\n", "line 6, has 1 values"),
        ("a.csv", b"\n\n", "has no rows"),
        ("a.csv", b"id,text\n1,One\ntwo\n", "line 3, has 1 values"),
        ("a.csv", b'id,text\n1,"One\n2,Two\n', "Correct the quotes"),
        ("a.csv", b"text,text\nOne,Two\n", "two columns 'text'"),
        ("a.csv", b"id,text\n1,caf\xe9\n", "not UTF-8 text .*0xe9"),
        ("a.csv", b"One text without a header.\nAnother one.\n", "no column text.*--column"),
        ("a.csv.gz", b"not gzip", "cannot be read"),
        ("a.txt.xz", b"not xz", "cannot be read"),
    ],
)  # fmt: skip
def test_bad_tables_and_documents_are_named_with_the_reason(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TextError, match=reason) as caught:
        load_texts(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_text_column_by_its_name(tmp_path):
    (tmp_path / "a.csv").write_text("id;Review\n1;Fine, I think.\n")
    pd.DataFrame({"id": [1], "a.b": ["Fine."], "n": [3]}).to_parquet(tmp_path / "a.parquet")
    assert pairs(load_texts(tmp_path / "a.csv", column="Review")) == [("1", "Fine, I think.")]
    assert pairs(load_texts(tmp_path / "a.parquet", column="a.b")) == [("1", "Fine.")]
    for file in ("a.csv", "a.parquet"):
        with pytest.raises(TextError, match=r"no column 'review'\. .*columns are: id, "):
            load_texts(tmp_path / file, column="review")


def test_a_long_text_in_a_csv_file_and_the_limit_of_the_module(tmp_path):
    limit, long = csv.field_size_limit(), "It rained. " * 30_000
    (tmp_path / "a.csv").write_text(f"text\n{long}\n")
    assert from_path(tmp_path / "a.csv")[0].string == long
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    "ids",
    [
        pd.Series([11, None, 13], dtype="float64"),
        pd.Series([11, None, 13], dtype="Int64"),
        pd.Series([11, None, 13], dtype="object"),
        pd.Series(["11", None, "13"]),
        pd.Series(["11", "", "13"], dtype="category"),
    ],
)
def test_ids_of_a_parquet_file_with_gaps(tmp_path, ids):
    pd.DataFrame({"id": ids, "text": ["one", "two", "three"]}).to_parquet(tmp_path / "a.parquet")
    assert [t.id for t in load_texts(tmp_path / "a.parquet")] == ["11", "a-1", "13"]


def test_an_index_called_id_is_the_id(tmp_path):
    pd.DataFrame({"id": ["x"], "text": ["one"]}).set_index("id").to_parquet(tmp_path / "a.parquet")
    assert [t.id for t in load_texts(tmp_path / "a.parquet")] == ["x"]


def test_texts_with_one_id_can_be_told_apart(tmp_path):
    file = tmp_path / "a.jsonl"
    rows = [("x", "a"), ("x", "b"), ("x-2", "c"), ("x", "d"), (None, "e"), ("a-4", "f")]
    file.write_text("\n".join(json.dumps({"id": i, "text": t}) for i, t in rows))
    ids = [t.id for t in load_texts(file)]
    assert ids == ["x", "x-2", "x-2-2", "x-3", "a-4", "a-4-2"]
    assert all([t.id for t in load_texts(file, count=n)] == ids[:n] for n in range(1, 7))
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ch1.txt").write_text(folder)
    file.unlink()
    assert pairs(load_texts(tmp_path)) == [("ch1", "one"), ("ch1-2", "two")]
    assert len({t.id for t in with_unique_ids([Text("x", "a")] * 20_000)}) == 20_000


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "parquet"])
def test_rows_without_a_text_are_left_out_and_counted(tmp_path, ending):
    frame = pd.DataFrame({"text": ["row"] * 999 + ["", None, " \n"] + ["row"] * 9})
    file = tmp_path / f"c.{ending}"
    {
        "csv": lambda: frame.to_csv(file),
        "jsonl": lambda: frame.to_json(file, orient="records", lines=True),
        "json": lambda: frame.to_json(file, orient="records"),
        "parquet": lambda: frame.to_parquet(file),
    }[ending]()
    place = {"csv": "line 1001", "jsonl": "line 1000", "json": "item 1000", "parquet": "row 1000"}[ending]
    with pytest.warns(UserWarning, match=rf"c\.{ending}: .*: 3 of 1011, the first at {place}\.") as caught:
        texts = load_texts(file)
    assert caught[0].filename == __file__
    assert len(texts) == 1008
    assert texts[999].id == "c-1002"
    assert [t.id for t in load_texts(file, count=5)] == ["c-0", "c-1", "c-2", "c-3", "c-4"]  # and no warning


def test_a_table_with_no_text_at_all(tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n1,\n2, \n")
    with pytest.raises(TextError, match="no text in 2 rows of column 'text'"):
        load_texts(tmp_path / "a.csv")


def test_a_large_parquet_file_is_read_only_as_far_as_needed(tmp_path):
    file = tmp_path / "a.parquet"
    with pq.ParquetWriter(file, pa.schema({"text": pa.string(), "other": pa.string()})) as writer:
        for _ in range(3):
            writer.write_table(pa.table({"text": ["row"] * 1000, "other": ["x" * 50] * 1000}))
    damaged = bytearray(file.read_bytes())
    last = pq.ParquetFile(file).metadata.row_group(2).column(0)
    start = last.dictionary_page_offset
    damaged[start : start + last.total_compressed_size] = b"\xff" * last.total_compressed_size
    file.write_bytes(damaged)
    assert len(load_texts(file, count=5)) == 5
    with pytest.raises(TextError, match="cannot be read"):
        load_texts(file)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Text("a", 3), lambda: Text(3, "a"), lambda: Text("a", None), lambda: Text("a", "b", None),
        lambda: load_texts(None), lambda: load_texts(3), lambda: load_texts(""), lambda: load_texts("  "),
        lambda: load_texts(["a"]), lambda: load_texts(b"a"), lambda: from_path(""), lambda: from_path(None),
        lambda: load_texts("random", count="3"), lambda: load_texts("random", count=1.5),
        lambda: load_texts("random", count=True), lambda: load_texts("random", words=0),
        lambda: random_words(1, seed=0.5),
    ],
)  # fmt: skip
def test_wrong_types_are_text_errors(wrong):
    with pytest.raises(TextError, match=r"Give (a string|one of|the path|a whole number)"):
        wrong()


def test_numbers_of_numpy_and_paths_are_welcome(tmp_path):
    assert load_texts("random", count=np.int64(2), words=np.int32(5), seed=np.uint8(3)) == random_words(
        2, words=5, seed=3
    )
    (tmp_path / "a.txt").write_text("Hi.")
    assert pairs(load_texts(tmp_path / "a.txt")) == [("a", "Hi.")]


def test_data_sets_of_the_real_package(tmp_path):
    """Needs the datasets package, and reads local data sets."""
    pytest.importorskip("datasets")
    for config, split, rows in (
        ("a", "train", ["", " = Title = ", None, "Text."]),
        ("b", "validation", ["Of b."]),
    ):
        (tmp_path / config).mkdir()
        lines = "".join(json.dumps({"id": 7, "text": row}) + "\n" for row in rows)
        (tmp_path / config / f"{split}.jsonl").write_text(lines)
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: a\n  data_files: a/train.jsonl\n- config_name: b\n  data_files:\n"
        "  - split: validation\n    path: b/validation.jsonl\n---\n"
    )
    name = f"hf:{tmp_path}"
    with pytest.raises(TextError, match=r"more than one configuration\. .*They are: a, b\.$"):
        load_texts(name)
    with pytest.raises(TextError, match=r"no configuration 'c'\. .*They are: a, b\.$"):
        load_texts(f"{name}:c")
    with pytest.raises(TextError, match=r"no split 'validation'\. .*:a:SPLIT\. The splits are: train\.$"):
        load_texts(f"{name}:a")
    with pytest.warns(UserWarning, match="2 of 4, the first at row 1"):
        texts = load_texts(f"{name}:a:train")
    stem = f"{tmp_path.name}-a-train"
    assert pairs(texts) == [(f"{stem}-1", " = Title = "), (f"{stem}-3", "Text.")]
    assert texts[0].source == f"{name}:a/train"
    assert [t.string for t in load_texts(f"{name}:b")] == ["Of b."]
    with pytest.raises(TextError, match="columns are: id, text"):
        load_texts(f"{name}:b", column="body")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("hf:a/b", (["a/b"], "validation")),
        ("hf:a/b:c", (["a/b", "c"], "validation")),
        ("hf:a/b:c:d", (["a/b", "c"], "d")),
        ("hf:a/b::d", (["a/b"], "d")),
    ],
)
def test_the_name_of_a_data_set(monkeypatch, name, arguments):
    calls = []

    def load_dataset(*names, split, streaming):
        calls.append((list(names), split))
        return [{"story": "Once."}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert load_texts(name, column="story")[0].string == "Once."
    assert calls == [arguments]
    for wrong in ("hf:", "hf::c", "hf:a:b:c:d"):
        with pytest.raises(TextError, match=r"is not hf:DATASET\[:CONFIG\[:SPLIT\]\]"):
            load_texts(wrong)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"text": [{"role": "user", "content": "hi"}]}], "row 1: column 'text' holds a chat"),
        (({"text": ""} for _ in range(10**12)), "no text in 1200 rows"),
        ([], "has no rows"),
        ([{"n": 3}], "columns are: n"),
    ],
)
def test_data_sets_without_usable_texts(monkeypatch, rows, reason):
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=lambda *_, **__: rows))
    with pytest.raises(TextError, match=reason):
        load_texts("hf:a/b", count=2)


@pytest.fixture
def cli(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMLAB_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(app, [str(a) for a in args])


def test_the_command_line_reads_columns(cli, tmp_path):
    (tmp_path / "a.csv").write_text("id;Review\n1;Fine.\n3;Good.\n")
    (tmp_path / "b.csv").write_text("id;Review\n1;Bad.\n")
    result = cli("cram", "a.csv", "b.csv", "-m", "toy:llama", "--budget", 0, "--json", "--column", "Review")
    assert [row["text_id"] for row in json.loads(result.stdout)] == ["1", "3", "1-2"]
    result = cli("cram", "a.csv", "-m", "toy:llama")
    assert (result.exit_code, "--column). The columns are: id, Review." in result.stderr) == (2, True)
    assert cli("cram", "").exit_code == 2  # and not the texts of the current folder


def test_a_warning_is_one_line_on_the_command_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n{"text": "Fine."}')
    command = [sys.executable, "-m", "memlab.cli", "cram", "a.jsonl", "absent.txt"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.stderr.splitlines() == [
        "memlab: warning: a.jsonl: rows without a text were left out: 1 of 2, the first at line 1.",
        "memlab: error: There is no file or folder absent.txt. Check the path.",
    ]


def test_every_command_that_reads_texts_has_a_column(cli):
    for command in (
        "cram", "predict", "capacity", "bench recovery", "bench horizon", "bench sink", "bench optimizer",
        "bench speed", "bench codecs",
    ):  # fmt: skip
        assert "--column" in cli(*command.split(), "--help").stdout, command
    result = cli("bench", "recovery", "--texts", "absent.csv", "--column", "x")
    assert "no file or folder absent.csv" in result.stderr
