"""The notebooks in JupyterLab and a browser, without network. Pictures are written to tests/output."""

import nbformat
import pytest
from playwright.sync_api import expect

from memlab import MemVector
from memlab.texts import random_words
from tests.browser_lab import OUTPUT, errors, set_theme
from tests.browser_moves import PANEL, finished, opened, picture, read_through, wander

pytestmark = [pytest.mark.browser, pytest.mark.real]
STUDY = ".memlab-study-panel"


def test_first_notebook(lab):
    page, store = opened(lab, "01_cram_and_decode.ipynb")
    panel = page.locator(PANEL).first

    # Cram: the curve changes while the training runs.
    panel.locator("button:has-text('Cram')").click()
    page.wait_for_selector(f"{PANEL} .memlab-status:has-text('Step')", timeout=60_000)
    expect(panel.locator("button:has-text('Cram')")).to_be_disabled()
    early = panel.locator("svg").first.inner_html()
    finished(page)
    assert panel.locator("svg").first.inner_html() != early
    assert "exact" in panel.inner_text()
    assert panel.locator(".memlab-decoded").inner_text().startswith("The salt ferry left Quell")
    assert panel.locator(".memlab-wrong").count() == 0

    # Pictures in both themes.
    picture(page, "01-panel-light")
    page.screenshot(path=str(OUTPUT / "01-page-light.png"))
    set_theme(page, "JupyterLab Dark")
    picture(page, "01-panel-dark")
    page.screenshot(path=str(OUTPUT / "01-page-dark.png"))

    # The table and the chart can be downloaded.
    with page.expect_download() as table:
        panel.locator("a:has-text('Table')").click()
    rows = table.value.path().read_text().splitlines()
    assert rows[0] == "step,loss,accuracy"
    assert len(rows) > 5
    with page.expect_download() as drawn:
        panel.locator("a:has-text('Picture')").click()
    assert drawn.value.path().read_text().startswith("<svg")

    # Every control has an effect.
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
    stored = [store.get(key) for key in store.keys()]
    (own,) = [mem for mem in stored if mem.text.id == "typed"]
    assert (own.n, own.k, own.recipe.seed, own.exact) == (12, 2, 7, True)
    assert isinstance(own, MemVector)

    # The keyboard moves a slider, and its number box follows.
    box = panel.locator("input[type=number]").first
    panel.locator(".noUi-handle").first.focus()
    page.keyboard.press("ArrowRight")
    expect(box).to_have_value("13")

    # Stop: the text of a half-trained vector is shown, wrong tokens are marked.
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

    # The status line explains bad input.
    words.fill("")
    panel.locator("button:has-text('Cram')").click()
    finished(page, "is empty")

    assert errors(page) == []
    assert page.refused == []


def test_first_notebook_in_pictures(lab):
    read_through(lab[1], "01")


def test_second_notebook(lab):
    page, store = opened(lab, "04_the_search.ipynb")
    panel = page.locator(STUDY).first
    panel.scroll_into_view_if_needed()  # JupyterLab does not draw cells far from the view, and they have no text then
    question, setting, passage = (panel.locator("select").nth(i) for i in range(3))

    # Before anything is pressed the whole panel fits; it opens with a telling question.
    page.wait_for_selector(f"{STUDY} svg:has-text('norm of the vector')")
    assert panel.bounding_box()["height"] < 850

    # Every question has its own chart and ranking; both include the default.
    seen = set()
    for name in question.locator("option").all_text_contents():
        question.select_option(label=name)
        page.wait_for_selector(f'{STUDY} svg:has-text("{name.split(" (")[0]}")')
        assert "memlab" in panel.locator("table").inner_text()
        seen.add(panel.locator("svg.marks").first.inner_html())
    assert len(seen) == question.locator("option").count() >= 5
    assert panel.bounding_box()["height"] < 850

    # Run a setting again, live: a rule moves in the chart, and the run becomes a mark next to the stored one.
    question.select_option(label="norm of the vector")
    page.wait_for_selector(f"{STUDY} svg:has-text('norm of the vector')")
    setting.select_option(label="memlab")
    passage.select_option(index=1)
    rules = panel.locator("svg.marks .mark-rule path, svg.marks .mark-rule line")
    at_rest = rules.count()
    panel.locator("button:has-text('Run it again')").click()
    page.wait_for_selector(f"{STUDY} .memlab-status:has-text('Step')", timeout=60_000)
    page.wait_for_function(
        "([panel, count]) => document.querySelectorAll(panel + ' svg.marks .mark-rule path, ' + panel + "
        "' svg.marks .mark-rule line').length > count",
        arg=[STUDY, at_rest],
        timeout=60_000,
    )
    finished(page, "In the stored table", STUDY)
    assert panel.locator(".memlab-badge-exact").count() == 1
    page.wait_for_selector(f"{STUDY} svg.marks text:has-text('steps, stored')")
    assert len(list(store.keys())) >= 1
    picture(page, "04-panel-light", STUDY)
    set_theme(page, "JupyterLab Dark")
    picture(page, "04-panel-dark", STUDY)

    # Stop works, and the table can be downloaded. The mark of the other setting stays.
    setting.select_option(label="norm 10")
    panel.locator("button:has-text('Run it again')").click()
    page.wait_for_selector(f"{STUDY} .memlab-status:has-text('Step')", timeout=60_000)
    panel.locator("button:has-text('Stop')").click()
    finished(page, "Stopped", STUDY)
    page.wait_for_selector(f"{STUDY} svg.marks text:has-text('norm 10: ')")
    assert panel.locator("svg.marks text:has-text('memlab: ')").count() == 1
    with page.expect_download() as table:
        panel.locator("a:has-text('Table')").click()
    assert table.value.path().read_text().startswith("step,loss,accuracy")

    wander(lab, "04_the_search.ipynb", STUDY)
    read_through(page, "04")


CAPACITY = ".memlab-capacity-panel"


def test_capacity(lab):
    page, _ = opened(lab, "02_how_much_fits.ipynb")
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
    kind.select_option("classics")  # their vectors hold text of books and are not bundled
    page.wait_for_selector(f"{CAPACITY} .memlab-status:has-text('not in the store')")
    expect(panel.locator("button:has-text('Decode it now')")).to_be_disabled()
    picture(page, "03-absent-dark", CAPACITY)
    kind.select_option("originals")
    wander(lab, "02_how_much_fits.ipynb", CAPACITY)
    read_through(page, "03")


INFORMATION = ".memlab-information-panel"


def test_information_not_length(lab):
    page, _ = opened(lab, "03_bits_not_tokens.ipynb")
    panel = page.locator(INFORMATION).first
    read = panel.locator("button:has-text('Read it')")
    read.click()
    finished(page, "bits", INFORMATION)
    bars = panel.locator(".memlab-window")
    wide = bars.count()
    assert wide > 0
    assert "Predicted before any training" in panel.inner_text()
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
    wander(lab, "03_bits_not_tokens.ipynb", INFORMATION)
    read_through(page, "04")


def test_norms_and_neighbours(lab):
    page, _ = opened(lab, "A2_geometry_in_detail.ipynb")
    assert page.refused == []
    read_through(page, "05")


RUNS = ".memlab-run-panel"


def test_your_own_analysis(lab):
    page, store = opened(lab, "09_your_own_analysis.ipynb")
    panel = page.locator(RUNS).first
    panel.scroll_into_view_if_needed()
    assert "0 of 6 done" in panel.inner_text()
    assert "are needed" in panel.inner_text()  # the reason why the short text was left out
    page.wait_for_selector(f"{RUNS} .memlab-status:has-text('6 to train: likely')", timeout=60_000)
    assert panel.bounding_box()["height"] < 850
    before = len(list(store.keys()))
    panel.locator("button:has-text('Run')").first.click()
    page.wait_for_selector(f"{RUNS} .memlab-status:has-text('Running for')", timeout=60_000)
    page.wait_for_selector(f"{RUNS} .memlab-status:has-text('of tokens right')", timeout=60_000)
    panel.locator("button:has-text('Stop')").click()
    finished(page, "Stopped", RUNS)
    assert "0 of 0" not in panel.inner_text()
    picture(page, "09-stopped-light", RUNS)
    panel.locator("button:has-text('Run')").first.click()
    finished(page, "Done:", RUNS)
    assert "6 of 6 done" in panel.inner_text()
    assert panel.locator(".memlab-badge-exact").count() == 6
    assert len(list(store.keys())) == before + 6
    with page.expect_download() as table:
        panel.locator("a:has-text('Table')").click()
    assert len(table.value.path().read_text().splitlines()) == 7
    panel.locator("button:has-text('Open')").nth(2).press("Enter")
    finished(page, "Opened:", RUNS)
    assert "The tide tables" in panel.locator(".memlab-tokens").first.inner_text()
    set_theme(page, "JupyterLab Dark")
    picture(page, "09-done-dark", RUNS)
    read_through(page, "09")


FAILING = """
from memlab import Plan, Recipe, Store, load
from memlab.panels import run_panel
from memlab.texts import originals
from memlab.training.job import TrainingJob

usual = TrainingJob.result
def failing(self):
    if self.passage.span.id == texts[1].id:
        raise RuntimeError("this job fails on purpose")
    return usual(self)
TrainingJob.result = failing

texts = originals()[:3]
panel = run_panel(Plan.grid(load("toy:gemma3"), texts, tokens=5, recipes=Recipe.default(k=4)), Store())
panel
"""


def test_a_failed_job_shows_its_error_and_the_others_run(lab):
    _, _, store = lab
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    written = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(FAILING.strip())], metadata=kernel)
    nbformat.write(written, store.path.parent / "notebooks" / "99_failing.ipynb")
    page, _ = opened(lab, "99_failing.ipynb")
    panel = page.locator(RUNS).first
    panel.locator("button:has-text('Run')").click()
    finished(page, "Done: 2 trained now", RUNS)
    assert "2 of 3 done, 0 running, 1 failed" in panel.inner_text()
    assert "RuntimeError: this job fails on purpose" in panel.locator(".memlab-error").first.inner_text()
    picture(page, "99-failed-light", RUNS)
    set_theme(page, "JupyterLab Dark")
    picture(page, "99-failed-dark", RUNS)
    assert errors(page) == []
