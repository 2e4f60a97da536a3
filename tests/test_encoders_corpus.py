"""The training text of encoders: nothing of an evaluation is in it, and how windows are drawn."""

import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from memlab.cli import app
from memlab.models.sources import cache_folder
from memlab.texts import Text
from memlab.training.encoders import EncoderError, Settings, corpus
from memlab.training.encoders.choosing import Pool, chosen, closeness, draws_of
from memlab.training.encoders.corpus import Corpus, CorpusError, Package, grams, load_corpus, without
from memlab.training.encoders.losses import bits_without, window_bits
from memlab.training.encoders.windows import Windows

SPEECHES = {
    f"package/data/{1790 + i}_somebody_n.txt": f"Speech {i}. " + "We met the ferry at dawn and paid the toll. " * 30
    for i in range(60)
}


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """A folder with one archive of sixty speeches, in place of the packages of npm."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as opened:
        for name, string in [*SPEECHES.items(), ("package/data/1790_somebody_n.json", "{}")]:
            member = tarfile.TarInfo(name)
            member.size = len(string.encode())
            opened.addfile(member, io.BytesIO(string.encode()))
    package = Package(
        "@here/speeches", "1.0.0", hashlib.sha256(data.getvalue()).hexdigest(), r"package/data/\d{4}_\w+\.txt"
    )
    (tmp_path / package.file_name).write_bytes(data.getvalue())
    monkeypatch.setattr(corpus, "PACKAGES", (package,))
    return tmp_path


def shared_grams(text: Corpus, texts):
    held = grams(t.string for t in texts)
    return held & grams(piece for document in text.documents for piece in document.pieces)


def test_no_run_of_eight_words_of_an_evaluation_is_left(archives):
    quoted = Text("quoted", "He wrote: met the ferry at dawn AND paid, the toll! Then he slept.", "typed")
    kept = load_corpus(archives, {})
    assert shared_grams(kept, [quoted]), "the control: it was there"
    cut = load_corpus(archives, {"typed": [quoted]})
    assert not shared_grams(cut, [quoted])
    assert cut.held_out == ("typed",)
    assert cut.sha256 != kept.sha256


def test_what_is_not_forbidden_stays():
    string = "a b c d e f g h i j k l m n o p q r s t"
    forbidden = grams(["x x d e f g h i j k x"])
    pieces = without(string, forbidden)
    assert pieces == ("a b c ", " l m n o p q r s t")
    assert without(string, grams(["nothing of this is in it at all"])) == (string,)
    assert without("d e f g h i j k", forbidden) == ()


@pytest.mark.skipif(not (cache_folder() / "corpus").is_dir(), reason="no corpus: run make corpus")
@pytest.mark.slow
def test_the_real_corpus_has_nothing_of_the_evaluations():
    text = load_corpus()
    texts = [t for some in corpus.evaluation_texts().values() for t in some]
    assert len(texts) > 60
    assert not shared_grams(text, texts)
    assert sum(len(piece) for piece in text.pieces("train")) > 9e6


def test_documents_are_split_as_a_whole(archives):
    text = load_corpus(archives, {})
    parts = {part: {d.name for d in text.documents if d.part == part} for part in corpus.PARTS}
    assert sum(map(len, parts.values())) == len(SPEECHES)
    assert len(parts["train"]) > 45
    for part in corpus.PARTS:
        assert len(text.pieces(part)) == len(parts[part])
    with pytest.raises(CorpusError, match="no part"):
        text.pieces("all")


def test_archives_that_are_missing_or_changed_are_refused(archives):
    file = next(archives.glob("*.tgz"))
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(CorpusError, match="hash"):
        load_corpus(archives, {})
    file.unlink()
    with pytest.raises(CorpusError, match="make corpus"):
        load_corpus(archives, {})


def test_windows_begin_with_words_and_have_n_tokens(toy):
    pieces = [f"The {word} is here. It waits for nobody, and nobody waits. " * 20 for word in ("ferry", "toll")]
    windows = Windows(toy, pieces, longest=16)
    ids = windows.draw(np.random.default_rng(0), 12, 40)
    assert ids.shape == (40, 12)
    strings = [toy.decode_ids(row) for row in ids]
    assert all(not string[0].isspace() for string in strings)
    assert sum(string.startswith(("The", "It ")) for string in strings) >= 20
    assert len(set(strings)) > 10
    again = windows.draw(np.random.default_rng(0), 12, 40)
    assert np.array_equal(ids, again)
    with pytest.raises(CorpusError, match="1 to 16"):
        windows.draw(np.random.default_rng(0), 17, 1)
    with pytest.raises(CorpusError, match="longer texts"):
        Windows(toy, ["too short"], longest=16)


# Training passages chosen by a score


def test_the_score_finds_what_is_ordinary():
    """On a mix of a tenth near the median and the rest far from it, the best tenth is what is near."""
    random = np.random.default_rng(0)
    near = random.random(5000) < 0.1
    bits = np.where(near, random.normal(5, 0.3, 5000), random.normal(11, 1, 5000))
    scores = closeness(bits, 5.0)
    assert roc_auc_score(near, scores) > 0.95
    assert near[chosen(scores, 0.1, "best")].mean() > 0.9
    assert near[chosen(scores, 0.1, "worst")].mean() < 0.01
    assert abs(roc_auc_score(near, random.permutation(scores)) - 0.5) < 0.05, "the control"


def test_all_of_the_share_is_all():
    assert chosen(np.array([3.0, 1.0, 2.0]), 1.0, "best").tolist() == [0, 1, 2]
    assert chosen(np.arange(90.0), 1 / 9, "random").size == 10
    for share, choice in ((0.0, "best"), (2.0, "best"), (0.5, "nice")):
        with pytest.raises(EncoderError):
            chosen(np.arange(4.0), share, choice)


def test_window_bits_are_the_models(toy, monkeypatch):
    ids = np.random.default_rng(0).integers(0, toy.vocabulary, (5, 9))
    assert not toy.sink_prefix
    expected = (bits_without(toy, ids) - np.log2(toy.vocabulary)) / 8
    assert np.allclose(window_bits(toy, ids, rows=2), expected, atol=1e-4)


def test_draws_of_a_share_are_a_pool(toy, archives, monkeypatch):
    from memlab.training.encoders import choosing

    monkeypatch.setattr(choosing, "POOL", 36)
    text = load_corpus(archives, {})
    monkeypatch.setattr(choosing, "load_texts", lambda name: [Text("a", "We met at dawn. " * 20, "typed")] * 14)
    pool = draws_of(toy, text, Settings(longest=64, chosen=1 / 9), lambda line: None)
    assert isinstance(pool, Pool)
    assert len(pool.windows) == 4
    assert pool.draw(np.random.default_rng(0), 8, 5).shape == (5, 8)
    assert isinstance(draws_of(toy, text, Settings(longest=64), lambda line: None), Windows)


# The command line


def test_commands_train_and_list(archives, tmp_path, monkeypatch):
    monkeypatch.setenv("MEMLAB_CACHE", str(tmp_path / "cache"))
    change = {"width": 24, "heads": 2, "reading_heads": 2, "longest": 16, "most": 4, "batch_tokens": 64}
    change["curriculum"] = [{"until": 1.0, "tasks": [[4, 1]]}]
    command = ["encoder", "train", "slots", "--model", "toy:llama", "--corpus", str(archives), "--tokens", "256"]
    run = CliRunner().invoke(app, [*command, "--change", json.dumps(change)])
    assert run.exit_code == 0, run.output
    file = next((tmp_path / "cache" / "encoders").glob("slots-*.safetensors"))
    assert str(file) in run.output
    listed = CliRunner().invoke(app, ["encoder", "ls", "--json"])
    rows = json.loads(listed.output)
    assert {"slots", "constant", "bridge"} <= {row["name"] for row in rows}
    assert [row["what"] for row in rows if row["file"] == str(file)] == ["256 tokens in 0 min"]
    for wrong in (["--change", "{"], ["--change", '{"colour": 1}'], ["--minutes", "1"]):
        assert CliRunner().invoke(app, [*command, *wrong]).exit_code == 2
