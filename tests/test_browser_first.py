"""The index of the notebooks in JupyterLab, without network."""

import pytest
from playwright.sync_api import expect

from tests.browser_lab import OUTPUT, ROOT, errors
from tests.browser_moves import opened

pytestmark = [pytest.mark.browser, pytest.mark.real]


def test_the_index_shows_a_picture_of_each_notebook_and_leads_to_it(lab):
    page, _ = opened(lab, "00_start_here.ipynb")
    pictures = page.locator(".jp-RenderedMarkdown table img")
    assert pictures.count() == len(list((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))) - 1
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("e => e.complete && e.naturalWidth > 200")
    expect(page.locator(".jp-RenderedHTMLCommon:has(details)").last).to_contain_text("Exact")
    page.screenshot(path=str(OUTPUT / "00-page-light.png"))
    page.locator(".jp-RenderedMarkdown a:has-text('2 · How much fits')").click()
    page.wait_for_selector(".lm-TabBar-tabLabel:has-text('02_how_much_fits.ipynb')")
    assert errors(page) == []
    assert page.refused == []
