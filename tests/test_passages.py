"""Passages of every kind of tokenizer and of every language."""

import contextlib
import hashlib
import json
import string
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memlab import Recipe, cram, load
from memlab.models import FrozenLM, PassageError, toys
from memlab.models.passages import Cutter
from memlab.models.sentences import next_sentence, sentence_starts
from memlab.texts import Text, TextError, originals

PINNED = json.loads((Path(__file__).parent / "data" / "sentence_starts.json").read_text())
PINNED_AT = (0, 1, 100, 250, 500, 1000, 1500, 2000, 2500, 3000, 5000, 10000)
WORDS = ["the", "gate", "is", "open", "and", "he", "said", "no", "a", "bad", "cab", "fed", "hen"]


# Tokenizers -----------------------------------------------------------------------------------------------------------


def _trained(model, trainer, *, pre=None, decoder=None, normalizer=None, **settings):
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(model)
    for name, part in [("pre_tokenizer", pre), ("decoder", decoder), ("normalizer", normalizer)]:
        if part is not None:
            setattr(tokenizer, name, part)
    tokenizer.train_from_iterator([t.string for t in originals()[:8]], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


def byte_level(prefix_space=False):
    from tokenizers import decoders, models, pre_tokenizers, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    pre = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    return _trained(models.BPE(), trainer, pre=pre, decoder=decoders.ByteLevel())


def byte_fallback():
    """As Llama 2: SentencePiece's spaces, and bytes for unknown characters."""
    from tokenizers import decoders, models, normalizers, trainers

    special = ["<unk>", *(f"<0x{i:02X}>" for i in range(256))]
    return _trained(
        models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True),
        trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False),
        normalizer=normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]),
        decoder=decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        ),
    )


def unigram():
    from tokenizers import decoders, models, pre_tokenizers, trainers

    return _trained(
        models.Unigram(),
        trainers.UnigramTrainer(vocab_size=400, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False),
        pre=pre_tokenizers.Metaspace(),
        decoder=decoders.Metaspace(),
        unk_token="<unk>",
    )


def word_piece():
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    return _trained(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[UNK]"], show_progress=False),
        pre=pre_tokenizers.BertPreTokenizer(),
        normalizer=normalizers.BertNormalizer(),
        decoder=decoders.WordPiece(),
        unk_token="[UNK]",
    )


def drops_unknown():
    """A BPE without a token for unknown characters leaves them out."""
    from tokenizers import decoders, models, pre_tokenizers, trainers

    return _trained(
        models.BPE(),
        trainers.BpeTrainer(vocab_size=200, show_progress=False),
        pre=pre_tokenizers.Split("", "isolated"),
        decoder=decoders.Fuse(),
    )


def ctrl(folder, merges="t h\n"):
    import transformers

    pieces = [c + end for c in [*string.ascii_lowercase, *"TN.,:", "th", "he"] for end in ("", "@@")]
    vocabulary = {piece: i for i, piece in enumerate(["<unk>", *pieces])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges)
    return transformers.CTRLTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


def prophetnet(folder):
    import transformers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[X_SEP]"]
    (folder / "prophetnet.tokenizer").write_text("\n".join([*special, *WORDS, *".,:"]) + "\n")
    return transformers.ProphetNetTokenizer(str(folder / "prophetnet.tokenizer"))


def sentence_piece(folder):
    import sentencepiece
    import transformers

    (folder / "texts.txt").write_text("\n".join(t.string for t in originals()[:4]))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "texts.txt"),
        model_prefix=str(folder / "spiece"),
        vocab_size=500,
        model_type="bpe",
        byte_fallback=True,
        pad_id=3,
        add_dummy_prefix=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return transformers.GPTSw3Tokenizer(vocab_file=str(folder / "spiece.model"), name_or_path="gpt-sw3")


def _transformers(name):
    import transformers

    return getattr(transformers, name)()


TOKENIZERS = {
    "toy": lambda folder: toys.toy("llama")[1],
    "byte level": lambda folder: byte_level(),
    "byte level with a space before": lambda folder: byte_level(prefix_space=True),
    "byte fallback": lambda folder: byte_fallback(),
    "unigram": lambda folder: unigram(),
    "word piece": lambda folder: word_piece(),
    "drops unknown characters": lambda folder: drops_unknown(),
    "ctrl": ctrl,
    "prophetnet": prophetnet,
    "sentence piece in python": sentence_piece,
    "byt5": lambda folder: _transformers("ByT5Tokenizer"),
    "canine": lambda folder: _transformers("CanineTokenizer"),
}
LOSSLESS = {"byte level", "byte fallback", "byt5", "canine"}


def cutter(tokenizer, name="m", context=4096):
    return Cutter(tokenizer, name, 2_000_000, context)


@pytest.fixture(scope="module", params=TOKENIZERS)
def any_cutter(request, tmp_path_factory):
    return request.param, cutter(TOKENIZERS[request.param](tmp_path_factory.mktemp("tokenizer")))


SAMPLES = [
    "a bad cab fed the hen",
    "The gate is open, and he said: no.",
    "    if x:\n\treturn y\n",
    "\n\n  The gate is open",
    "the  gate \n",
    "the cafe\u0301 is open",
    "Gr\u00f6\u00dfe: \u6771\u4eac\U0001f375 na\u00efve",
]


@pytest.mark.parametrize("tokens", [None, 1, 2, 3, 5])
def test_a_passage_is_the_text_that_was_given_or_is_refused(any_cutter, tokens):
    name, cut = any_cutter
    for sample in SAMPLES:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                p = cut.cut(Text("t", sample), tokens, 0)
            except PassageError:
                assert name not in LOSSLESS or tokens in (1, 2, 3)  # of a character with more bytes
                continue
        assert cut.decode(p.ids) == p.string == sample[p.span.start : p.span.end] != ""
        assert tokens is None or tokens - 7 <= len(p) <= tokens
        given = sample if tokens is None else sample[: p.span.end]
        if p.string != given:
            assert name not in LOSSLESS
            assert "drops white space at the edges" in str(warned[0].message)
            assert p.string == given.strip()


def test_tokenizers_in_python_write_their_text(tmp_path):
    """They have no offsets."""
    p = cutter(ctrl(tmp_path)).cut(Text("t", "a bad cab fed the hen"), None, 0)
    assert p.string == "a bad cab fed the hen"
    assert len(p) == 15
    # The fifth and sixth token are in a word, and write 'c@@' and 'ca@@'.
    assert [cutter(ctrl(tmp_path)).cut(Text("t", "a bad cab"), n, 0).string for n in (4, 5, 6, 7)] == [
        "a bad",
        "a bad",
        "a bad",
        "a bad cab",
    ]
    model, _ = toys.toy("llama")
    lm = FrozenLM.from_model(model, ctrl(tmp_path))
    passage = lm.passage("No hen.")
    (mem,) = cram(lm, [passage], Recipe.default(budget=60), progress=False)
    assert lm.decode_ids(mem.token_ids) == "No hen."
    assert mem.exact


def test_half_a_character_is_left_out():
    """ByT5 writes nothing for half a character, so that the ids write a part of the text."""
    cut = cutter(_transformers("ByT5Tokenizer"))
    assert [cut.cut(Text("t", "a\u6771b"), n, 0).ids.tolist() for n in (1, 2, 3)] == [[100]] * 3
    with pytest.raises(PassageError, match=r"ends inside character 0 of text 't', '\u6771'\. Give more"):
        cut.cut(Text("t", "\u6771b"), 2, 0)


def test_only_the_white_space_that_a_tokenizer_drops_is_left_out():
    from tokenizers import normalizers

    for left, right, expected in [(True, False, "a  "), (False, True, "  a"), (True, True, "a")]:
        tokenizer = byte_level()
        tokenizer.backend_tokenizer.normalizer = normalizers.Strip(left=left, right=right)
        with pytest.warns(UserWarning, match="drops white space at the edges of text 't'. The passage goes from"):
            p = cutter(tokenizer).cut(Text("t", "  a  "), None, 0)
        assert p.string == expected == "  a  "[p.span.start : p.span.end]


def test_characters_are_never_left_out():
    cut = cutter(drops_unknown())
    assert len(cut.decode(cut.encode("no\u6771")["input_ids"])) == 2
    for sample in ("no\u6771", "\u6771no", "n\u6771o"):
        with pytest.raises(PassageError, match="U\\+6771"):
            cut.cut(Text("t", sample), None, 0)
    assert cut.cut(Text("t", "no\u6771"), 2, 0).string == "no"


# The hash -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [False, True])
def test_truncation_and_padding_do_not_matter(padding, tmp_path):
    model, tokenizer = toys.toy("llama")
    plain = FrozenLM.from_model(model, toys.toy("llama")[1])
    tokenizer.backend_tokenizer.enable_truncation(max_length=8)
    if padding:
        tokenizer.backend_tokenizer.enable_padding(length=16)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert '"truncation": null' not in (tmp_path / "tokenizer.json").read_text()
    one, other = load(str(tmp_path)), load(str(tmp_path), dtype="float32")
    assert one is not other
    text = "Hello you over there."
    passage = other.passage(text)
    assert passage.string == text
    assert len(passage) == len(text)
    assert passage.tokenizer_hash == one.tokenizer_hash
    if not padding:  # transformers adds a token for padding
        assert passage.tokenizer_hash == plain.tokenizer_hash
    # The hash of a tokenizer without such a state stands in stored files.
    serialized = plain.tokenizer.backend_tokenizer.to_str()
    assert plain.tokenizer_hash == hashlib.sha256(serialized.encode()).hexdigest()
    (mem,) = cram(one, [passage], Recipe.default(budget=1), progress=False)
    assert mem.provenance["tokenizer_sha256"] == passage.tokenizer_hash


def test_the_callers_tokenizer_is_not_changed():
    model, tokenizer = toys.toy("llama")
    tokenizer.backend_tokenizer.enable_truncation(max_length=8)
    before = tokenizer.backend_tokenizer.to_str()
    lm = FrozenLM.from_model(model, tokenizer)
    assert len(lm.passage("Hello you over there.")) == 21
    assert tokenizer.backend_tokenizer.to_str() == before
    # What a caller sets later does not matter either.
    other = FrozenLM.from_model(model, toys.toy("llama")[1])
    other.tokenizer.backend_tokenizer.enable_truncation(max_length=4)
    assert other.tokenizer_hash == lm.tokenizer_hash
    assert len(other.passage("Hello you over there.")) == 21


def test_dropout_of_a_tokenizer_is_switched_off():
    tokenizer = byte_level()
    plain = cutter(tokenizer)
    random = byte_level()
    random.backend_tokenizer.model.dropout = 0.9
    cut = cutter(random)
    text = originals()[0]
    assert {cut.cut(text, 40, 0).ids.tobytes() for _ in range(5)} == {plain.cut(text, 40, 0).ids.tobytes()}
    assert cut.tokenizer_hash == plain.tokenizer_hash
    assert random.backend_tokenizer.model.dropout == pytest.approx(0.9)


def test_hashes_cover_the_merges_of_tokenizers_in_python(tmp_path):
    hashes = []
    for number, merges in enumerate(["t h\n", "t h\n", "h e\n"]):
        (tmp_path / str(number)).mkdir()
        tokenizer = ctrl(tmp_path / str(number), merges)
        before = cutter(tokenizer).tokenizer_hash
        cutter(tokenizer).cut(Text("t", "the hen"), None, 0)
        assert cutter(tokenizer).tokenizer_hash == before
        hashes.append(before)
    assert hashes[0] == hashes[1] != hashes[2]


def test_calls_do_not_change_a_hash(any_cutter):
    name, cut = any_cutter
    if name != "canine":  # its vocabulary is a million characters
        for sample in SAMPLES:
            with contextlib.suppress(PassageError), warnings.catch_warnings(action="ignore"):
                cut.cut(Text("t", sample), 4, 0)
        assert cutter(cut.tokenizer).tokenizer_hash == cut.tokenizer_hash
    assert len(cut.tokenizer_hash) == 64


# Refusals -------------------------------------------------------------------------------------------------------------


def nfc():
    from tokenizers import normalizers

    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def test_a_refusal_shows_where_the_texts_differ():
    text = "A long and quite ordinary sentence about the harbour, and then one cafe\u0301."
    with pytest.raises(PassageError) as error:
        cutter(nfc(), "qwen").cut(Text("t", text), None, 0)
    message = str(error.value)
    assert "Character 70 is 'e' (U+0065), but its tokens write '\u00e9' (U+00E9)" in message
    assert "'nd then one cafe\u0301.' becomes 'nd then one caf\u00e9.'" in message
    assert "It normalizes text to NFC" in message
    advice = 'unicodedata.normalize("NFC", text)'
    assert f"Give {advice}" in message
    given = eval(advice, {"unicodedata": unicodedata, "text": text})
    assert cutter(nfc()).cut(Text("t", given), None, 0).string == given
    # The passage before the difference is fine.
    assert text.startswith(cutter(nfc()).cut(Text("t", text), 20, 0).string)


@pytest.mark.parametrize(
    ("make", "text", "does", "advice"),
    [
        (word_piece, "the gate OPEN", "writes lower case", "text.lower()"),
        (word_piece, "the  gate", "merges white space", '" ".join(text.split())'),
        (lambda: byte_level(prefix_space=True), "the gate", "puts a space before", '" " + text'),
    ],
)
def test_the_advice_of_a_refusal_works(make, text, does, advice):
    cut = cutter(make())
    with pytest.raises(PassageError, match=does) as error:
        cut.cut(Text("t", text), None, 0)
    assert f"Give {advice} in place of the text" in str(error.value)
    given = eval(advice, {"text": text})
    assert cut.cut(Text("t", given), None, 0).string == given


def test_refusals_name_unknown_characters_and_other_changes():
    with pytest.raises(PassageError, match=r"Character 3 is '\u6771' \(U\+6771\).*does not know"):
        cutter(unigram()).cut(Text("t", "no \u6771"), None, 0)
    from tokenizers import normalizers

    model, tokenizer = toys.toy("llama")
    parts = [normalizers.NFC(), normalizers.Replace("\u00e9", "e")]
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(parts)
    with pytest.raises(PassageError, match=r"U\+0301.*not in NFC there. Try unicodedata.normalize\(\"NFC\", text\)"):
        FrozenLM.from_model(model, tokenizer).passage("one cafe\u0301.")


def test_numbers_of_tokens_and_starts_may_be_numpys(toy):
    text = "One thing. Another thing here. And a third thing, at last."
    expected = toy.passage(text, 5, start=11)
    for five, eleven in [
        (np.int64(5), np.int32(11)),
        (np.uint8(5), pd.Series([11])[0]),
        (np.array(5), np.array(11)),
    ]:
        p = toy.passage(text, five, start=eleven)
        assert p.ids.tolist() == expected.ids.tolist()
        assert p.span == expected.span
        assert type(p.span.start) is type(p.span.end) is int
    for wrong in (5.0, np.float32(5), True, np.True_, "5", b"5", [5], np.array([5, 6]), pd.NA, float("nan")):
        with pytest.raises(PassageError, match=r"tokens=.* is not valid"):
            toy.passage(text, wrong)
    for wrong in (5.0, np.float64(0), False, np.False_, "middle", b"paper", [5], np.array([0, 1]), None, pd.NA):
        with pytest.raises(PassageError, match=r"start=.* is not valid"):
            toy.passage(text, 5, start=wrong)
    for wrong in (None, 5, b"text", ["a"], Path("a")):
        with pytest.raises((PassageError, TextError)):
            toy.passage(wrong)


def test_token_ids_are_integers(toy):
    assert toy.passage_of_ids(np.array([1, 2], np.uint8)).ids.dtype == np.int64
    for wrong in ([1.5], [True], "ab", ["a"], [2**70], [[1], [2, 3]], [[1, 2]], [], 5, None, [None]):
        with pytest.raises(PassageError):
            toy.passage_of_ids(wrong)


# Where a passage begins and ends --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["    if x:\n        return y\n", "\n\n  The first line\nof a poem", " a", "a ", "\ta\n\n"]
)
def test_white_space_at_the_edges_belongs_to_a_text(toy, text):
    cut = cutter(byte_level())
    passage = cut.cut(Text("t", text), None, 0)
    assert passage.string == text == cut.decode(passage.ids)
    assert (passage.span.start, passage.span.end) == (0, len(text))
    assert cut.cut(Text("t", text), 1, 0).span.start == 0
    # A later start begins at the first word, as stored results do.
    if first := len(text) - len(text.lstrip()):
        assert [cut.cut(Text("t", text), 1, n).span.start for n in range(1, first + 1)] == [first] * first
    if "\t" not in text:  # not in the toy's alphabet
        assert toy.passage(text).string == text


def test_a_file_of_code_is_crammed_as_it_is(toy, tmp_path):
    from memlab.texts import from_path

    code = "    x = 1\r\n    y = 2\n"
    (tmp_path / "piece.py").write_bytes(b"\xef\xbb\xbf" + code.replace("\r", "").encode())
    (text,) = from_path(tmp_path / "piece.py")
    assert toy.passage(text).string == code.replace("\r", "")


def test_sentence_starts_of_the_bundled_texts_stay(toy):
    """Keys of stored results depend on them."""
    assert {t.id for t in originals()} == set(PINNED)
    digest = hashlib.sha256()
    for text in originals():
        at = [n for n in PINNED_AT if n < len(text.string)]
        assert [next_sentence(text.string, n) for n in at] == PINNED[text.id]["starts"]
        assert toy.passage(text, 8, start="paper").span.start == PINNED[text.id]["paper"]
        for n in range(len(text.string)):
            digest.update(f"{text.id} {n} {next_sentence(text.string, n)}\n".encode())
    assert digest.hexdigest() == "c8bc08ca9ed77380142b1fcaa737fee2e5df19248596b212398b6bae01b10950"


LANGUAGES = {
    "Russian": [
        "Москва — столица России. ",
        "Она стоит на реке. ",
        "Что дальше? ",
        "Никто не знает! ",
        "«Иди», — сказал он.",
    ],
    "Chinese": ["北京是中国的首都。", "它有三千年历史！", "你去过吗？", "“很好。”", "他说。"],
    "Japanese": ["東京は日本の首都です。", "人口は多いです。", "行ったことがありますか？", "はい。"],
    "Arabic": ["القاهرة عاصمة مصر. ", "تقع على النيل. ", "هل زرتها؟ ", "نعم، زرتها مرة."],
    "Hindi": ["दिल्ली भारत की राजधानी है। ", "यह बहुत पुरानी है। ", "क्या आप वहाँ गए हैं? ", "हाँ।"],
    "Greek": ["Ήρθε αργά. ", "Πού είναι τώρα! ", "Δεν ξέρω."],
    "Korean": ["안녕하세요. ", "저는 학생입니다. ", "어디 가세요? ", "집에 갑니다."],
    "Hebrew": ["שלום לך. ", "מה שלומך? ", "טוב."],
    "French": ["Il est venu. ", "Écoutez bien. ", "À demain."],
    "Spanish": ["No vino. ", "¿Dónde está? ", "¡Aquí!"],
    "lower case": [
        "the harbour was quiet. ",
        "nobody came. ",
        "mr. smith left at 5 p.m. for home. ",
        "was it cold? ",
        "yes!",
    ],
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_begin_in_any_language(language):
    # Texts longer than the blocks that the library reads, and of a length that moves the sentences over their edges.
    sentences = [s if s.endswith(" ") or language in ("Chinese", "Japanese") else s + " " for s in LANGUAGES[language]]
    sentences = sentences * (4000 // len("".join(sentences)) + 1)
    text = "".join(sentences)
    starts = np.cumsum([0, *map(len, sentences)])[:-1].tolist()
    assert sentence_starts(text) == starts
    for at in [*range(1, 200), *range(900, 1300), *range(1900, 2100), *range(len(text) - 200, len(text))]:
        assert next_sentence(text, at) == next((s for s in starts if s >= at), None)


def test_sentences_begin_in_mixed_texts():
    for sentences in (
        ["他说。", "NASA是机构。", "Then we go. ", "他来了。"],
        ["Он ушёл. ", "NASA запустила ракету. ", "В 1990 году было 5 домов. ", "«Да», — сказал он."],
        ["See www.A.com/Go.Do for more. ", "Ärger came. ", "He left."],
    ):
        starts = np.cumsum([0, *map(len, sentences)])[:-1].tolist()
        assert sentence_starts("".join(sentences)) == starts
    assert sentence_starts("See e.g. this, i.e. www.A.com.Go there? yes, or Hello.World it is") == [0]


@pytest.mark.parametrize("language", ["Russian", "Chinese", "Arabic", "Hindi", "Japanese", "lower case"])
def test_passages_start_in_any_language(language):
    cut = cutter(byte_level())
    text = Text("t", "".join(LANGUAGES[language]) * 20)
    paper = cut.cut(text, 20, "paper")
    assert paper.span.start > 100
    assert any(paper.string.startswith(s[:5]) for s in LANGUAGES[language])
    second = len(LANGUAGES[language][0])
    assert cut.cut(text, 20, second - 2).span.start == second


def test_a_text_without_sentences_says_what_to_do(toy):
    text = "no sentence ends in this text"
    with pytest.raises(PassageError, match=r"start=5 is too late: no sentence begins .*give text\[5:\] in place"):
        toy.passage(text, 4, start=5)
    assert toy.passage(text[5:], 4).string == "nten"
    assert toy.passage(text, 4, start="paper").span.start == 0


@settings(max_examples=300, deadline=None)
@given(
    st.text(
        alphabet=st.sampled_from(list("aB1и中ह. .?!。।؟\n\r\t \u3000\u2028\u00a0\"'“”«»()…-😀\ud800\0")), max_size=60
    )
)
def test_a_start_is_the_same_from_wherever_the_search_begins(piece):
    for text in (piece, "Ж" * 970 + piece + piece):
        if text.strip():
            starts = sentence_starts(text)
            assert starts == sorted(set(starts))
            assert not any(text[s].isspace() for s in starts)
            for s in starts[-20:]:
                assert next_sentence(text, s) == s


def test_long_texts_are_searched_in_blocks(monkeypatch):
    """The library's time grows faster than the text, so it never gets a long piece."""
    import sentencex

    lengths, boundaries = [], sentencex.get_sentence_boundaries

    def counted(language, text):
        lengths.append(len(text))
        return boundaries(language, text)

    monkeypatch.setattr(sentencex, "get_sentence_boundaries", counted)
    text = "北京是中国的首都，它有三千年历史！" * 600
    assert next_sentence(text, 5001) == 5015
    assert next_sentence("ж" * 3000, 5) is None
    assert max(lengths) <= 1400
