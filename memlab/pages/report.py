"""A folder of HTML pages with an index. Pages that are up to date are kept, so that a stopped report goes on."""

from __future__ import annotations

import hashlib
import html
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from memlab.charts.names import text_title
from memlab.pages.html import VEGA, facts_of, of_notebook, of_vector, page, vega
from memlab.pages.notebooks import PageError, execute, read
from memlab.results.atomic import atomic_write
from memlab.results.mem_vector import MemVector
from memlab.texts import data_folder

INDEX = "index.html"


@dataclass(frozen=True)
class Made:
    """One page of a report. ``seconds``: what its notebook took. ``error``: the cell that failed; empty if none did."""

    file: Path
    title: str
    seconds: float
    error: str
    kept: bool
    """True if the page was there, and nothing has changed since."""


def write_report(
    folder: Path,
    notebooks: Sequence[Path] = (),
    vectors: Sequence[MemVector] = (),
    *,
    environment: Mapping[str, str] | None = None,
    on_page: Callable[[Made], None] = lambda made: None,
) -> list[Made]:
    """Execute these notebooks, and write them and the cards of these vectors as pages into ``folder``.

    ``environment``: variables of the kernels. The index lists all pages in the folder, also those of earlier calls.
    Raises ``PageError`` if the folder has other files.
    """
    require_ours(folder)
    stems = [file.stem for file in notebooks]
    if double := next((stem for stem in stems if stems.count(stem) > 1), ""):
        raise PageError(f"Two notebooks are named {double}, and would be one page. Give each notebook once.")
    for file in notebooks:
        read(file)  # an unreadable one should not be found after half an hour
    folder.mkdir(parents=True, exist_ok=True)
    _write_index(folder)  # marks the folder as a report
    atomic_write(folder / VEGA, vega().encode())
    made = []
    names = {file.stem for file in notebooks} | {file.stem for file in folder.glob("*.html")}
    jobs: list[Callable[[], Made]] = [
        *(lambda mem=mem: _vector_page(folder, mem) for mem in vectors),
        *(lambda file=file: _notebook_page(folder, file, names, environment or {}) for file in notebooks),
    ]
    for job in jobs:
        made.append(job())
        _write_index(folder)
        on_page(made[-1])
    return made


def require_ours(folder: Path) -> None:
    """Raise ``PageError`` unless ``folder`` is absent, empty, or an earlier report."""
    if folder.is_dir() and any(folder.iterdir()):
        index = folder / INDEX
        if not index.is_file() or not facts_of(index.read_text(encoding="utf-8", errors="replace")):
            raise PageError(f"{folder} has other files. Give a new folder, or one with an earlier report.")
    elif folder.exists() and not folder.is_dir():
        raise PageError(f"{folder} is not a folder. Give a new folder.")


def _notebook_page(folder: Path, file: Path, names: set[str], environment: Mapping[str, str]) -> Made:
    place = folder / f"{file.stem}.html"
    made_from = [file.read_bytes(), _state(), repr(sorted(environment.items())).encode()]
    key = hashlib.sha256(b"\0".join(made_from)).hexdigest()
    if place.is_file():
        facts = facts_of(place.read_text(encoding="utf-8", errors="replace"))
        if facts.get("key") == key and not facts["error"]:
            return Made(place, facts["title"], facts["seconds"], "", kept=True)
    began = time.perf_counter()
    executed = execute(file, environment)
    seconds = time.perf_counter() - began
    title, finding = describe(executed.notebook)
    facts = dict(
        executed.facts, key=key, kind="notebook", title=title or file.stem, finding=finding, error=executed.error,
        seconds=round(seconds, 1), date=date.today().isoformat(),
    )  # fmt: skip
    body = of_notebook(executed, file.parent, names)
    charts = body.count('class="live"')
    failed = f'<p class="failed">Stopped at an error: {html.escape(executed.error)}</p>' if executed.error else ""
    foot = f'<hr><p class="facts">{_told(facts)}</p>'
    note = "An executed notebook: charts answer the pointer; buttons and sliders need the notebook itself."
    back = f'<p class="facts"><a href="{INDEX}">All pages</a> · {note}</p>'
    text = page(title or file.stem, back + failed + body + foot, facts | {"charts": charts})
    atomic_write(place, text.encode())
    return Made(place, facts["title"], facts["seconds"], executed.error, kept=False)


@cache
def _state() -> bytes:
    """A hash of memlab's own files and tables: what a page depends on besides its notebook."""
    found = hashlib.sha256()
    package = Path(__file__).parents[1]
    files = [
        *package.rglob("*.py"),
        *package.rglob("*.css"),
        *package.rglob("*.js"),
        *(data_folder() / "bench").iterdir(),
    ]
    for file in sorted(file for file in files if file.is_file()):
        found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.digest()


def _vector_page(folder: Path, mem: MemVector) -> Made:
    place, title = folder / f"vector-{mem.key[:12]}.html", f"{text_title(mem.text.id)}, {mem.n} tokens"
    facts = {
        "kind": "vector", "title": title, "finding": "", "error": "", "seconds": 0, "date": date.today().isoformat(),
        "model": mem.model,
    }  # fmt: skip
    body = f'<p><a href="{INDEX}">All pages</a></p><h1>{html.escape(title)}</h1>{of_vector(mem)}'
    atomic_write(place, page(title, body, facts).encode())
    return Made(place, title, 0, "", kept=False)


def describe(notebook: Any) -> tuple[str, str]:
    """(title, finding) of a notebook: its first heading, and what to remember of it, or else the question that it asks.

    >>> import nbformat
    >>> cell = nbformat.v4.new_markdown_cell("# Rain\\n\\nWhen?\\n\\n**What to remember.** It does.")
    >>> describe(nbformat.v4.new_notebook(cells=[cell]))
    ('Rain', 'It does.')
    """
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[*`]", r"\1", "\n\n".join(cells))
    heading = re.search(r"^# *(.*)$", plain, re.MULTILINE)
    kept = re.search(r"^What to remember\.\s+(.*?)(?:\n\n|\Z)", plain, re.MULTILINE | re.DOTALL)
    rest = plain[heading.end() :] if heading else plain
    asked = re.search(r"(?:^|[.!?]\s+)([A-Z][^.?!]*\?)", rest, re.MULTILINE)
    about = kept[1] if kept else asked[1] if asked else ""
    return heading[1].strip() if heading else "", " ".join(about.split())


def _write_index(folder: Path) -> None:
    rows: dict[str, list[str]] = {"notebook": [], "vector": []}
    facts: dict[str, Any] = {}
    for file in sorted(folder.glob("*.html")):
        found = facts_of(file.read_text(encoding="utf-8", errors="replace"))
        if (kind := found.get("kind", "")) in rows:
            facts = facts if "model" in facts else found
            about = html.escape(found["finding"])
            if found["error"]:
                about = f'<span class="failed">Stopped at an error: {html.escape(found["error"])}</span>'
            link = f'<a href="{file.name}">{html.escape(found["title"])}</a>'
            took = f"{found['seconds']:.0f} s" if found["seconds"] else ""
            cells = (f"{link}<br>{about}", took, found["date"])
            rows[kind].append("".join(f"<td>{cell}</td>" for cell in cells))
    body = ["<h1>memlab: notebooks and vectors</h1>", "<p>Charts answer the pointer. Code is folded.</p>"]
    for kind, title in (("notebook", "Notebooks"), ("vector", "Vectors")):
        if rows[kind]:
            lines = "".join(f"<tr>{row}</tr>" for row in rows[kind])
            body.append(f'<h2>{title}</h2><table class="index"><tbody>{lines}</tbody></table>')
    body.append(
        f'<p class="facts">{_told({name: facts.get(name, "") for name in ("model", "machine", "versions")})}</p>'
    )
    text = page("memlab: notebooks and vectors", "\n".join(body), {"kind": "index"})
    atomic_write(folder / INDEX, text.encode())


def _told(facts: Mapping[str, Any]) -> str:
    """One line about where and when a page was made."""
    took = [f"{facts['seconds']:.0f} s"] if facts.get("seconds") else []
    values = [str(facts[name]) for name in ("date", "model", "machine", "versions") if facts.get(name)]
    return html.escape(" · ".join([*values, *took]))
