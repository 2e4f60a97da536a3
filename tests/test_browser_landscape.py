"""The notebook of the landscape in JupyterLab and a browser. Pictures are written to tests/output."""

import pytest
from playwright.sync_api import expect

from tests.browser_lab import set_theme
from tests.browser_moves import opened, picture, read_through, wander

pytestmark = [pytest.mark.browser, pytest.mark.real]
PANEL = ".memlab-landscape-panel"


def test_the_landscape(lab):
    page, _ = opened(lab, "10_the_landscape.ipynb")
    panel = page.locator(PANEL).first
    panel.scroll_into_view_if_needed()
    points = panel.locator("svg.marks [aria-roledescription=point]")
    points.first.wait_for(timeout=60_000)
    assert points.count() > 60
    assert panel.bounding_box()["height"] < 850
    picture(page, "10-panel-light", PANEL)

    # A click reads what came back from those bytes; the tooltip names the method and what it follows.
    verdict = panel.locator(".memlab-text").first
    point = panel.locator("svg.marks path[aria-label*='method: full text, raw ids, read']").first
    point.click(force=True)
    expect(verdict).to_contain_text("full text, raw ids, read")
    assert panel.locator(".memlab-token").count() >= 50
    point.hover(force=True)
    expect(page.locator("#vg-tooltip-element")).to_contain_text("bits stored per bit")

    # Families go and come; another text has points of its own.
    before = points.count()
    panel.locator("button:has-text('part of the cache')").click()
    expect(points).not_to_have_count(before)
    panel.locator("button:has-text('part of the cache')").click()
    expect(points).to_have_count(before)
    panel.locator("select").first.select_option(label="Salt ferry (fiction)")
    expect(verdict).to_contain_text("Salt ferry")

    # A brush lists the methods under it.
    box = panel.locator("svg.marks .mark-symbol, svg.marks").first.bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.8 * box["height"], steps=6)
    page.mouse.up()
    expect(panel.locator(".memlab-status:has-text('under the brush')")).to_be_visible(timeout=20_000)
    set_theme(page, "JupyterLab Dark")
    picture(page, "10-panel-dark", PANEL)
    wander(lab, "10_the_landscape.ipynb", PANEL)
    read_through(page, "10")
