import json
import sys
import time
import types

import pandas as pd
import pytest

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
