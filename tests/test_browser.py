"""The notebooks in JupyterLab and a browser, without network. Pictures are written to tests/output."""

import os
import re
import shutil

import nbformat
import pytest
from playwright.sync_api import expect

from memlab import MemVector
from memlab.texts import random_words
from tests.browser_lab import OUTPUT, ROOT, errors, set_theme
from tests.browser_moves import PANEL, finished, opened, picture, read_through, wander

pytestmark = [pytest.mark.browser, pytest.mark.real]
STUDY = ".memlab-study-panel"


def test_first_notebook(lab):
    page, store = opened(lab, "01_cram_and_decode.ipynb")
    panel = page.locator(PANEL).first
    tokens, status = panel.locator(".memlab-token"), panel.locator(".memlab-developing .memlab-status")
    waiting, right = panel.locator(".memlab-token-waiting"), panel.locator(".memlab-token-right")

    # Before training: where the cut falls, what it will take, and all of it on one screen.
    expect(panel).to_contain_text("One vector holds about", timeout=60_000)
    expect(panel).to_contain_text("on this machine")
    expect(panel.locator(".memlab-token-bar")).to_have_count(1)
    assert panel.locator(".memlab-token-beyond").count() > 10
    picture(page, "01-before-light")

    # Cram: the text develops while the training runs.
    panel.locator("button:has-text('Cram')").click()
    developing = f"(n => 0 < n && n < 24)(document.querySelectorAll('{PANEL} .memlab-token-right').length)"
    page.wait_for_function(developing, timeout=60_000)
    expect(panel.locator("button:has-text('Cram')")).to_be_disabled()
    expect(tokens).to_have_count(24)
    assert 0 < right.count() < 24
    early = right.count()
    panel.screenshot(path=str(OUTPUT / "01-developing-light.png"))
    finished(page)
    assert right.count() == 24 > early
    expect(panel.locator(".memlab-badge-exact")).to_have_text("Exact")
    assert "".join(tokens.all_text_contents()).startswith("The salt ferry left Quell")
    expect(panel.locator(".memlab-token-wrong")).to_have_count(0)

    # Pictures in both themes.
    picture(page, "01-panel-light")
    if os.environ.get("MEMLAB_WRITE_PICTURES"):
        shutil.copy(OUTPUT / "01-panel-light.png", ROOT / "data" / "pictures" / "panel.png")
    page.screenshot(path=str(OUTPUT / "01-page-light.png"))
    set_theme(page, "JupyterLab Dark")
    picture(page, "01-panel-dark")
    page.screenshot(path=str(OUTPUT / "01-page-dark.png"))

    # Back through the steps, with the keyboard; a click on the curve; the line about a token.
    panel.locator(".memlab-developing .noUi-handle").focus()
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    expect(status).to_contain_text("step ")
    expect(waiting.first).to_be_visible()
    waiting.first.hover()
    expect(panel.locator(".memlab-tip")).to_contain_text("the model would write")
    picture(page, "01-back-dark")
    before, drawn = status.inner_text(), panel.locator(".vega-embed canvas, .vega-embed svg").first.bounding_box()
    page.mouse.click(drawn["x"] + 60, drawn["y"] + 90)
    expect(status).not_to_have_text(before)
    assert int(status.inner_text().split()[1]) < int(before.split()[1])
    panel.locator(".memlab-developing .noUi-handle").focus()
    page.keyboard.press("End")
    expect(status).to_have_text("decoded from the vector alone")
    tokens.nth(3).click()
    expect(panel.locator(".memlab-tip")).to_contain_text("Won at step")
    expect(panel.locator(".memlab-tip")).to_contain_text("bits without the vector")

    # The table, the picture and the vector can be downloaded; other notebooks are one click away.
    with page.expect_download() as table:
        panel.locator("a:has-text('Table')").click()
    rows = table.value.path().read_text().splitlines()
    assert rows[0] == "step,loss,accuracy"
    assert len(rows) > 5
    with page.expect_download() as drawn:
        panel.locator("a:has-text('Picture')").click()
    assert drawn.value.path().read_text().startswith("<svg")
    with page.expect_download() as file:
        panel.locator("a:has-text('Vector')").click()
    assert MemVector.load(file.value.path()).exact
    link = panel.locator("a:has-text('notebook 7')").evaluate("e => e.href")
    assert link == page.url.rpartition("/")[0] + "/07_robustness.ipynb"

    # The same again: it was in the store.
    panel.locator("button:has-text('Cram')").click()
    finished(page, "nothing was trained")
    expect(panel.locator(".memlab-badge-stored")).to_be_visible()
    expect(panel.locator(".memlab-badge-exact")).to_be_visible()

    # Every control has an effect. Own words may be shorter than asked for.
    panel.locator("select").select_option("(my own words)")
    words = panel.locator("textarea")
    expect(words).to_have_value("")
    words.fill("Seven green kettles argued about the weather.")
    expect(panel).to_contain_text("10 tokens: all of it.", timeout=60_000)
    words.fill(
        "Seven green kettles argued about the weather until the postman, who had no opinion, sat down among them."
    )
    for box, number in zip(panel.locator("input[type=number]").all(), (12, 2, 7), strict=True):
        box.fill(str(number))
        box.press("Enter")
    panel.locator("button:has-text('Cram')").click()
    finished(page)
    assert "".join(tokens.all_text_contents()).startswith("Seven green kettles")
    stored = [store.get(key) for key in store.keys()]
    (own,) = [mem for mem in stored if mem.text.id == "typed"]
    assert (own.n, own.k, own.recipe.seed, own.exact) == (12, 2, 7, True)
    assert isinstance(own, MemVector)

    # The keyboard moves a slider, and its number box follows.
    box = panel.locator("input[type=number]").first
    expect(box).to_be_enabled()
    panel.locator(".noUi-handle").first.focus()
    page.keyboard.press("ArrowRight")
    expect(box).to_have_value("13")

    # Stop: the text of a half-trained vector is shown, wrong tokens are marked, and there is a way on.
    box.fill("60")
    box.press("Enter")
    words.fill(random_words(1, words=80)[0].string)
    panel.locator("button:has-text('Cram')").click()
    page.wait_for_selector(f"{PANEL} .memlab-status:has-text('Step')", timeout=60_000)
    panel.locator("button:has-text('Stop')").click()
    finished(page, "Stopped")
    assert panel.locator(".memlab-token-wrong").count() > 0
    expect(panel.locator(".memlab-badge-wrong")).to_contain_text("Not exact")
    expect(panel.locator("button:has-text('Go on from here')")).to_be_enabled()
    picture(page, "01-stopped-dark")
    set_theme(page, "JupyterLab Light")
    picture(page, "01-stopped-light")

    # Bad input is explained.
    words.fill("")
    panel.locator("button:has-text('Cram')").click()
    finished(page, "There is no text yet")

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
    options = question.locator("option").all_text_contents()
    for name in [option.replace("\xa0", " ") for option in options]:  # ipywidgets shows other spaces
        question.select_option(label=name)
        page.wait_for_selector(f'{STUDY} svg:has-text("{name.split(" (")[0]}")')
        expect(panel.locator("table")).to_contain_text("memlab")
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
    expect(panel.locator(".memlab-badge-exact")).to_have_count(1)
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
    expect(panel.locator("svg.marks text:has-text('memlab: ')")).to_have_count(1)
    with page.expect_download() as table:
        panel.locator("a:has-text('Table')").click()
    assert table.value.path().read_text().startswith("step,loss,accuracy")

    wander(lab, "04_the_search.ipynb", STUDY)
    read_through(page, "04")


CAPACITY = ".memlab-capacity-panel"


def test_capacity(lab):
    page, _ = opened(lab, "02_how_much_fits.ipynb")
    panel = page.locator(CAPACITY).first
    panel.scroll_into_view_if_needed()
    strip, curve = panel.locator("svg.marks").nth(0), panel.locator("svg.marks").nth(1)
    points = strip.locator("path[aria-roledescription='point'][aria-label*='1 vector'][aria-label*='here: yes']")
    # The first wrong token is in view, also before anything is pressed.
    expect(panel.locator(".memlab-token-wrong")).to_be_in_viewport()
    before = panel.locator(".memlab-badge").inner_text()

    # A click on a point opens its run: text, curve and list.
    points.nth(5).click(force=True)
    expect(panel.locator(".memlab-badge")).not_to_have_text(before)
    shown = re.match(r"(\d+) tokens come back", panel.locator(".memlab-badge").inner_text())[1]
    expect(curve).to_contain_text(f"The first {shown} of 256 tokens come back")
    expect(panel.locator(".memlab-token-wrong")).to_be_in_viewport()

    # A token points at its place in the curve, and the curve at its token.
    rules = curve.locator(".mark-rule line, .mark-rule path")
    walls = rules.count()
    panel.locator(".memlab-token").nth(3).click()
    page.wait_for_function("([e, n]) => e.querySelectorAll('.mark-rule line, .mark-rule path').length > n",
                           arg=[curve.element_handle(), walls])  # fmt: skip
    box = curve.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.6)
    page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + box["height"] * 0.6)
    page.wait_for_function(f"!document.querySelectorAll('{CAPACITY} .memlab-token')[3].matches('.memlab-token-picked')")
    expect(panel.locator(".memlab-token-picked")).to_have_count(1)
    picture(page, "02-panel-light", CAPACITY)

    panel.locator("button:has-text('Decode it now')").click()
    finished(page, "Same result as in the table", CAPACITY)
    expect(panel.locator("table")).to_contain_text("tokens scored")
    expect(panel).to_contain_text("decoded just now")
    set_theme(page, "JupyterLab Dark")
    picture(page, "02-panel-dark", CAPACITY)

    # A novel: its curve, and one sentence that says why there is no vector.
    strip.locator("path[aria-roledescription='point'][aria-label*='Gutenberg']").first.click(force=True)
    finished(page, "texts of novels", CAPACITY)
    expect(panel.locator("button:has-text('Decode it now')")).to_be_disabled()
    picture(page, "02-absent-dark", CAPACITY)
    wander(lab, "02_how_much_fits.ipynb", CAPACITY)
    read_through(page, "02")


INFORMATION = ".memlab-information-panel"


def test_information_not_length(lab):
    page, _ = opened(lab, "03_bits_not_tokens.ipynb")
    panel = page.locator(INFORMATION).first
    panel.scroll_into_view_if_needed()
    text = panel.locator(".memlab-tokens").first
    expect(text.locator(".memlab-token-bar").first).to_be_attached(timeout=60_000)
    expect(text).to_contain_text("1 vector")
    assert text.locator(".memlab-token-bar").count() >= 3
    assert text.locator(".memlab-token-zone").count() > 10
    panel.scroll_into_view_if_needed()  # JupyterLab draws nothing of a cell that is out of view
    expect(panel).to_contain_text("Predicted before any training")
    picture(page, "03-panel-light", INFORMATION)

    # It reads while one types: no button.
    words = panel.locator("textarea")
    words.fill("")
    finished(page, "while you type", INFORMATION)
    words.press_sequentially("Seven green kettles argued about the weather.", delay=30)
    page.wait_for_function(f"document.querySelector('{INFORMATION} .memlab-tokens').innerText.includes('weather')")
    assert text.locator(".memlab-token-shaded").count() > 3
    text.locator(".memlab-token").nth(2).hover()
    expect(panel.locator(".memlab-tip").first).to_contain_text("bits so far")

    # It crams what it predicts.
    panel.locator("button:has-text('Cram the first')").click()
    page.wait_for_selector(f"{INFORMATION} .memlab-status:has-text('Step')", timeout=60_000)
    finished(page, "Done", INFORMATION)
    expect(panel.locator(".memlab-badge-exact")).to_have_count(1)
    set_theme(page, "JupyterLab Dark")
    picture(page, "03-panel-dark", INFORMATION)
    wander(lab, "03_bits_not_tokens.ipynb", INFORMATION)
    read_through(page, "03")


def test_geometry_in_detail(lab):
    page, _ = opened(lab, "A2_geometry_in_detail.ipynb")
    assert page.refused == []
    read_through(page, "A2")


def test_search_in_detail(lab):
    page, _ = opened(lab, "A1_search_in_detail.ipynb")
    assert page.refused == []
    read_through(page, "A1")


RUNS = ".memlab-run-panel"


def test_your_own_analysis(lab):
    page, store = opened(lab, "09_your_own_analysis.ipynb")
    panel = page.locator(RUNS).first
    panel.scroll_into_view_if_needed()
    expect(panel).to_contain_text("0 of 6 done")
    expect(panel).to_contain_text("are needed")  # the reason why the short text was left out
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
    expect(panel).to_contain_text("6 of 6 done")
    expect(panel.locator(".memlab-badge-exact")).to_have_count(6)
    assert len(list(store.keys())) == before + 6
    with page.expect_download() as table:
        panel.locator("a:has-text('Table')").click()
    assert len(table.value.path().read_text().splitlines()) == 7
    expect(panel.locator("button:has-text('Open')").nth(2)).to_be_enabled()
    panel.locator("button:has-text('Open')").nth(2).press("Enter")
    finished(page, "Opened:", RUNS)
    expect(panel.locator(".memlab-tokens").first).to_contain_text("The tide tables")
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
    expect(panel).to_contain_text("2 of 3 done, 0 running, 1 failed")
    expect(panel.locator(".memlab-error").first).to_contain_text("RuntimeError: this job fails on purpose")
    picture(page, "99-failed-light", RUNS)
    set_theme(page, "JupyterLab Dark")
    picture(page, "99-failed-dark", RUNS)
    assert errors(page) == []
