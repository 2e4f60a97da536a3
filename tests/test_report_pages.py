"""``memlab report``: pages that open without a network, and whose charts answer the pointer."""

import json
import os
import re
import time

import nbformat
import pytest
from typer.testing import CliRunner

from memlab import Recipe, Store, Text, charts, cram, load
from memlab.cli import app
from memlab.pages import html
from memlab.pages.html import facts_of, live_chart, of_notebook
from memlab.pages.notebooks import Executed, PageError, all_notebooks, execute, find_notebook
from memlab.pages.report import describe, require_ours, write_report
from tests.browser_lab import ROOT, browser_page
from tests.browser_rules import answers, breaches

CHART = """
from memlab import charts, load
charts.use_offline_renderer()
charts.training_curve(__import__("pandas").DataFrame({"step": [0, 1], "loss": [2.0, 1.0], "accuracy": [0.0, 1.0]}))
"""
PANEL = """
from memlab.panels import cram_panel, setup
lm, store = setup("toy:gemma3")
panel = cram_panel(lm, store)
panel
"""
PRESS = """
panel.tokens.value = 3
panel.start.click()
panel.wait(120)
"""


def notebook(path, *cells, title="# A page\n\nWhat is in it? A chart."):
    code = [nbformat.v4.new_code_cell(cell.strip()) for cell in cells]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(title), *code], metadata=kernel), path)
    return path


def report(folder, *options):
    return CliRunner().invoke(app, ["report", str(folder), *map(str, options)])


# Without a kernel ------------------------------------------------------------------------------------------------


def test_notebooks_are_found_by_number_name_and_path(tmp_path):
    names = [file.stem for file in all_notebooks()]
    assert names == sorted(file.stem for file in (ROOT / "notebooks").glob("*.ipynb"))
    assert find_notebook(names[1]).stem == find_notebook(names[1][:2]).stem == names[1]
    assert find_notebook(f"{names[1]}.ipynb").stem == names[1]
    mine = notebook(tmp_path / "mine.ipynb")
    assert find_notebook(str(mine)) == mine
    for unknown in ("12", "0", str(tmp_path / "absent.ipynb")):
        with pytest.raises(PageError, match="with this name"):
            find_notebook(unknown)


def executed(*cells):
    return Executed(nbformat.v4.new_notebook(cells=list(cells)))


def test_a_page_fetches_nothing(tmp_path):
    (tmp_path / "drawing.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    text = (
        "![badge](https://example.org/badge.svg) ![drawing](drawing.svg) [next](02_b.ipynb#top) [other](03_c.ipynb) "
        "[file](../README.md) [far](https://example.org) ![lost](attachment:x.png)"
    )
    body = of_notebook(executed(nbformat.v4.new_markdown_cell(text)), tmp_path, {"02_b"})
    assert not re.findall(r'src="(?!data:)', body)
    assert "badge" in body
    assert 'src="data:image/svg+xml;base64,' in body
    assert '<a href="02_b.html#top">next</a>' in body
    assert '<a href="https://example.org">far</a>' in body
    assert "03_c" not in body
    assert "README" not in body
    assert "lost" in body


def test_a_page_has_charts_in_place_of_specifications_and_panels(tmp_path):
    spec = charts.spectrum([0.5, 0.25]).to_dict()
    chart = {"application/vnd.vegalite.v5+json": spec, "image/png": "AAAA", "text/plain": "<chart>"}
    widget = {html.WIDGET: {"model_id": "abc"}, "text/html": "<p>early</p>"}
    unknown = {html.WIDGET: {"model_id": "xyz"}, "text/html": "<p>other</p>"}
    outputs = [nbformat.v4.new_output("display_data", data=data) for data in (chart, widget, unknown)]
    run = executed(nbformat.v4.new_code_cell("1", outputs=outputs))
    run.panels = {"abc": ["<b>late</b>", spec]}
    body = of_notebook(run, tmp_path)
    assert body.count('class="live"') == 2
    assert "<b>late</b>" in body
    assert "early" not in body
    assert "other" in body
    inside = re.findall(r'<script type="application/json">(.*?)</script>', body)
    assert [json.loads(text)["spec"].keys() >= {"config"} for text in inside]
    assert '<details class="code">' in body


def test_data_of_a_chart_cannot_end_its_script():
    spec = {"title": "</script><script>alert(1)</script><!--"}
    inside = live_chart(spec, "picture").partition('<script type="application/json">')[2]
    assert json.loads(inside[: inside.index("</script>")])["spec"] == spec


def test_title_and_finding_of_a_notebook():
    def of(*cells):
        return describe(nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_markdown_cell, cells))))

    assert of("# 3 · How much?\n\nIs it?", "**What to remember.** A\nlot, [of](x.html) *it*.\n\nMore.") == (
        "3 · How much?",
        "A lot, of it.",
    )
    assert of("# Rain\n\nSee [this](x.html). Is it *wet*, or not? It is.") == ("Rain", "Is it wet, or not?")
    assert of("# Rain\n\nWe ask: is it?") == ("Rain", "We ask: is it?")
    assert of("No title") == ("", "")


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "index.html").write_text("<html>mine</html>")
    (tmp_path / "file").write_text("mine")
    for folder, reason in ((tmp_path, "has other files"), (tmp_path / "file", "is not a folder")):
        with pytest.raises(PageError, match=reason):
            require_ours(folder)
        result = report(folder)
        assert result.exit_code == 2
        assert reason in result.stderr
    assert (tmp_path / "index.html").read_text() == "<html>mine</html>"
    require_ours(tmp_path / "new")


def test_bad_input_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "broken.ipynb").write_text("{")
    folder = tmp_path / "pages"
    for options in (
        ("--notebook", "77"),
        ("--notebook", tmp_path / "broken.ipynb"),
        ("--notebook", "02", "--notebook", "02_how"),
        ("--vector", "00000000"),
        ("--vector", "1"),
        ("--store", tmp_path / "absent", "--vector", "abcd"),
    ):
        result = report(folder, *options)
        assert result.exit_code == 2, (options, result.output)
        assert result.stderr.startswith("memlab: error: ")
        assert not folder.exists()


@pytest.mark.slow
def test_cards_of_vectors(tmp_path):
    lm, store = load("toy:gemma3"), Store(tmp_path / "store")
    (mem,) = cram(lm, lm.passage(Text("hello", "Hello <b>there"), 3), Recipe.default(k=4), store, progress=False)
    file = mem.save(tmp_path / "mine.safetensors")
    folder = tmp_path / "pages"
    result = report(folder, "--vector", mem.key[:8], "--store", store.path)
    assert result.exit_code == 0, result.output
    page = (folder / f"vector-{mem.key[:12]}.html").read_text()
    assert mem._repr_html_() in page
    assert "<b>there" not in page
    assert f"vector-{mem.key[:12]}.html" in (folder / "index.html").read_text()
    assert report(folder, "--vector", file).exit_code == 0  # the same page again
    bundled = next(Store.bundled().keys())
    assert report(folder, "--vector", bundled[:12]).exit_code == 0
    assert (folder / "index.html").read_text().count("vector-") == 2


# With a kernel ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """(folder, its notebooks, store) of a report on a notebook with a chart and a panel, and on one that fails."""
    folder = tmp_path_factory.mktemp("report")
    good = notebook(folder / "01_good.ipynb", CHART, PANEL, PRESS, title="# Good\n\n[next](02_bad.ipynb)")
    bad = notebook(folder / "02_bad.ipynb", CHART, "1 / 0", "print('after')")
    options = ("--notebook", good, "--notebook", bad, "--store", folder / "store")
    return folder / "pages", (good, bad), options, report(folder / "pages", *options)


@pytest.mark.slow
@pytest.mark.notebook
def test_notebooks_become_pages(pages):
    folder, _, _, result = pages
    assert result.exit_code == 1
    assert "02_bad.html: stopped at an error: ZeroDivisionError: division by zero" in result.stdout
    assert "error in 02_bad" in result.stderr
    assert {file.name for file in folder.iterdir()} == {"index.html", "01_good.html", "02_bad.html", "vega.js"}
    good, bad = ((folder / f"{name}.html").read_text() for name in ("01_good", "02_bad"))
    facts = facts_of(good)
    assert facts["model"].startswith("toy:gemma3")
    assert facts["charts"] == good.count('class="live"') >= 2
    assert "Done: " in good  # what the panel shows at the end, not when it was displayed
    assert '<a href="02_bad.html">next</a>' in good
    assert "ZeroDivisionError" in bad
    assert bad.count('class="live"') == 1
    assert "after" not in re.sub(r"<details.*?</details>", "", bad, flags=re.DOTALL)
    index = (folder / "index.html").read_text()
    assert "What is in it?" not in index  # an error takes its place
    assert "ZeroDivisionError" in index


@pytest.mark.slow
@pytest.mark.notebook
def test_pages_that_are_up_to_date_are_kept(pages):
    folder, (_, bad), options, _ = pages
    before = (folder / "01_good.html").stat().st_mtime_ns
    notebook(bad, CHART)
    result = report(folder, *options)
    assert result.exit_code == 0, result.output
    assert "01_good.html: up to date" in result.stdout
    assert (folder / "01_good.html").stat().st_mtime_ns == before
    assert "What is in it?" in (folder / "index.html").read_text()


@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.browser
def test_pages_are_alive_without_a_network(pages, browser):
    folder = pages[0]
    with browser_page(browser) as page:
        page.unroute("**/*")
        check_alive(page, folder, "01_good")
        (folder / "vega.js").rename(folder / "elsewhere")  # as in a mail with the page alone
        page.goto((folder / "02_bad.html").as_uri())
        assert page.locator(".live img").count() == 1
        (folder / "elsewhere").rename(folder / "vega.js")


def check_alive(page, folder, name):
    """Every chart of a page is drawn and answers the pointer, in both themes, and nothing is fetched."""
    fetched, problems = [], []
    page.on("request", lambda request: fetched.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.goto((folder / f"{name}.html").as_uri())
        wanted = page.locator(".chart").count()
        assert wanted == facts_of((folder / f"{name}.html").read_text())["charts"]
        page.wait_for_function(f"document.querySelectorAll('.live svg.marks').length === {wanted}", timeout=60_000)
        silent = [i for i in range(wanted) if not answers(page, page.locator(".live svg.marks").nth(i))]
        assert not silent, f"{name}: charts without a tooltip: {silent}"
        assert breaches(page.locator("main")) == []
    assert not problems
    assert {url.partition(":")[0] for url in fetched} <= {"file", "data", "blob"}
    return wanted


ALL = bool(os.environ.get("MEMLAB_ALL_NOTEBOOKS"))
SOME = ("02",)
"""Notebooks that take seconds. MEMLAB_ALL_NOTEBOOKS=1 takes all of them, which takes 10 minutes or more."""


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.browser
@pytest.mark.timeout(3600)
def test_report_of_the_notebooks_is_alive_without_a_network(tmp_path, browser):
    files = all_notebooks() if ALL else [find_notebook(name) for name in SOME]
    began = time.perf_counter()
    made = write_report(tmp_path / "pages", files, environment={"MEMLAB_STORE": str(tmp_path / "store")})
    seconds = time.perf_counter() - began
    assert [page.error for page in made] == [""] * len(files)
    size = sum(file.stat().st_size for file in (tmp_path / "pages").iterdir()) / 1e6
    with browser_page(browser) as page:
        page.unroute("**/*")
        drawn = sum(check_alive(page, tmp_path / "pages", file.stem) for file in files)
    print(f"report of {len(files)} notebooks: {drawn} charts, {size:.1f} MB, {seconds:.0f} s")
    assert size < 15


@pytest.mark.slow
@pytest.mark.notebook
def test_a_kernel_that_dies_is_an_error_of_its_page(tmp_path):
    done = execute(notebook(tmp_path / "dies.ipynb", "import os", "os._exit(1)"), {})
    assert "died" in done.error.casefold()
