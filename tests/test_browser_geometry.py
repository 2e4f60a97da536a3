"""The notebooks on geometry in JupyterLab and a browser. Pictures are written to tests/output."""

import pytest
from playwright.sync_api import expect

from tests.browser_lab import set_theme
from tests.browser_moves import finished, opened, picture, read_through, wander

pytestmark = [pytest.mark.browser, pytest.mark.real]
MAP = ".memlab-map-panel"


def test_map_of_vectors(lab):
    page, _ = opened(lab, "05_where_vectors_lie.ipynb")
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

    # Other colours and another map are drawn anew, and can be brushed again.
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
    wander(lab, "05_where_vectors_lie.ipynb", MAP)
    read_through(page, "06")


LOOK = ".memlab-attention-panel"


def test_inside_the_model(lab):
    page, _ = opened(lab, "08_inside_the_model.ipynb")
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
    wander(lab, "08_inside_the_model.ipynb", LOOK)
    read_through(page, "09")


PATH = ".memlab-path-panel"


def test_between_solutions(lab):
    page, _ = opened(lab, "06_between_solutions.ipynb")
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
        assert bool(panel.locator(".memlab-wrong").count()) == (expected == "not exact")
    picture(page, "07-panel-light", PATH)
    panel.locator("input[type=checkbox]").check()
    panel.locator("button:has-text('Read this place')").click()
    page.wait_for_selector(f"{PATH} .memlab-status:has-text('of the curve')", timeout=60_000)
    panel.locator("button:has-text('Stop')").click()
    finished(page, "Stopped", PATH)
    set_theme(page, "JupyterLab Dark")
    picture(page, "07-panel-dark", PATH)
    wander(lab, "06_between_solutions.ipynb", PATH)
    read_through(page, "07")


MOVE = ".memlab-move-panel"


def test_robustness(lab):
    page, _ = opened(lab, "07_robustness.ipynb")
    panel = page.locator(MOVE).first
    amount = panel.locator("input[type=number]").first

    def move():
        button = panel.locator("button:has-text('Move it')")
        button.click()
        expect(button).to_be_disabled()
        expect(button).to_be_enabled(timeout=60_000)
        finished(page, "cosine", MOVE)

    for change, size, expected in ((0, "2", "still decodes exactly"), (0, "60", "tokens right"), (2, "2", "cosine")):
        panel.locator("select").nth(1).select_option(index=change)
        amount.fill(size)
        amount.press("Enter")
        move()
        assert expected in panel.inner_text()
    picture(page, "08-panel-light", MOVE)
    panel.locator("select").nth(0).select_option(index=5)
    panel.locator("select").nth(1).select_option(index=1)
    move()
    set_theme(page, "JupyterLab Dark")
    picture(page, "08-panel-dark", MOVE)
    wander(lab, "07_robustness.ipynb", MOVE)
    read_through(page, "08")
