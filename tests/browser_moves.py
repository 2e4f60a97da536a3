"""Steps that the browser tests share: open a notebook, move its controls at random, take pictures of it."""

from __future__ import annotations

import json
import os
import random
import time
import urllib.request
from contextlib import suppress

import nbformat
import psutil
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from playwright.sync_api import expect

from tests.browser_lab import OUTPUT, errors, open_notebook, run_all, set_theme
from tests.browser_rules import answers, breaches, too_tall

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
    assert not hidden, hidden
    found = breaches(panel)
    assert not found, found


def opened(lab, name):
    """Run a notebook from top to bottom without an error. Returns the page and the store that it writes to."""
    address, page, store = lab
    open_notebook(page, address, name)
    set_theme(page, "JupyterLab Light")
    run_all(page)
    assert errors(page) == []
    assert too_tall(page) == []
    return page, store


MOVES = int(os.environ.get("MEMLAB_MOVES", "20"))
"""Random moves per panel. MEMLAB_MOVES=200 takes about ten minutes per panel."""
CONTROLS = (
    "select", "input[type=number]", "input[type=checkbox]", "input[type=text]", "button", ".noUi-handle",
    ".memlab-token", ".memlab-tokens", "svg.marks",
)  # fmt: skip
KEYS = ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "PageUp", "PageDown", "Home", "End")


def settle(page, panel):
    """Wait until nothing in a panel runs; stop what takes longer than five seconds."""
    stop = panel.locator("button:has-text('Stop')")
    if stop.count():
        with suppress(AssertionError):  # some work takes minutes
            expect(stop.first).to_be_disabled(timeout=5_000)
        press_stop(panel)
        expect(stop.first).to_be_disabled(timeout=180_000)
    before, until = None, time.monotonic() + 180
    while (now := panel.locator(".memlab-status").all_inner_texts()) != before or any(s.endswith("...") for s in now):
        assert time.monotonic() < until, now
        before = now
        page.wait_for_timeout(1000)


def press_stop(panel):
    stop = panel.locator("button:has-text('Stop')")
    if stop.count() and stop.first.is_enabled():  # enabled only while work runs
        with suppress(PlaywrightTimeout):  # the work may have ended just now
            stop.first.click(timeout=2000)


def move(page, control, rng):
    """Use one control in one of the ways that it has. Returns 1, or 0 if it could not be used just now."""
    try:
        if not (control.is_visible() and control.is_enabled(timeout=2000)):
            return 0
        kind = control.evaluate("e => e.tagName.toUpperCase() + ' ' + (e.type || '')", timeout=2000)
        name = control.get_attribute("class", timeout=2000) or ""
        if kind.startswith("SELECT"):
            if not (options := control.locator("option").count()):
                return 0
            control.select_option(index=rng.randrange(options), timeout=2000)
        elif kind == "INPUT number":
            low, high = (int(float(control.get_attribute(end) or 50)) for end in ("min", "max"))
            control.fill(str(rng.randint(low, high)), timeout=2000)
            control.press("Enter")
        elif kind == "INPUT text":
            control.fill(rng.choice(["", "sea", "the", "(", "zz"]), timeout=2000)
            control.press("Enter")
        elif "noUi" in name or "memlab-tokens" in name:
            control.press(rng.choice(KEYS), timeout=2000)
        elif kind.startswith("SVG"):
            use_chart(page, control, rng)
        else:
            control.click(timeout=2000)
    except PlaywrightError:  # work has just started, or the control was just redrawn
        return 0
    page.wait_for_timeout(rng.choice([20, 100, 400]))
    return 1


def use_chart(page, chart, rng):
    """Click a mark of a chart, or drag over a part of it."""
    chart.scroll_into_view_if_needed(timeout=2000)
    marks = chart.locator(".role-mark path, .role-mark rect")
    if marks.count() and rng.random() < 0.7:
        marks.nth(rng.randrange(marks.count())).click(timeout=1000, force=True)
        return
    box = chart.bounding_box(timeout=2000)
    places = [(box["x"] + rng.random() * box["width"], box["y"] + rng.random() * box["height"]) for _ in range(2)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=4)
    page.mouse.up()


def answers_everywhere(page, panel):
    """Every chart of a panel answers the pointer; a text answers the pointer and the keyboard."""
    charts = panel.locator("svg.marks")
    silent = [i for i in range(charts.count()) if not answers(page, charts.nth(i))]
    assert not silent, f"charts that do not answer the pointer: {silent}"
    for text in panel.locator(".memlab-tokens").all():
        if text.is_visible() and text.locator(".memlab-token").count():
            text.press("Home")
            text.press("ArrowRight")
            expect(text.locator(".memlab-token-picked")).to_have_count(1, timeout=20_000)
            text.locator(".memlab-token").first.hover()


def wander(lab, name, panel, moves=MOVES):
    """Use controls at random, also while work runs: no error, and the kernel grows by less than 50 MB."""
    address, page, _ = lab
    rng, selector = random.Random(name), panel
    panel = page.locator(panel).first
    kinds = [kind for kind in CONTROLS if panel.locator(kind).count()]
    for select in panel.locator("select:visible").all():  # loads everything that is loaded only once
        for i in range(min(4, select.locator("option").count())):
            if select.is_enabled():
                select.select_option(index=i)
                page.wait_for_timeout(500)
                settle(page, panel)
    for i in range(panel.locator("button:visible").count()):
        move(page, panel.locator("button:visible").nth(i), rng)
        settle(page, panel)
    answers_everywhere(page, panel)
    memory = []
    for _ in range(2 + moves // 10):
        moved = 0
        while moved < 10:
            controls = panel.locator(rng.choice(kinds))
            if count := controls.count():
                moved += move(page, controls.nth(rng.randrange(count)), rng)
        press_stop(panel)
        settle(page, panel)
        memory.append(kernel_memory(address, name) / 2**20)
    # The first rounds still load things once: shapes of a tenth passage, the heap of the chart renderer.
    # Work that has just ended may still hold tens of megabytes: the least of the last rounds counts.
    grown = min(memory[-3:]) - memory[1]
    print(f"{selector}: {moves} moves, the kernel grew by {grown:.0f} MB: {', '.join(f'{m:.0f}' for m in memory)}")
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
    check_exported(page)


def check_exported(page):
    """``nbconvert --to html`` of the notebook as it is now shows a picture of every chart of its cells."""
    from nbconvert.exporters import HTMLExporter

    page.keyboard.press("Escape")
    page.keyboard.press("Control+s")
    page.wait_for_timeout(3000)
    address, _, name = page.url.partition("?")[0].replace("/lab/", "/").partition("/tree/")
    with urllib.request.urlopen(f"{address.rpartition('/workspaces')[0] or address}/api/contents/{name}") as answer:
        notebook = nbformat.reads(json.dumps(json.load(answer)["content"]), as_version=4)
    outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ())]
    charts = sum(any("vegalite" in kind for kind in data) for data in outputs)
    assert charts
    notebook.metadata.pop("widgets", None)  # else nbconvert prefers widgets, which need a network, to their copies
    shown, _ = HTMLExporter().from_notebook_node(notebook)
    assert shown.count("data:image/png;base64,") >= charts
    panels = [data for data in outputs if "application/vnd.jupyter.widget-view+json" in data]
    bare = [data["text/plain"] for data in panels if "text/html" not in data]
    assert all("%|" in text for text in bare), bare  # a bar of progress says nothing afterwards
