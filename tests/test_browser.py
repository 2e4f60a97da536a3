"""The notebooks in a real JupyterLab and a real browser, with the network shut; pictures are left in tests/output."""

import json
import random
import urllib.request
from contextlib import suppress

import nbformat
import psutil
import pytest
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from playwright.sync_api import expect

from memlab import MemVector, Store
from memlab.texts import random_words
from tests.browser_lab import OUTPUT, browser_page, errors, jupyter_lab, open_notebook, run_all, set_theme

pytestmark = [pytest.mark.browser, pytest.mark.real]
PANEL = ".memlab-cram-panel"
STUDY = ".memlab-study-panel"


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with jupyter_lab(folder, store=folder / "store") as address, browser_page(browser) as page:
        yield address, page, Store(folder / "store")


def finished(page, word="Done", panel=PANEL):
    page.wait_for_selector(f"{panel} .memlab-status:has-text('{word}')", timeout=180_000)


def picture(page, name, panel=PANEL):
    """The panel alone, and fail if something in it is wider than it is."""
    panel = page.locator(panel).first
    panel.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    panel.screenshot(path=str(OUTPUT / f"{name}.png"))
    hidden = panel.evaluate(
        """p => [...p.querySelectorAll('svg, table, .memlab-decoded, .memlab-status')].filter(e => {
             const a = e.getBoundingClientRect(), b = p.getBoundingClientRect();
             return a.right > b.right + 2 || a.width === 0 }).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert not hidden


def test_first_notebook(lab):
    page, store = opened(lab, "01_cram_and_decode.ipynb")
    panel = page.locator(PANEL).first

    # Cram, and watch it move.
    panel.locator("button:has-text('Cram')").click()
    page.wait_for_selector(f"{PANEL} .memlab-status:has-text('Step')", timeout=60_000)
    expect(panel.locator("button:has-text('Cram')")).to_be_disabled()
    early = panel.locator("svg").first.inner_html()
    finished(page)
    assert panel.locator("svg").first.inner_html() != early
    assert "exact" in panel.inner_text()
    assert panel.locator(".memlab-decoded").inner_text().startswith("The salt ferry left Quell")
    assert panel.locator(".memlab-wrong").count() == 0

    # Both themes, as the reader sees them.
    picture(page, "01-panel-light")
    page.screenshot(path=str(OUTPUT / "01-page-light.png"))
    set_theme(page, "JupyterLab Dark")
    picture(page, "01-panel-dark")
    page.screenshot(path=str(OUTPUT / "01-page-dark.png"))

    # Table and picture can be taken away.
    with page.expect_download() as table:
        panel.locator("a:has-text('Table')").click()
    rows = table.value.path().read_text().splitlines()
    assert rows[0] == "step,loss,accuracy"
    assert len(rows) > 5
    with page.expect_download() as drawn:
        panel.locator("a:has-text('Picture')").click()
    assert drawn.value.path().read_text().startswith("<svg")

    # Every control moves something.
    panel.locator("select").select_option("(my own words)")
    words = panel.locator("textarea")
    expect(words).to_have_value("")
    words.fill(
        "Seven green kettles argued about the weather until the postman, who had no opinion, sat down among them."
    )
    for box, number in zip(panel.locator("input[type=number]").all(), (12, 2, 7), strict=True):
        box.fill(str(number))
        box.press("Enter")
    panel.locator("button:has-text('Cram')").click()
    page.wait_for_selector(f"{PANEL} .memlab-decoded:has-text('Seven green kettles')", timeout=180_000)
    finished(page)
    made = [store.get(key) for key in store.keys()]
    (own,) = [m for m in made if m.text.id == "typed"]
    assert (own.n, own.k, own.recipe.seed, own.exact) == (12, 2, 7, True)
    assert isinstance(own, MemVector)

    # Sliders answer to the keyboard, and the box follows.
    box = panel.locator("input[type=number]").first
    panel.locator(".noUi-handle").first.focus()
    page.keyboard.press("ArrowRight")
    expect(box).to_have_value("13")

    # Stop: what a half-trained vector says, wrong tokens marked.
    box.fill("60")
    box.press("Enter")
    words.fill(random_words(1, words=80)[0].string)
    panel.locator("button:has-text('Cram')").click()
    page.wait_for_selector(f"{PANEL} .memlab-status:has-text('Step')", timeout=60_000)
    panel.locator("button:has-text('Stop')").click()
    finished(page, "Stopped")
    assert panel.locator(".memlab-wrong").count() > 0
    picture(page, "01-stopped-dark")
    set_theme(page, "JupyterLab Light")
    picture(page, "01-stopped-light")

    # Bad input is answered in the panel.
    words.fill("")
    panel.locator("button:has-text('Cram')").click()
    finished(page, "is empty")

    assert errors(page) == []
    assert page.refused == []


def opened(lab, name):
    """A notebook in a fresh workspace, run to its end without an error: the page and the store it writes to."""
    address, page, store = lab
    open_notebook(page, address, name)
    set_theme(page, "JupyterLab Light")
    run_all(page)
    assert errors(page) == []
    return page, store


def wander(lab, name, panel, moves=40):
    """Move controls at random, work or no work going on: no error, and the kernel grows by less than 50 MB."""
    address, page, _ = lab
    rng, panel = random.Random(name), page.locator(panel).first
    controls = panel.locator("select, input[type=number], input[type=checkbox], button, .noUi-handle")
    stop = panel.locator("button:has-text('Stop')")

    def end():
        if stop.count() and stop.first.is_enabled():  # to be pressed while work goes on, and only then
            with suppress(PlaywrightTimeout):  # it may end just now
                stop.first.click(timeout=2000)

    def settle():
        if stop.count():
            with suppress(AssertionError):  # a curve is trained for minutes
                expect(stop.first).to_be_disabled(timeout=20_000)
            end()
            expect(stop.first).to_be_disabled(timeout=180_000)
        elif panel.locator("button").count():  # the first one starts work, and waits while it goes on
            expect(panel.locator("button").first).to_be_enabled(timeout=180_000)
        expect(panel).not_to_contain_text("Laying out", timeout=180_000)
        page.wait_for_timeout(1000)

    def move(control):
        if not (control.is_visible() and control.is_enabled()):
            return 0
        try:
            kind = control.evaluate("e => e.tagName + ' ' + (e.type || '')", timeout=2000)
            if kind.startswith("SELECT"):
                control.select_option(index=rng.randrange(control.locator("option").count()), timeout=2000)
            elif kind == "INPUT number":
                low, high = (int(float(control.get_attribute(end) or 50)) for end in ("min", "max"))
                control.fill(str(rng.randint(low, high)), timeout=2000)
                control.press("Enter")
            elif "noUi" in (control.get_attribute("class") or ""):
                control.press(rng.choice(["ArrowLeft", "ArrowRight", "PageUp", "PageDown"]), timeout=2000)
            else:
                control.click(timeout=2000)
        except PlaywrightTimeout:  # work began just now, or what was there is drawn anew
            return 0
        page.wait_for_timeout(rng.choice([20, 100, 400]))
        return 1

    for select in panel.locator("select").all():  # whatever is loaded once is loaded now
        for i in range(min(4, select.locator("option").count())):
            select.select_option(index=i)
            page.wait_for_timeout(500)
            settle()
    for button in panel.locator("button:enabled").all():
        button.click()
        settle()
    held = []
    for _ in range(2 + moves // 10):
        made = 0
        while made < 10:
            made += move(controls.nth(rng.randrange(controls.count())))
        end()
        settle()
        held.append(kernel_memory(address, name) / 2**20)
    # The first still load what is loaded once: a tenth passage's shapes, the heap of what draws pictures.
    grown = held[-1] - held[1]
    print(f"{name}: {moves} moves, the kernel grew by {grown:.0f} MB: {', '.join(f'{m:.0f}' for m in held)}")
    assert errors(page) == []
    assert grown < 50


def kernel_memory(address, name):
    """Bytes that the kernel of this notebook holds."""
    with urllib.request.urlopen(f"{address}/api/sessions") as answer:
        kernel = next(s["kernel"]["id"] for s in json.load(answer) if s["path"].endswith(name))
    children = psutil.Process().children(recursive=True)
    return next(p for p in children if any(kernel in part for part in p.cmdline())).memory_info().rss


def read_through(page, number):
    """No error, no request off this machine, and pictures of every output in both themes; charts are drawn."""
    assert errors(page) == []
    assert page.refused == []
    outputs = page.locator(".jp-Cell-outputWrapper")
    assert page.locator(".vega-embed canvas, .vega-embed svg").count() >= 1
    whole = "e => { const a = e.getBoundingClientRect(); return a.top > 60 && a.bottom < innerHeight - 20 }"
    for theme in ("Light", "Dark"):
        set_theme(page, f"JupyterLab {theme}")
        for i in range(outputs.count()):
            if i and outputs.nth(i).evaluate(whole):
                continue  # the last picture has it
            outputs.nth(i).scroll_into_view_if_needed()
            page.wait_for_timeout(150)
            page.screenshot(path=str(OUTPUT / f"{number}-{theme.lower()}-{i:02d}.png"))


def test_the_whole_notebook_can_be_read(lab):
    read_through(lab[1], "01")


def test_second_notebook(lab):
    page, store = opened(lab, "02_what_limits_a_vector.ipynb")
    panel = page.locator(STUDY).first
    question, setting, passage = (panel.locator("select").nth(i) for i in range(3))

    # Every question has a chart and a ranking of its own, with the default in both.
    seen = set()
    for name in question.locator("option").all_inner_texts():
        question.select_option(name)
        page.wait_for_selector(f'{STUDY} svg:has-text("{name}")')
        assert "incumbent" in panel.locator("table").inner_text()
        seen.add(panel.locator("svg").first.inner_html())
    assert len(seen) == question.locator("option").count() >= 5

    # One of them again, live; the table's own answer stands beside it.
    question.select_option("norm of the vector")
    page.wait_for_selector(f"{STUDY} svg:has-text('norm of the vector')")
    setting.select_option("incumbent")
    passage.select_option(index=1)
    panel.locator("button:has-text('Run it again')").click()
    page.wait_for_selector(f"{STUDY} .memlab-status:has-text('Step')", timeout=60_000)
    finished(page, "In the stored table", STUDY)
    assert "exact" in panel.locator("text=Decoded from the vector alone").first.inner_text()
    assert len(list(store.keys())) >= 1
    picture(page, "02-panel-light", STUDY)
    set_theme(page, "JupyterLab Dark")
    picture(page, "02-panel-dark", STUDY)

    # Stop works, and the table can be taken away.
    setting.select_option(index=1)
    passage.select_option(index=2)
    panel.locator("button:has-text('Run it again')").click()
    page.wait_for_selector(f"{STUDY} .memlab-status:has-text('Step')", timeout=60_000)
    panel.locator("button:has-text('Stop')").click()
    finished(page, "Stopped", STUDY)
    with page.expect_download() as table:
        panel.locator("a:has-text('Table')").click()
    assert table.value.path().read_text().startswith("step,loss,accuracy")

    wander(lab, "02_what_limits_a_vector.ipynb", STUDY)
    read_through(page, "02")


CAPACITY = ".memlab-capacity-panel"


def test_capacity(lab):
    page, _ = opened(lab, "03_capacity.ipynb")
    panel = page.locator(CAPACITY).first
    kind, passage = panel.locator("select").nth(1), panel.locator("select").nth(2)
    kind.select_option("originals")
    before = panel.locator("svg").first.inner_html()
    passage.select_option(index=1)
    page.wait_for_function(f"document.querySelector('{CAPACITY} svg').innerHTML !== {before!r}")
    panel.locator("button:has-text('Decode it now')").click()
    finished(page, "as stored", CAPACITY)
    assert "NOT" not in panel.locator(".memlab-status").inner_text()
    assert len(panel.locator(".memlab-decoded").inner_text()) > 200
    assert "tokens scored" in panel.locator("table").inner_text()
    picture(page, "03-panel-light", CAPACITY)
    set_theme(page, "JupyterLab Dark")
    picture(page, "03-panel-dark", CAPACITY)
    kind.select_option("classics")  # whose vectors hold book text and are not shipped
    page.wait_for_selector(f"{CAPACITY} .memlab-status:has-text('not in the store')")
    expect(panel.locator("button:has-text('Decode it now')")).to_be_disabled()
    picture(page, "03-absent-dark", CAPACITY)
    kind.select_option("originals")
    wander(lab, "03_capacity.ipynb", CAPACITY)
    read_through(page, "03")


INFORMATION = ".memlab-information-panel"


def test_information_not_length(lab):
    page, _ = opened(lab, "04_information_not_length.ipynb")
    panel = page.locator(INFORMATION).first
    read = panel.locator("button:has-text('Read it')")
    read.click()
    finished(page, "bits", INFORMATION)
    bars = panel.locator(".memlab-window")
    wide = bars.count()
    assert wide > 0
    assert "Predicted, before any training" in panel.inner_text()
    picture(page, "04-panel-light", INFORMATION)
    box = panel.locator("input[type=number]").first
    box.fill("50")
    box.press("Enter")
    page.wait_for_function(f"document.querySelectorAll('{INFORMATION} .memlab-window').length > {1.5 * wide}")
    set_theme(page, "JupyterLab Dark")
    picture(page, "04-panel-dark", INFORMATION)
    panel.locator("select").first.select_option("(my own words)")
    read.click()
    finished(page, "is empty", INFORMATION)
    panel.locator("textarea").fill(
        "Seven green kettles argued about the weather until the postman sat down among them."
    )
    read.click()
    finished(page, "Done", INFORMATION)
    assert "Seven green" in panel.locator(".memlab-costs").inner_text()
    wander(lab, "04_information_not_length.ipynb", INFORMATION)
    read_through(page, "04")


def test_norms_and_neighbours(lab):
    page, _ = opened(lab, "05_norms_and_neighbours.ipynb")
    assert page.refused == []
    read_through(page, "05")


RUNS = ".memlab-run-panel"


def test_your_own_analysis(lab):
    page, store = opened(lab, "10_your_own_analysis.ipynb")
    panel = page.locator(RUNS).first
    assert "0 of 6 done" in panel.inner_text()
    assert "were asked for" in panel.inner_text()  # why the short text was left out
    before = len(list(store.keys()))
    panel.locator("button:has-text('Run')").click()
    page.wait_for_selector(f"{RUNS} .memlab-status:has-text('Running for')", timeout=60_000)
    panel.locator("button:has-text('Stop')").click()
    finished(page, "Stopped", RUNS)
    picture(page, "10-stopped-light", RUNS)
    panel.locator("button:has-text('Run')").click()
    finished(page, "Done:", RUNS)
    assert "6 of 6 done" in panel.inner_text()
    assert len(list(store.keys())) == before + 6
    set_theme(page, "JupyterLab Dark")
    picture(page, "10-done-dark", RUNS)
    with page.expect_download() as table:
        panel.locator("a:has-text('Table')").click()
    assert len(table.value.path().read_text().splitlines()) == 7
    read_through(page, "10")


UNLUCKY = """
from memlab import Plan, Recipe, Store, load
from memlab.panels import run_panel
from memlab.texts import originals
from memlab.training import Training

usual = Training.result
def unlucky(self, portable):
    if self.passage.span.id == texts[1].id:
        raise RuntimeError("this one was made to fail")
    return usual(self, portable)
Training.result = unlucky

texts = originals()[:3]
panel = run_panel(Plan.grid(load("toy:gemma3"), texts, tokens=5, recipes=Recipe.default(k=4)), Store())
panel
"""


def test_a_failed_run_is_seen_with_its_error_and_stops_no_other(lab):
    _, _, store = lab
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    written = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(UNLUCKY.strip())], metadata=kernel)
    nbformat.write(written, store.path.parent / "notebooks" / "99_unlucky.ipynb")
    page, _ = opened(lab, "99_unlucky.ipynb")
    panel = page.locator(RUNS).first
    panel.locator("button:has-text('Run')").click()
    finished(page, "Done: 2 trained now", RUNS)
    assert "2 of 3 done, 0 running, 1 failed" in panel.inner_text()
    assert "RuntimeError: this one was made to fail" in panel.inner_text()
    picture(page, "99-failed-light", RUNS)
    set_theme(page, "JupyterLab Dark")
    picture(page, "99-failed-dark", RUNS)
    assert errors(page) == []


MAP = ".memlab-map-panel"


def test_the_map_is_brushed_and_read(lab):
    page, _ = opened(lab, "06_map_of_vectors.ipynb")
    panel = page.locator(MAP).first
    panel.scroll_into_view_if_needed()
    canvas = panel.locator("canvas, svg.marks").first
    canvas.wait_for(timeout=60_000)
    page.wait_for_selector(f"{MAP} .memlab-status:has-text('PCA of')")
    page.wait_for_timeout(1000)

    def brush():
        panel.scroll_into_view_if_needed()
        box = panel.locator("canvas, svg.marks").first.bounding_box()
        x, y = box["x"] + 0.25 * box["width"], box["y"] + 0.2 * box["height"]
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 0.2 * box["width"], y + 0.2 * box["height"], steps=5)
        page.mouse.move(x + 0.4 * box["width"], y + 0.5 * box["height"], steps=5)
        page.mouse.up()
        page.wait_for_selector(f"{MAP} .memlab-status:has-text('vectors under the brush')", timeout=30_000)
        return int(panel.locator(".memlab-status:has-text('under the brush')").inner_text().split()[0])

    assert brush() > 0
    assert panel.locator("table tr").count() > 1
    picture(page, "06-panel-light", MAP)

    # Other colours, another map: each is drawn anew, and can be brushed again.
    panel.locator("select").nth(1).select_option("passage")
    page.wait_for_selector(f"{MAP} .memlab-status:has-text('Drag over points')", timeout=30_000)
    panel.locator("select").nth(0).select_option("t-SNE")
    page.wait_for_selector(f"{MAP} .memlab-status:has-text('t-SNE of')", timeout=60_000)
    page.wait_for_timeout(1000)
    brush()
    set_theme(page, "JupyterLab Dark")
    picture(page, "06-panel-dark", MAP)
    with page.expect_download() as table:
        panel.locator("a:has-text('Table')").click()
    assert table.value.path().read_text().startswith("i,x,y,kind")
    panel.locator(".vega-embed summary").first.click()
    picture(page, "06-menu-dark", MAP)
    with page.expect_download() as image:
        panel.locator("a:has-text('Save as SVG')").click()
    assert "of near neighbours stay near" in image.value.path().read_text()
    wander(lab, "06_map_of_vectors.ipynb", MAP)
    read_through(page, "06")


LOOK = ".memlab-attention-panel"


def test_inside_the_model(lab):
    page, _ = opened(lab, "09_inside_the_model.ipynb")
    panel = page.locator(LOOK).first
    panel.locator("button:has-text('Look')").click()
    finished(page, "the vector saves", LOOK)
    first = panel.locator("svg").first.inner_html()
    panel.locator("select").nth(1).select_option("the sink token")
    page.wait_for_selector(f"{LOOK} svg:has-text('attention to the sink token')")
    assert panel.locator("svg").first.inner_html() != first
    picture(page, "09-panel-light", LOOK)
    panel.locator("select").nth(0).select_option(index=7)
    panel.locator("button:has-text('Look')").click()
    finished(page, "the vector saves", LOOK)
    set_theme(page, "JupyterLab Dark")
    picture(page, "09-panel-dark", LOOK)
    wander(lab, "09_inside_the_model.ipynb", LOOK)
    read_through(page, "09")


PATH = ".memlab-path-panel"


def test_between_solutions(lab):
    page, _ = opened(lab, "07_between_solutions.ipynb")
    panel = page.locator(PATH).first
    first = panel.locator("svg").first.inner_html()
    panel.locator("select").nth(0).select_option(index=3)
    page.wait_for_function(f"document.querySelector('{PATH} svg').innerHTML !== {first!r}")
    place = panel.locator("input[type=number]").first
    for at, expected in (("0", "exact"), ("50", "not exact")):
        place.fill(at)
        place.press("Enter")
        panel.locator("button:has-text('Read this place')").click()
        finished(page, f"right at {at}%", PATH)
        assert ("memlab-wrong" in panel.inner_html()) == (expected == "not exact")
    picture(page, "07-panel-light", PATH)
    panel.locator("input[type=checkbox]").check()
    panel.locator("button:has-text('Read this place')").click()
    page.wait_for_selector(f"{PATH} .memlab-status:has-text('of the curve')", timeout=60_000)
    panel.locator("button:has-text('Stop')").click()
    finished(page, "Stopped", PATH)
    set_theme(page, "JupyterLab Dark")
    picture(page, "07-panel-dark", PATH)
    wander(lab, "07_between_solutions.ipynb", PATH)
    read_through(page, "07")


MOVE = ".memlab-move-panel"


def test_robustness(lab):
    page, _ = opened(lab, "08_robustness.ipynb")
    panel = page.locator(MOVE).first
    amount = panel.locator("input[type=number]").first

    def move():
        button = panel.locator("button:has-text('Move it')")
        button.click()
        expect(button).to_be_disabled()
        expect(button).to_be_enabled(timeout=60_000)
        finished(page, "cosine", MOVE)

    for way, much, expected in ((0, "2", "still decodes exactly"), (0, "60", "tokens right"), (2, "2", "cosine")):
        panel.locator("select").nth(1).select_option(index=way)
        amount.fill(much)
        amount.press("Enter")
        move()
        assert expected in panel.inner_text()
    picture(page, "08-panel-light", MOVE)
    panel.locator("select").nth(0).select_option(index=5)
    panel.locator("select").nth(1).select_option(index=1)
    move()
    set_theme(page, "JupyterLab Dark")
    picture(page, "08-panel-dark", MOVE)
    wander(lab, "08_robustness.ipynb", MOVE)
    read_through(page, "08")
