"""The notebooks on geometry in JupyterLab and a browser. Pictures are written to tests/output."""

import re

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
    points = panel.locator("svg.marks [aria-roledescription=point]")
    points.first.wait_for(timeout=60_000)
    title = panel.locator("svg.marks text:has-text('stay near')")
    expect(title).to_contain_text("UMAP: 55%")

    # A click: the whole text, the true neighbours, lines to them.
    points.nth(120).click(force=True)  # a neighbour may lie on top of it, and is then the one
    head = panel.locator(".memlab-status:has-text('tokens, seed')").first
    before = head.inner_text()
    points.nth(40).click(modifiers=["Shift"], force=True)
    page.wait_for_selector(f"{MAP} .memlab-status:has-text('Cosine')", timeout=10_000)
    assert head.inner_text() != before
    assert panel.locator("select option:has-text('seed')").count() > 10
    assert panel.locator(".memlab-token").count() >= 8
    panel.locator("button:has-text('Decode the middle')").click()
    page.wait_for_selector(f"{MAP} .memlab-status:has-text('The middle')", timeout=60_000)
    panel.locator("button:has-text('Decode it now')").click()
    page.wait_for_selector(f"{MAP} .memlab-badge-exact", timeout=60_000)
    picture(page, "05-panel-light", MAP)
    panel.locator("input[type=text]").first.fill("ferry")
    page.wait_for_selector(f"{MAP} .memlab-status:has-text('vectors of')", timeout=10_000)
    panel.locator("input[type=text]").first.fill("")

    def brush():
        panel.scroll_into_view_if_needed()
        box = panel.locator("svg.marks").first.bounding_box()
        x, y = box["x"] + 0.25 * box["width"], box["y"] + 0.2 * box["height"]
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 0.2 * box["width"], y + 0.2 * box["height"], steps=5)
        page.mouse.move(x + 0.4 * box["width"], y + 0.5 * box["height"], steps=5)
        page.mouse.up()
        page.wait_for_selector(f"{MAP} .memlab-status:has-text('vectors under the brush')", timeout=30_000)
        return int(panel.locator(".memlab-status:has-text('under the brush')").inner_text().split()[0])

    assert brush() > 0
    panel.scroll_into_view_if_needed()  # JupyterLab draws nothing of a cell that is out of view
    expect(panel.locator("table").first).to_be_visible(timeout=30_000)
    table, chart = panel.locator("table").first.bounding_box(), panel.locator("svg.marks").first.bounding_box()
    assert table["x"] > chart["x"] + chart["width"]  # beside the map, not below it
    picture(page, "05-selection-light", MAP)

    # Other colours and another map are drawn anew, and can be brushed again.
    panel.locator("select").nth(2).select_option("kind of text")
    page.wait_for_selector(f"{MAP} svg.marks text:has-text('random words')", timeout=30_000)
    panel.locator("select").nth(1).select_option("t-SNE")
    page.wait_for_selector(f"{MAP} svg.marks text:has-text('t-SNE:')", timeout=60_000)
    brush()
    set_theme(page, "JupyterLab Dark")
    picture(page, "05-panel-dark", MAP)
    with page.expect_download() as saved:
        panel.locator("a:has-text('Table')").click()
    assert saved.value.path().read_text().startswith("i,x,y,kind")
    panel.locator(".vega-embed summary").first.click()
    assert (
        panel.locator(".vega-actions").first.evaluate("e => getComputedStyle(e).backgroundColor")
        != "rgb(255, 255, 255)"
    )
    picture(page, "05-menu-dark", MAP)
    with page.expect_download() as image:
        panel.locator("a:has-text('Save as SVG')").click()
    assert "of near neighbours stay near" in image.value.path().read_text()

    # Zoom moves the view, and dragging selects again afterwards.
    place = points.first.bounding_box()
    panel.locator("button:has-text('zoom and move')").click()
    page.wait_for_selector(f"{MAP} .memlab-status:has-text('turn the wheel')", timeout=30_000)
    page.wait_for_timeout(1000)
    box = panel.locator("svg.marks").first.bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(500)
    assert points.first.bounding_box() != place
    panel.locator("button:has-text('Whole map')").click()
    panel.locator("button:has-text('select')").first.click()
    page.wait_for_selector(f"{MAP} .memlab-status:has-text('Drag to select')", timeout=30_000)
    wander(lab, "05_where_vectors_lie.ipynb", MAP)
    read_through(page, "05")


def low(panel):
    """Nothing is higher than a screen before anything is pressed."""
    assert panel.bounding_box()["height"] < 850


LOOK, READ, SUMS = ".memlab-attention-panel", ".memlab-reader-panel", ".memlab-arithmetic-panel"


def test_inside_the_model(lab):
    page, _ = opened(lab, "08_inside_the_model.ipynb")
    panel = page.locator(LOOK).first
    finished(page, "the vector saves", LOOK)  # it looked without a click
    picture(page, "08-panel-light", LOOK)
    assert panel.bounding_box()["height"] < 850
    tip = panel.locator(".memlab-tip").first
    panel.locator("svg path[aria-label*='head: 3'][aria-label*='layer: 12']").first.click()
    panel.locator(".memlab-token").nth(9).click()
    expect(tip).to_contain_text("(layer 12, head 3)")
    panel.locator("svg path[aria-label*='layer: 20'][aria-label*=\"5 'AR'\"]").first.click()
    expect(tip).to_contain_text("Token 5:")
    panel.locator(".memlab-tokens").first.press("ArrowRight")
    expect(tip).to_contain_text("Token 6:")
    panel.locator("select").nth(1).select_option("the text so far")
    page.wait_for_selector(f"{LOOK} svg:has-text('Attention of the text to the text so far')")
    panel.locator("input[type=checkbox]").check()
    page.wait_for_selector(f"{LOOK} svg:has-text('A boundary hedge (court), 32 tokens, seed 1')")
    panel.locator("input[type=checkbox]").uncheck()

    reader = page.locator(READ).first
    finished(page, "all 32 tokens right", READ)
    picture(page, "08-reader-light", READ)
    reader.locator('svg path[aria-label*="token: 7 "]').first.click()
    expect(reader.locator(".memlab-tip").first).to_contain_text("Token 7: ' Recall' leads")
    reader.locator("select").first.select_option(index=13)  # of the published recipe
    finished(page, "tokens wrong, the first at token 1", READ)
    expect(reader.locator(".memlab-badge")).to_contain_text("Not exact: ")

    sums = page.locator(SUMS).first
    finished(page, "of 32 tokens of A", SUMS)
    slider = sums.locator(".noUi-handle").first
    slider.press("Home")
    finished(page, "32 of 32 tokens of A", SUMS)
    slider.press("End")
    finished(page, "32 of 32 of B", SUMS)
    set_theme(page, "JupyterLab Dark")
    for name, one in (("08-panel-dark", LOOK), ("08-reader-dark", READ), ("08-sums-dark", SUMS)):
        picture(page, name, one)
    for one in (LOOK, READ, SUMS):
        wander(lab, "08_inside_the_model.ipynb", one)
    read_through(page, "08")


PATH = ".memlab-path-panel"


def test_between_solutions(lab):
    page, _ = opened(lab, "06_between_solutions.ipynb")
    panel = page.locator(PATH).first
    panel.locator("svg.marks").wait_for(timeout=60_000)
    low(panel)
    status = panel.locator(".memlab-status").first
    place = panel.locator("input[type=number]").first
    rule = panel.locator("svg.marks [aria-label^='here:']")

    # The slider scrubs through stored texts, also by key: the rule moves in both pictures, and nothing is decoded.
    slider = panel.locator(".noUi-handle").first
    slider.focus()
    for key, at in (("Home", 0), ("ArrowRight", 5), ("End", 100)):
        slider.press(key)
        expect(status).to_contain_text(re.compile(rf"(^|\D){at} % of the straight line"))  # 50 % ends in "0 %" too
        expect(place).to_have_value(str(at))
        if at != 5:
            expect(panel.locator(".memlab-badge-exact")).to_have_count(1)
        expect(rule.first).to_have_attribute("aria-label", f"here: {at / 100:g}")
    expect(rule).to_have_count(2)
    place.fill("50")
    place.press("Enter")
    expect(status).to_contain_text("50 % of the straight line")
    expect(panel.locator(".memlab-token-wrong").first).to_be_attached()
    expect(panel.locator(".memlab-tokens ruby rt").first).to_be_attached()  # what should stand there

    # Hover answers; a click on a dot goes there.
    dots = panel.locator("svg.marks path[aria-roledescription='point']")
    box = dots.nth(28).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#vg-tooltip-element.visible")).to_contain_text("bits per token")
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(status).to_contain_text("% of the trained curve")
    expect(place).to_have_value("35")
    picture(page, "06-panel-light", PATH)

    # A place between two stored ones is read at once.
    place.fill("37")
    place.press("Enter")
    finished(page, "read now, 37 %", PATH)
    panel.locator("select").nth(0).select_option(index=8)
    finished(page, "read now, 37 %", PATH)
    set_theme(page, "JupyterLab Dark")
    picture(page, "06-panel-dark", PATH)
    wander(lab, "06_between_solutions.ipynb", PATH)
    read_through(page, "06")


MOVE = ".memlab-move-panel"


def test_robustness(lab):
    page, _ = opened(lab, "07_robustness.ipynb")
    panel = page.locator(MOVE).first
    panel.locator("svg.marks").wait_for(timeout=60_000)
    low(panel)
    amount = panel.locator("input[type=number]").nth(1)  # the first is the seed
    change = panel.locator("select").nth(1)
    dots = panel.locator("svg.marks path[aria-label*='what:']")

    def read(size, key="Enter"):
        """Enter in the number box, or a key on the slider, decodes at once."""
        tried = dots.count()
        if size is None:
            panel.locator(".noUi-handle").first.press(key)
        else:
            amount.fill(size)
            amount.press(key)
        expect(dots).to_have_count(tried + 1, timeout=60_000)
        expect(panel.locator("button:has-text('Change it')")).to_be_enabled(timeout=60_000)
        finished(page, "moved by", MOVE)

    read("2")
    assert panel.locator(".memlab-badge-exact").count()
    read("60")
    assert panel.locator(".memlab-badge-wrong").count()
    read(None, "ArrowLeft")
    expect(amount).to_have_value("59")
    dots.first.hover()
    expect(page.locator("#vg-tooltip-element.visible")).to_contain_text("noise of")
    change.select_option(index=2)
    expect(panel.locator("input[type=number]").first).to_be_disabled()
    assert panel.locator("label:has-text('Bits kept')").count()
    read("2")
    picture(page, "07-panel-light", MOVE)
    change.select_option(index=0)
    expect(panel.locator("label:has-text('Bits kept')")).to_have_count(0)  # the number box is that of noise again
    expect(panel.locator("input[type=number]").first).to_be_enabled()
    read("20")
    panel.locator("button:has-text('Find the edge')").click()
    finished(page, "Exact up to", MOVE)
    set_theme(page, "JupyterLab Dark")
    picture(page, "07-panel-dark", MOVE)
    panel.locator("button:has-text('Clear tries')").click()
    expect(dots).to_have_count(0)
    wander(lab, "07_robustness.ipynb", MOVE)
    read_through(page, "07")
