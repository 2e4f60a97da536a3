"""What the browser tests do again and again: open a notebook, move what can be moved, look at all of it."""

from __future__ import annotations

import json
import random
import urllib.request
from contextlib import suppress

import psutil
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from playwright.sync_api import expect

from tests.browser_lab import OUTPUT, errors, open_notebook, run_all, set_theme

PANEL = ".memlab-cram-panel"


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


def opened(lab, name):
    """A notebook in a fresh workspace, run to its end without an error: the page and the store it writes to."""
    address, page, store = lab
    open_notebook(page, address, name)
    set_theme(page, "JupyterLab Light")
    run_all(page)
    assert errors(page) == []
    return page, store


def wander(lab, name, panel, moves=20):
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
            with suppress(AssertionError):  # some of it takes minutes
                expect(stop.first).to_be_disabled(timeout=5_000)
            end()
            expect(stop.first).to_be_disabled(timeout=180_000)
        elif panel.locator("button").count():  # the first one starts work, and waits while it goes on
            expect(panel.locator("button").first).to_be_enabled(timeout=180_000)
        expect(panel).not_to_contain_text("Laying out", timeout=180_000)
        page.wait_for_timeout(1000)

    def move(control):
        try:
            if not (control.is_visible() and control.is_enabled(timeout=2000)):
                return 0
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
