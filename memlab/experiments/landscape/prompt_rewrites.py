"""What the frozen model answers: shorter texts, titles of chapters, and Yes or No about each sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch

from memlab.experiments.landscape.method import LandscapeError
from memlab.experiments.landscape.prompt_scores import once, sentences, surprisal, unit_vectors, units, words
from memlab.measures import selection
from memlab.models import FrozenLM, Passage

SHORT = 8
"""A chunk with fewer tokens joins a neighbour. The most tokens of a title."""


def request_ids(lm: FrozenLM, request: str) -> np.ndarray:
    """Ids of a request, in the tokenizer's chat template if it has one, up to where the answer begins."""
    if lm.tokenizer is None:
        raise LandscapeError(f"{lm.name} has no tokenizer, so it cannot be asked. Leave this method out.")
    if getattr(lm.tokenizer, "chat_template", None):
        chat = [{"role": "user", "content": request}]
        text = lm.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        ids = lm.passage(request + "\n").ids
    return np.asarray(ids, np.int64)


def say(lm: FrozenLM, request: str, most: int) -> tuple[str, bool]:
    """(answer, whether it ended): the model's greedy answer of at most ``most`` tokens, up to an empty line."""
    special = set(getattr(lm.tokenizer, "all_special_ids", None) or ())
    ids = torch.from_numpy(request_ids(lm, request)[None]).to(lm.device)
    logits, cache = lm.step(torch.float32, ids=ids)
    answer: list[int] = []
    while (best := int(logits.argmax())) not in special:
        if len(answer) == most:
            return lm.decode_ids(answer).strip(), False
        answer.append(best)
        if "\n" in lm.decode_ids(answer).strip("\n"):
            break
        logits, cache = lm.step(torch.float32, ids=torch.tensor([[best]], device=lm.device), cache=cache)
    return lm.decode_ids(answer).strip(), True


# Yes or No -----------------------------------------------------------------------------------------------------------


def yes_shares(lm: FrozenLM, document: str, parts: Sequence[str]) -> np.ndarray:
    """(parts,) P(Yes) / (P(Yes) + P(No)) of an answer: is this part needed, with the whole ``document`` in view?"""
    yes, no = (int(lm.passage(answer).ids[0]) for answer in ("Yes", "No"))
    shares = []
    for part in parts:
        request = (
            f"Text:\n{document}\n\nPart of it:\n{part}\n\nSomeone must write this text again, word for word. "
            "Is this part useful for that? Answer Yes or No."
        )
        ids = torch.from_numpy(request_ids(lm, request)[None]).to(lm.device)
        logits = lm.step(torch.float32, ids=ids)[0][0].double()
        shares.append(float(torch.sigmoid(logits[yes] - logits[no])))
    return np.array(shares)


@once
def yes_scores(lm: FrozenLM, passage: Passage) -> np.ndarray:
    """(units,) the share of Yes for each unit, minus the share with an empty document."""
    parts = [lm.decode_ids(passage.ids[start:stop]).strip() for start, stop in units(lm, passage)]
    return yes_shares(lm, passage.string, parts) - yes_shares(lm, "", parts)


# Shorter chunks ------------------------------------------------------------------------------------------------------


def chunks(lm: FrozenLM, passage: Passage) -> list[tuple[int, int]]:
    """Sentences as spans of tokens. One with fewer than ``SHORT`` tokens joins the sentence before it, or the next."""
    kept = [0]
    for start, stop in selection.spans(sentences(lm, passage), len(passage)):
        if start - kept[-1] >= SHORT and stop - start >= SHORT:
            kept.append(start)
    return selection.spans(kept, len(passage))


def keywords(text: str, most: int) -> list[str]:
    """The words of a text, at most ``most``, with the largest product of their number and the log of their rarity."""
    from wordfreq import word_frequency

    found = re.findall(r"\w+", text.lower())
    rarity = {word: -np.log10(word_frequency(word, "en", minimum=1e-9)) for word in found}
    return sorted(rarity, key=lambda word: -found.count(word) * rarity[word])[:most]


def rewritten(lm: FrozenLM, chunk: np.ndarray, target: int) -> np.ndarray:
    """Token ids of a chunk in the model's own, fewer words.

    The chunk itself if the answer is not shorter, does not end, or lacks one of the asked keywords, one per 16 tokens.
    """
    text = lm.decode_ids(chunk)
    needed = keywords(text, max(1, len(chunk) // 16))
    number = max(1, round(target * len(text.split()) / len(chunk)))
    request = f"Rewrite this text in at most {number} words. Use the words: {', '.join(needed)}.\n\n{text.strip()}"
    answer, ended = say(lm, request, len(chunk) - 1)
    if not ended or not answer or not set(needed) <= set(re.findall(r"\w+", answer.lower())):
        return chunk
    ids = lm.passage((" " if text[:1] == " " else "") + answer).ids
    return ids if len(ids) < len(chunk) else chunk


def shorter(lm: FrozenLM, passage: Passage, share: float) -> np.ndarray:
    """The chunks of a passage, rewritten and joined. A chunk's target is ``share`` of its tokens, times its relative
    surprisal per token."""
    bits = surprisal(lm, passage)
    parts = []
    for start, stop in chunks(lm, passage):
        relative = bits[start:stop].mean() / bits.mean()
        target = selection.count(stop - start, min(1.0, share * float(relative)))
        parts.append(rewritten(lm, passage.ids[start:stop], target))
    return np.concatenate(parts)


# Chapters ------------------------------------------------------------------------------------------------------------


def chapters(lm: FrozenLM, passage: Passage) -> list[tuple[int, int]]:
    """Chapters as spans of tokens, cut where the similarity of what lies before and behind falls."""
    pieces = units(lm, passage)
    return selection.spans([pieces[i][0] for i in selection.falls(unit_vectors(lm, passage))], len(passage))


def titles(lm: FrozenLM, passage: Passage) -> np.ndarray:
    """Token ids of the chapters' titles, one line each, by the frozen model with the earlier titles in view.

    A title that is empty, does not end or is an earlier one becomes the dearest word of the chapter.
    """
    bits, said = surprisal(lm, passage), list[str]()
    for start, stop in chapters(lm, passage):
        earlier = f"Earlier titles: {'; '.join(said)}.\n\n" if said else ""
        text = lm.decode_ids(passage.ids[start:stop]).strip()
        title, ended = say(lm, f"{earlier}Text:\n{text}\n\nWrite a title of at most five words for this text.", SHORT)
        title = title.strip("\"'*# ")
        if not ended or not title or title in said:
            inner = [word for word in words(lm, passage) if start <= word[0] < stop]
            dearest = max(inner, key=lambda word: bits[word[0] : word[1]].sum())
            title = lm.decode_ids(passage.ids[slice(*dearest)]).strip()
        said.append(title)
    text = "\n".join(title for title in said if title)
    return lm.passage(text).ids if text else np.empty(0, np.int64)
