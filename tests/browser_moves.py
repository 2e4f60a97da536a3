"""Steps that the browser tests share: open a notebook, move its controls at random, take pictures of it."""

from __future__ import annotations

import json
import random
import urllib.request
from contextlib import suppress

import psutil
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from playwright.sync_api import expect

from tests.browser_lab import OUTPUT, errors, open_notebook, run_all, set_theme
from tests.browser_rules import breaches, too_tall

PANEL = ".memlab-cram-panel"


def finished(page, word="Done", panel=PANEL):
    """Wait until the status line of a panel has this word."""
    page.wait_for_selector(f"{panel} .memlab-status:has-text('{word}')", timeout=180_000)


def picture(page, name, panel=PANEL):
    """Take a picture of a panel, and fail if something in it cannot be read, or sticks out at the right."""
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
    assert breaches(panel) == []


def opened(lab, name):
    """Run a notebook from top to bottom without an error. Returns the page and the store that it writes to."""
    address, page, store = lab
    open_notebook(page, address, name)
    set_theme(page, "JupyterLab Light")
    run_all(page)
    assert errors(page) == []
    assert too_tall(page) == []
    return page, store


def wander(lab, name, panel, moves=20):
    """Move controls at random, also while work runs: no error, and the kernel grows by less than 50 MB."""
    address, page, _ = lab
    rng, panel = random.Random(name), page.locator(panel).first
    controls = panel.locator("select, input[type=number], input[type=checkbox], button, .noUi-handle")
    stop = panel.locator("button:has-text('Stop')")

    def press_stop():
        if stop.count() and stop.first.is_enabled():  # enabled only while work runs
            with suppress(PlaywrightTimeout):  # the work may have ended just now
                stop.first.click(timeout=2000)

    def settle():
        if stop.count():
            with suppress(AssertionError):  # some work takes minutes
                expect(stop.first).to_be_disabled(timeout=5_000)
            press_stop()
            expect(stop.first).to_be_disabled(timeout=180_000)
        elif panel.locator("button").count():  # the first button starts work, and is disabled while it runs
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
        except PlaywrightTimeout:  # work has just started, or the control was just redrawn
            return 0
        page.wait_for_timeout(rng.choice([20, 100, 400]))
        return 1

    for select in panel.locator("select").all():  # loads everything that is loaded only once
        for i in range(min(4, select.locator("option").count())):
            select.select_option(index=i)
            page.wait_for_timeout(500)
            settle()
    for button in panel.locator("button:enabled").all():
        button.click()
        settle()
    memory = []
    for _ in range(2 + moves // 10):
        moved = 0
        while moved < 10:
            moved += move(controls.nth(rng.randrange(controls.count())))
        press_stop()
        settle()
        memory.append(kernel_memory(address, name) / 2**20)
    # The first rounds still load things once: shapes of a tenth passage, the heap of the chart renderer.
    grown = memory[-1] - memory[1]
    print(f"{name}: {moves} moves, the kernel grew by {grown:.0f} MB: {', '.join(f'{m:.0f}' for m in memory)}")
    assert errors(page) == []
    assert grown < 50


def kernel_memory(address, name):
    """Memory of this notebook's kernel, bytes."""
    with urllib.request.urlopen(f"{address}/api/sessions") as answer:
        kernel = next(s["kernel"]["id"] for s in json.load(answer) if s["path"].endswith(name))
    children = psutil.Process().children(recursive=True)
    return next(p for p in children if any(kernel in part for part in p.cmdline())).memory_info().rss


def read_through(page, number):
    """Take pictures of every output in both themes: no error, no request to other machines, all can be read."""
    assert errors(page) == []
    assert page.refused == []
    outputs = page.locator(".jp-Cell-outputWrapper")
    assert page.locator(".vega-embed canvas, .vega-embed svg").count() >= 1
    whole = "e => { const a = e.getBoundingClientRect(); return a.top > 60 && a.bottom < innerHeight - 20 }"
    broken = {}
    for theme in ("Light", "Dark"):
        set_theme(page, f"JupyterLab {theme}")
        for i in range(outputs.count()):
            if not (i and outputs.nth(i).evaluate(whole)):  # else the last picture shows it
                outputs.nth(i).scroll_into_view_if_needed()
                page.wait_for_timeout(150)
                page.screenshot(path=str(OUTPUT / f"{number}-{theme.lower()}-{i:02d}.png"))
            if found := breaches(outputs.nth(i)):
                broken[f"{number}, output {i}, {theme}"] = found
    assert broken == {}
