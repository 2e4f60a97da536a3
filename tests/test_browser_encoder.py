"""The notebook of the encoder gap in JupyterLab and a browser. Pictures are written to tests/output."""

import pytest
from playwright.sync_api import expect

from tests.browser_lab import set_theme
from tests.browser_moves import finished, opened, picture, read_through, wander

pytestmark = [pytest.mark.browser, pytest.mark.real]
PANEL = ".memlab-encoder-panel"


def test_the_encoder_gap(lab):
    page, store = opened(lab, "11_the_encoder_gap.ipynb")
    panel = page.locator(PANEL).first
    panel.scroll_into_view_if_needed()

    # The encoder reads the text at once, without a search: its reading, and two levels in the chart.
    facts = panel.locator(".memlab-text:has-text('recovered')").first
    expect(facts).to_contain_text("16 tokens", timeout=60_000)
    expect(panel.locator("svg.marks text:has-text('after the encoder')")).to_have_count(1)
    assert panel.bounding_box()["height"] < 850

    # Another length and another text are read anew.
    panel.locator("select:has(option:text-is('64'))").select_option(label="8")
    expect(facts).to_contain_text("8 tokens")
    before = facts.inner_text()
    panel.locator("textarea").first.fill("Nine copper bells hung silent in the old harbour tower, and nobody knew why.")
    expect(facts).not_to_have_text(before)

    # The search runs from noise and from the encoder's vector; both curves end in a diamond, the text is exact.
    panel.locator("button:has-text('Search')").click()
    finished(page, "Done: from noise", PANEL)
    expect(panel.locator(".memlab-status").last).to_contain_text("from its own encoding")
    expect(panel.locator(".memlab-badge-exact")).to_have_count(1)
    expect(panel.locator("svg.marks g.mark-symbol.role-mark").last.locator("path")).to_have_count(2)
    assert len(list(store.keys())) == 1  # the one that was found from noise
    picture(page, "11-panel-light", PANEL)
    set_theme(page, "JupyterLab Dark")
    picture(page, "11-panel-dark", PANEL)
    with page.expect_download() as table:
        panel.locator("a:has-text('Table')").click()
    assert table.value.path().read_text().startswith("arm,step,bits,exact")

    wander(lab, "11_the_encoder_gap.ipynb", PANEL)
    read_through(page, "11")
