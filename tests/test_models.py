import hashlib
import inspect
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from memlab.models import PRESETS, FrozenLM, ModelError, PassageError, families, hardware, load
from memlab.models.facts import Facts
from memlab.models.passages import Cutter, sentence_starts
from memlab.probes.attention import attention_layers
from memlab.texts import Text, originals


def test_models_are_frozen_and_in_eval_mode(any_toy):
    assert not any(p.requires_grad for p in any_toy.model.parameters())
    assert not any_toy.model.training
    assert any_toy.d == 384
    assert load(any_toy.name) is any_toy


def test_embedding_stats_describe_the_modules_output(any_toy):
    rows = any_toy.model.get_input_embeddings()(torch.arange(any_toy.vocabulary)).float()
    assert any_toy.embedding_stats["std"] == pytest.approx(float(rows.std(correction=0)), rel=1e-4)
    assert any_toy.embedding_stats["norm"] == pytest.approx(float(rows.norm(dim=-1).mean()), rel=1e-4)


def test_steps_with_cache_equal_one_pass(any_toy):
    ids = torch.tensor(np.random.default_rng(1).integers(0, any_toy.vocabulary, (3, 7)))
    whole = any_toy.model(input_ids=ids).logits
    logits, cache = any_toy.step(torch.float32, embeddings=any_toy.embed(ids[:, :4]))
    torch.testing.assert_close(logits, whole[:, 3], atol=2e-4, rtol=1e-4)
    for i in range(4, 7):
        logits, cache = any_toy.step(torch.float32, ids=ids[:, i : i + 1], cache=cache)
        torch.testing.assert_close(logits, whole[:, i], atol=2e-4, rtol=1e-4)


def test_other_dtypes_cast_the_weights_and_not_the_buffers(any_toy):
    half = any_toy.weights(torch.bfloat16)
    assert all(p.dtype == torch.bfloat16 for p in half.parameters())
    assert all(p.dtype == torch.float32 for p in any_toy.model.parameters())
    for (name, mine), theirs in zip(half.named_buffers(), any_toy.model.buffers(), strict=True):
        assert mine.dtype == theirs.dtype, name
    assert any_toy.weights(torch.bfloat16) is half


def test_token_bits_are_the_models_cross_entropy(any_toy):
    ids = np.array([3, 50, 7, 7])
    logits = any_toy.model(input_ids=torch.tensor(ids[None])).logits[0].double().log_softmax(-1)
    bits = any_toy.token_bits(ids)
    assert np.isnan(bits[0])  # a toy has no sink prefix, so nothing predicts the first token
    expected = [-logits[i, ids[i + 1]].item() / np.log(2) for i in range(3)]
    np.testing.assert_allclose(bits[1:], expected, rtol=1e-4)


def test_every_toy_build_gives_the_same_weights():
    fresh = FrozenLM(*sources_toy("llama"), name="again")
    assert fresh.fingerprint == load("toy:llama").fingerprint
    assert load("toy:qwen2").fingerprint != load("toy:llama").fingerprint


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Facts about temporary folders stay out of the user's cache."""
    monkeypatch.setenv("MEMLAB_CACHE", str(tmp_path / "cache"))


def sources_toy(family):
    from memlab.models.toys import toy

    return toy(family)


def test_a_change_of_one_weight_changes_the_fingerprint():
    model, tokenizer = sources_toy("opt")
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert FrozenLM.from_model(model, tokenizer).fingerprint != load("toy:opt").fingerprint


def test_fingerprint_is_the_hash_of_the_stored_tensors(tmp_path):
    """Hash of sorted (name, dtype, shape, bytes), computed here. A model in memory has the same one."""
    model, tokenizer = sources_toy("llama")
    model.save_pretrained(tmp_path / "m", max_shard_size="1MB")
    tokenizer.save_pretrained(tmp_path / "m")
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 1
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(json.dumps([name, "F32", list(tensor.shape)]).encode() + tensor.numpy().tobytes())
    lm = load(str(tmp_path / "m"))
    assert lm.fingerprint == digest.hexdigest() == load("toy:llama").fingerprint


def test_facts_are_forgotten_when_files_change(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "w").write_text("a")
    Facts(folder).remember(fingerprint="x")
    assert Facts(folder).known == {"fingerprint": "x"}
    (folder / ".memlab.7.tmp").write_text("another process writes facts")
    assert Facts(folder).known == {"fingerprint": "x"}
    (folder / "w").write_text("ab")
    assert Facts(folder).known == {}


def test_origin_is_an_absolute_path_for_folders_and_the_name_for_presets(tmp_path, monkeypatch):
    model, tokenizer = sources_toy("llama")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("m", "smollm2-135m"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("MEMLAB_CACHE", str(tmp_path / "cache"))
    for name, origin in [("m", tmp_path / "m"), ("~/m", tmp_path / "m"), ("smollm2-135m", "smollm2-135m")]:
        lm = FrozenLM.from_model(model, tokenizer, name=name, folder=tmp_path)
        monkeypatch.chdir("/")  # the model is still the one that its name meant before
        assert lm.origin == str(origin)
        monkeypatch.chdir(tmp_path)
    assert FrozenLM.from_model(model, tokenizer, name="m").origin == "m"


# Families


def test_the_table_of_families_matches_each_toy(any_toy):
    """Cache name, attention modules and residual dtype, measured on the toy."""
    family = any_toy.family
    assert families.FAMILIES[family.model_type] is family
    assert family.cache_name in inspect.signature(any_toy.model.forward).parameters
    names = {name.rpartition(".")[2] for name, _ in any_toy.model.named_modules()}
    assert bool(names & set(families.Family("").attention_names)) == bool(family.attention_names)
    half = any_toy.weights(torch.bfloat16)
    hidden = half.base_model(inputs_embeds=any_toy.embed([1, 2])[None].bfloat16(), use_cache=False).last_hidden_state
    assert (hidden.dtype == torch.float32) == family.fp32_residuals


@pytest.mark.parametrize("model_type", families.FAMILIES)
def test_every_family_takes_its_cache_by_the_name_in_the_table(model_type):
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    forward = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[model_type]].forward
    assert families.family_of(model_type).cache_name in inspect.signature(forward).parameters


def test_a_family_that_is_not_in_the_table_gets_the_documented_defaults(monkeypatch):
    import transformers as hf

    monkeypatch.delitem(families.FAMILIES, "gpt2", raising=False)
    torch.manual_seed(0)
    lm = FrozenLM.from_model(hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2)))
    assert lm.family == families.Family("gpt2")
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    _, cache = lm.step(torch.float32, ids=ids[:, :4])
    logits, _ = lm.step(torch.float32, ids=ids[:, 4:], cache=cache)
    torch.testing.assert_close(logits, lm.model(input_ids=ids).logits[:, 4], atol=1e-5, rtol=1e-4)
    assert len(attention_layers(lm)) == 2


def test_an_unknown_toy_is_refused_with_the_names_of_the_toys():
    with pytest.raises(ModelError, match=r"no toy:gpt5\.") as caught:
        load("toy:gpt5")
    assert all(f"toy:{name}" in str(caught.value) for name in families.TOY_FAMILIES)


# What cannot be loaded


def test_bin_weights_need_allow_bin_and_run_no_code(tmp_path):
    model, tokenizer = sources_toy("gpt_neox")
    folder = tmp_path / "m"
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="allow_bin=True"):
        load(str(folder))
    assert load(str(folder), allow_bin=True).fingerprint == load("toy:gpt_neox").fingerprint

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was-here"),)

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Evil()}, protocol=2))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(str(folder), allow_bin=True, dtype=torch.float32)
    assert not (tmp_path / "was-here").exists()


def test_a_truncated_weights_file_is_refused(tmp_path):
    model, tokenizer = sources_toy("opt")
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(str(tmp_path / "m"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("toy:gpt5", "toy:llama"),
        ("./nowhere", "no file or folder"),
        ("nowhere/model.gguf", "no file or folder"),
    ],
)
def test_unknown_local_names_are_refused(name, reason):
    with pytest.raises(ModelError, match=reason):
        load(name)


def test_a_folder_has_no_revision(tmp_path):
    model, tokenizer = sources_toy("llama")
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    assert load(str(tmp_path)).revision is None
    with pytest.raises(ModelError, match="Leave revision out"):
        load(str(tmp_path), revision="main")


def test_files_that_are_not_models_are_refused(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"hello")
    with pytest.raises(ModelError, match="not a GGUF file"):
        load(str(tmp_path / "x.bin"))
    with pytest.raises(ModelError, match=r"config\.json"):
        load(str(tmp_path))
    (tmp_path / "x.gguf").write_bytes(b"hello")
    with pytest.raises(ModelError, match="cannot be read as a GGUF"):
        load(str(tmp_path / "x.gguf"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2-135", "somebody/some-model", "pythia-160m"])
def test_without_a_network_the_error_names_what_works(name, tmp_path):
    """A closed port simulates the missing network."""
    env = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    code = f"from memlab import load, ModelError\ntry: load({name!r})\nexcept ModelError as e: print(e)"
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert "cannot be reached" in out
    assert "toy:" in out
    assert ("Did you mean smollm2-135m" in out) == (name == "smollm2-135")


def _hub_says(kind, monkeypatch):
    import httpx
    import huggingface_hub

    response = httpx.Response(403, request=httpx.Request("GET", "http://hub"))

    def refuse(*_, **__):
        raise kind("no", response=response)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)


def test_gated_and_unknown_repositories_are_explained(monkeypatch):
    from huggingface_hub import errors

    _hub_says(errors.GatedRepoError, monkeypatch)
    with pytest.raises(ModelError, match=r"gated.*hf auth login"):
        load("llama-3.2-1b")
    _hub_says(errors.RepositoryNotFoundError, monkeypatch)
    with pytest.raises(ModelError, match="There is no model 'some/thing'"):
        load("some/thing")


def test_the_papers_fourteen_models_are_presets():
    hub = [p for p in PRESETS.values() if p.repo]
    assert len(hub) == 14
    assert all(p.repo.count("/") == 1 for p in hub)
    assert {p.name for p in hub if not p.dtype} == {p.name for p in hub if "mamba" in p.name}
    assert {p.dtype for p in hub if p.dtype} == {"float32", "bfloat16"}


# Passages


@pytest.fixture(scope="module")
def bytes_tokenizer():
    """A byte-level BPE: a character can be several tokens, and a token several characters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator([t.string for t in originals()[:8]], trainer)
    return Cutter(PreTrainedTokenizerFast(tokenizer_object=bpe), "bpe", 600, 4096)


@pytest.mark.parametrize("tokens", [1, 2, 17, 64])
def test_passages_decode_to_their_source(bytes_tokenizer, tokens):
    for text in originals()[:12]:
        p = bytes_tokenizer.cut(text, tokens, 0)
        assert len(p) == tokens
        assert bytes_tokenizer.decode(p.ids) == p.string == text.string[p.span.start : p.span.end]


def test_a_cut_never_splits_a_character(bytes_tokenizer):
    text = Text("emoji", "Tea \U0001f375 and cake \U0001f370, na\u00efve caf\u00e9 \u4e16\u754c " * 9)
    for tokens in range(1, 60):
        p = bytes_tokenizer.cut(text, tokens, 0)
        assert tokens - 3 <= len(p) <= tokens
        assert bytes_tokenizer.decode(p.ids) == p.string == text.string[: p.span.end]


def test_a_window_gives_the_ids_of_the_whole_text(bytes_tokenizer):
    text = originals()[3]
    whole = bytes_tokenizer.encode(text.string)["input_ids"]
    assert bytes_tokenizer.cut(text, 200, 0).ids.tolist() == whole[:200]


def test_sentence_starts():
    string = ' He said. "Go on." Mr. Smith left! Then it rained.\n\nnew para'
    assert [string[i : i + 6] for i in sentence_starts(string)] == ["He sai", '"Go on', "Mr. Sm", "Then i", "new pa"]


def test_start_moves_to_the_next_sentence(bytes_tokenizer):
    text = Text("t", 'He said. "Go on." Mr. Smith left! Then it rained, and it rained on.')
    for start in range(50):
        begin = next((s for s in sentence_starts(text.string) if s >= start), None)
        if begin is None:
            with pytest.raises(PassageError, match="no sentence"):
                bytes_tokenizer.cut(text, 3, start)
        else:
            assert bytes_tokenizer.cut(text, 3, start).span.start == begin


def test_the_papers_start_is_the_second_half_of_the_sentences(bytes_tokenizer):
    text = max(originals(), key=lambda t: len(t.string))
    starts = sentence_starts(bytes_tokenizer.decode(bytes_tokenizer.encode(text.string)["input_ids"][:1024]))
    p = bytes_tokenizer.cut(text, 32, "paper")
    assert p.span.start in starts
    before = sum(s < p.span.start for s in starts)
    assert abs(before - (len(starts) - before)) <= 1


def test_impossible_passages_are_refused(toy):
    for text, tokens, reason in [
        ("Hello.", 0, "at least 1 token"),
        ("Hello.", 7, "has 6 tokens .* 7 are needed"),
        ("Hello.", 512, "context of 512"),
        ("Hello. " * 100, None, r"longer than .* --tokens N"),
        ("Gr\u00fc\u00df Gott", None, "cannot encode"),
    ]:
        with pytest.raises(PassageError, match=reason):
            toy.passage(text, tokens)
    with pytest.raises(PassageError, match="from 0 to 95"):
        toy.passage_of_ids([1, 96])
    with pytest.raises(PassageError, match="start='papr' is not valid"):
        toy.passage("Hello.", 2, start="papr")
    with pytest.raises(PassageError, match="start=99"):
        toy.passage("Hello.", 2, start=99)
    assert toy.passage("Hello, world.\nYes").string == "Hello, world.\nYes"


def test_models_without_a_tokenizer_take_token_ids():
    lm = FrozenLM.from_model(sources_toy("llama")[0])
    assert lm.passage_of_ids([1, 2]).ids.tolist() == [1, 2]
    with pytest.raises(PassageError, match="passage_of_ids"):
        lm.passage("Hello")


def test_prefix_ids_of_each_prefix(toy):
    assert toy.prefix_ids("none") == toy.prefix_ids("sink") == ()
    assert toy.prefix_ids((4, 5)) == (4, 5)
    with pytest.raises(ModelError, match="no BOS"):
        toy.prefix_ids("bos")


def test_the_sink_prefix_has_the_lowest_cross_entropy():
    """The cross-entropy of each candidate is compared with one computed here."""
    model, tokenizer = sources_toy("llama")
    tokenizer.add_special_tokens({"bos_token": "\n", "eos_token": "~"})
    lm = FrozenLM.from_model(model, tokenizer)
    nats = lm.sink_candidates()
    specials = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert set(nats) == {(), (specials[0],), (specials[1],)}
    text = next(t for t in originals() if t.id == "essay-on-waiting")
    ids = tokenizer(text.string[:400], add_special_tokens=False)["input_ids"][:256]
    for special in specials:
        logits = model(input_ids=torch.tensor([[special, *ids]])).logits[0]
        by_hand = torch.nn.functional.cross_entropy(logits[1:-1], torch.tensor(ids[1:])).item()
        assert nats[(special,)] == pytest.approx(by_hand, rel=1e-4)
    best = min(nats, key=nats.get)
    assert lm.sink_prefix == (best if nats[()] - nats[best] >= 0.02 else ())


def test_no_code_of_a_folder_is_run(tmp_path, monkeypatch):
    """transformers would ask on the terminal whether to trust the code. memlab never runs it, whatever the answer."""
    model, tokenizer = sources_toy("llama")
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    (tmp_path / "m" / "code.py").write_text(f"import os; os.mkdir({str(tmp_path / 'was-here')!r})")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(str(tmp_path / "m"))
    assert not (tmp_path / "was-here").exists()


def test_an_adapter_file_is_not_taken_for_the_model(tmp_path):
    model, tokenizer = sources_toy("opt")
    model.config.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    torch.save(model.state_dict(), tmp_path / "m" / "pytorch_model.bin")
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "m" / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="allow_bin"):
        load(str(tmp_path / "m"))
    lm = load(str(tmp_path / "m"), allow_bin=True)
    assert lm.fingerprint == load("toy:opt").fingerprint


def test_half_precision_weights_have_one_fingerprint_on_disk_and_in_memory(tmp_path):
    model, tokenizer = sources_toy("qwen2")
    model.to(torch.bfloat16).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    folder = load(str(tmp_path / "m"))
    assert folder.model.dtype == torch.float32
    assert FrozenLM.from_model(model, tokenizer).fingerprint == folder.fingerprint != load("toy:qwen2").fingerprint


def test_special_tokens_without_an_embedding_row_are_refused():
    """Gemma 3's tokenizer has an image token without a row in the embedding of its language model."""
    model, tokenizer = sources_toy("gemma3")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<picture>"]})
    lm = FrozenLM.from_model(model, tokenizer)
    assert lm.sink_prefix == ()
    with pytest.raises(PassageError, match="without a row"):
        lm.passage("A <picture>.", 4)


def test_a_whole_text_is_never_shortened():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({c: i for i, c in enumerate("the caf\u00e9")}, unk_token="t"))
    words.normalizer = normalizers.NFC()
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    cutter = Cutter(PreTrainedTokenizerFast(tokenizer_object=words), "nfc", 9, 64)
    with pytest.raises(PassageError, match="changes text"):
        cutter.cut(Text("t", "the cafe\u0301"), None, 0)


def test_a_cache_that_cannot_be_created_is_explained(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    monkeypatch.setenv("MEMLAB_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(ModelError, match="MEMLAB_CACHE"):
        load(str(tmp_path / "x.gguf"))


def test_training_uses_bfloat16_only_if_it_is_faster(monkeypatch):
    """Of two processors with the same AVX-512 BF16, one needs half the time of float32, the other twice that time."""
    able = {"avx512_bf16": True}
    for has, faster, expected in (
        (able, True, torch.bfloat16), (able, False, torch.float32), ({}, True, torch.float32),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has, raising=False)
        monkeypatch.setattr(hardware, "_faster_in_bfloat16", lambda faster=faster: faster)
        assert hardware.best_dtype(torch.device("cpu")) == expected
    monkeypatch.undo()
    assert hardware._faster_in_bfloat16() in (True, False)


def test_dtypes_are_given_by_name_or_object():
    assert load("toy:llama", dtype="bfloat16") is load("toy:llama", dtype=torch.bfloat16)
    for strange in ("float8", "bf16", torch.float16):  # these would fail later, in each training
        with pytest.raises(ModelError, match="Give float32 or bfloat16"):
            load("toy:llama", dtype=strange)
