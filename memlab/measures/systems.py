"""The published systems that the landscape compares, as data: what each stores, and which of our methods follow it."""

from __future__ import annotations

from dataclasses import dataclass

from memlab.errors import MemlabError

ROWS = 12
"""Texts of each kind that the landscape measures: the first ones. Cues, heads and codebooks are made of later texts."""
SAMPLED = "sampled"
"""Beginning of the names of passages that the model itself wrote, and that are rows."""
FAMILIES = {
    "F1": "vectors found by search",
    "F2": "hard prompts",
    "F3": "trained encoders",
    "F4": "part of the cache",
    "F5": "codes",
    "F6": "vectors stored together",
    "F7": "smaller models",
}
"""Families of systems, by what they store."""


class UnknownSystemError(MemlabError, LookupError):
    """No system has this name. The message lists those that exist."""

    exit_code = 2


@dataclass(frozen=True)
class System:
    """A published system. Our methods follow it; none of them is that system."""

    name: str
    family: str
    arxiv: str
    """Number of its paper."""
    ours: str
    """What ours may be called."""


SYSTEMS = {
    system.name: system
    for system in (
        System("LLMLingua-2", "F2", "2403.12968", "surprisal-kept tokens; a learnt keep/drop head"),
        System("SCOPE", "F2", "2508.15813", "chunk and rewrite by the frozen model"),
        System("TCRA-LLM", "F2", "2310.15556", "words deleted by least change of the sentence vector"),
        System("RECOMP", "F2", "2310.04408", "sentences chosen by the measured gain (an oracle)"),
        System("EXIT", "F2", "2412.12559", "sentences kept by the frozen model's Yes or No"),
        System("CoLoR", "F2", "2412.18232", "shortest compression that is still found (chosen, not trained)"),
        System("Semantic compression", "F2", "2507.19715", "sentences chosen for coverage; neighbours and page rank"),
        System("PODTILE", "F2", "2410.16148", "chapters at falls of similarity, with titles"),
        System("UniICL", "F3", "2405.17062", "the frozen model's own slots and one linear layer"),
        System("CompLLM", "F3", "2509.19228", "segments compressed apart, hidden states matched"),
        System("REFRAG", "F3", "2509.01092", "chunk vectors, the dearest chunks left as text"),
        System("xRAG", "F3", "2405.13792", "one token from a sentence vector"),
        System("RetroMAE v2", "F3", "2211.08769", "reconstruction with a bag-of-words loss"),
        System("Compress & Align", "F3", "2312.06726", "training passages chosen by a score"),
        System("WindowKV", "F4", "2503.17922", "windows of the cache, layers in groups"),
        System("SentenceKV", "F4", "2504.00970", "sentences of the cache fetched by the running query"),
        System("HACK", "F4", "2504.09261", "budgets by kind of head"),
        System("Equal-Info Windows", "F5", "2404.03626", "equal-information windows (the code, not the model)"),
        System("Information Capacity", "F5", "2511.08066", "information capacity by their formula"),
        System("Learnable vector storage compression", "F6", "2311.15578", "quantisers on mem vectors"),
        System("Relative Representations", "F6", "2411.19719", "vectors sent by their cosines to anchors"),
        System("LexSemBridge", "F6", "2508.17858", "vectors weighted by their text's words"),
        System("LLM-KICK", "F7", "2310.01382", "weights pruned or rounded"),
        System("KD performance review", "F7", "2311.13657", "layers dropped, then distilled"),
        System("Model-compression survey", "F7", "2402.09748", "its kinds of compression as a legend"),
    )
}
"""The 25 systems by name."""
REFERENCES = {
    "mem vector": "F1",
    "full text": "F2",
    "random tokens": "F2",
    "first and last tokens": "F2",
    "own encoder": "F3",
    "one gradient": "F3",
    "full cache": "F4",
    "StreamingLLM": "F4",
    "SnapKV": "F4",
    "key norm": "F4",
    "random": "F4",
    "KVzip": "F4",
    "copying heads": "F4",
    "rounding": "F4",
    "arithmetic coding": "F5",
    "general codecs": "F5",
    "rounding in the preconditioner's basis": "F6",
    "retrieval": "F6",
}
"""{what is measured beside the systems: its family}."""


def system(name: str) -> System:
    """The system of this name. Raises ``UnknownSystemError``.

    >>> system("HACK").arxiv
    '2504.09261'
    """
    if name not in SYSTEMS:
        raise UnknownSystemError(f"There is no system {name!r}. Use one of: {', '.join(SYSTEMS)}.")
    return SYSTEMS[name]
