#!/usr/bin/env bash
# sentencex 1.0.32: in a text of more than about 10,000 characters, some empty lines between paragraphs are in no segment.
#
# The segments of a short text are the whole text: white space stays with its sentence, and an empty line between two
# paragraphs is a segment of its own. In a longer text, about one empty line per 10,000 characters is left out, without
# a word. `"".join(segment(...))` joins two paragraphs, and a program that adds up the lengths of the segments is off by
# two more characters with each of them. `get_sentence_boundaries` counts too few paragraph breaks; its indices are right.
#
# Who is hurt: who writes a long text again from its segments (a translation, sentence by sentence), or counts paragraphs.
#
# What helps: take the text between `end_index` and the next `start_index`, or split the paragraphs first.
#
# Exit status 0: the behaviour is as described. Anything else: it changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check sentencex==1.0.32 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
from sentencex import get_sentence_boundaries, segment

paragraph = " ".join(["It rained all day. Nobody came to the door."] * 5)
for paragraphs, lost in ((20, 0), (40, 0), (200, 4), (400, 8)):
    text = "\n\n".join([paragraph] * paragraphs)
    joined = "".join(segment("en", text))
    boundaries = get_sentence_boundaries("en", text)
    gaps = [text[a["end_index"] : b["start_index"]] for a, b in zip(boundaries, boundaries[1:])]
    breaks = sum(b["is_paragraph_break"] for b in boundaries)
    print(f"{len(text)} characters, {paragraphs} paragraphs: {paragraphs - 1 - breaks} breaks and {len(text) - len(joined)} characters lost")
    assert paragraphs - 1 - breaks == lost and len(text) - len(joined) == 2 * lost
    assert [gap for gap in gaps if gap] == ["\n\n"] * lost
PYTHON
