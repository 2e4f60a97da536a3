"""An executed notebook, or a vector, as an HTML page. Its charts answer the pointer, without a kernel or a network."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from memlab.charts.theme import EMBED, spec_to_svg
from memlab.errors import MemlabError
from memlab.models import load
from memlab.pages.notebooks import Executed, PageError
from memlab.results.mem_vector import MemVector

HERE = Path(__file__).parent
VEGA = "vega.js"
"""The file next to the pages that draws their charts. One file for all: it has 0.9 MB."""
WIDGET = "application/vnd.jupyter.widget-view+json"
_LITE = re.compile(r"application/vnd\.vegalite\.v\d\+json")
_CODE = """{%- extends 'basic/index.html.j2' -%}
{% block input_group %}<details class="code"><summary>Code</summary>{{ super() }}</details>{% endblock %}"""
"""A template of nbconvert: as ``basic``, with folded code."""


def page(title: str, body: str, facts: dict[str, Any]) -> str:
    """A whole page. ``facts`` are kept in it as JSON: ``facts_of`` reads them again.

    >>> facts_of(page("A", "<p>", {"title": "A"}))
    {'title': 'A'}
    """
    live = f'<script src="{VEGA}"></script><script>{_read("page.js")}</script>' if 'class="live"' in body else ""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="memlab report">
<script type="application/json" id="facts">{_json(facts)}</script>
<title>{html.escape(title)}</title>
<style>{_read("page.css")}{_highlighting() if 'class="highlight' in body else ""}</style></head>
<body><main>
{body}
</main>{live}</body></html>
"""


def facts_of(text: str) -> dict[str, Any]:
    """The ``facts`` of a page; empty for other text."""
    found = re.search(r'<script type="application/json" id="facts">(.*?)</script>', text, re.DOTALL)
    return json.loads(found[1]) if found and '<meta name="generator" content="memlab report">' in text else {}


def vega() -> str:
    """The content of ``VEGA``: Vega, Vega-Lite and Vega-Embed in one script. Takes about 3 seconds."""
    import vl_convert

    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def live_chart(spec: dict[str, Any], picture: str = "") -> str:
    """HTML of a chart that ``page.js`` brings to life. ``picture`` is what shows until then, or if that fails."""
    spec = {name: value for name, value in spec.items() if name != "$schema"}
    return (
        f'<div class="chart"><script type="application/json">{_json({"spec": spec, "options": EMBED})}</script>'
        f'<div class="live">{picture or spec_to_svg(spec)}</div></div>'
    )


def of_notebook(executed: Executed, folder: Path, pages: Collection[str] = ()) -> str:
    """The body of a notebook's page. ``folder`` has the notebook's pictures; ``pages`` are notebooks with a page."""
    try:
        from nbconvert.exporters import HTMLExporter
    except ImportError:
        raise PageError("Pages of notebooks need nbconvert. Install it: pip install 'memlab[lab]'.") from None

    for cell in executed.notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _without_lost_pictures(cell.source, cell.get("attachments", {}))
        if cell.cell_type == "code":  # a bar of progress says nothing afterwards
            cell.outputs = [output for output in cell.outputs if "%|" not in output.get("text", "")]
        for output in cell.get("outputs", ()):
            if data := output.get("data"):
                output.data = _with_live_charts(data, output.get("metadata", {}), executed.panels)
    executed.notebook.metadata.pop("widgets", None)  # the state of all widgets, with a copy of Vega
    exporter = HTMLExporter(raw_template=_CODE, embed_images=True, exclude_anchor_links=True)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    body, _ = exporter.from_notebook_node(executed.notebook, resources={"metadata": {"path": str(folder)}})
    return _links(_offline(body), pages)


def of_vector(mem: MemVector) -> str:
    """The body of a vector's page: its card. Without its model, the card lacks the text."""
    try:
        lm = load(mem.model, revision=mem.revision)
    except MemlabError:
        lm = None
    body = str(mem._repr_html_())
    del lm  # the card reads the text with any model that is loaded
    return body


def _with_live_charts(data: dict[str, Any], metadata: dict[str, Any], panels: dict[str, list[Any]]) -> dict[str, Any]:
    """An output's data, with HTML in place of what a page without a kernel cannot show."""
    if lite := next(filter(_LITE.fullmatch, data), None):
        png, size = data.get("image/png", ""), metadata.get("image/png", {})
        source = f'src="data:image/png;base64,{png}" width="{size.get("width", "")}"'
        picture = f'<img alt="{html.escape(size.get("alt", "chart"), quote=True)}" {source}>' if png else ""
        return {"text/html": live_chart(data[lite], picture)}
    parts = panels.get(data.get(WIDGET, {}).get("model_id", ""))
    if parts is not None:
        shown = [part if isinstance(part, str) else live_chart(part) for part in parts]
        return {"text/html": f'<div class="panel">{"".join(shown)}</div>'}
    return {kind: value for kind, value in data.items() if kind != WIDGET}


def _without_lost_pictures(source: str, attachments: Collection[str]) -> str:
    """Markdown with its description in place of a picture that the cell lacks: nbconvert refuses such cells."""
    return re.sub(
        r"!\[([^]]*)\]\(attachment:([^)]*)\)",
        lambda found: found[0] if found[2] in attachments else found[1],
        source,
    )


def _offline(body: str) -> str:
    """HTML without pictures, scripts and style sheets that a browser would have to fetch."""
    body = re.sub(r'<img\b[^>]*?\balt="([^"]*)"[^>]*?\bsrc="(?!data:)[^"]*"[^>]*>', r"\1", body)
    return re.sub(r'<(?:img|script|link)\b[^>]*?\b(?:src|href)="(?!data:)[^"]*"[^>]*>(?:</script>)?', "", body)


def _links(body: str, pages: Collection[str]) -> str:
    """Links to other notebooks lead to their pages; those to other files, which a page does not have, become text."""

    def link(found: re.Match[str]) -> str:
        target, _, place = found["target"].partition("#")
        if not target or re.match(r"https?:|data:|mailto:", target):
            return found[0]
        if target.endswith(".ipynb") and (name := target.removesuffix(".ipynb")) in pages:
            return f'<a href="{name}.html{"#" * bool(place)}{place}">{found["text"]}</a>'
        return found["text"]

    return re.sub(r'<a\b[^>]*?href="(?P<target>[^"]*)"[^>]*>(?P<text>.*?)</a>', link, body, flags=re.DOTALL)


def _json(value: Any) -> str:
    """JSON that cannot end the script element around it."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _highlighting() -> str:
    """Colours of code in both themes."""
    try:
        from pygments.formatters import HtmlFormatter
    except ImportError:  # a page of a vector has no code
        return ""
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "github-dark"))
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}"
