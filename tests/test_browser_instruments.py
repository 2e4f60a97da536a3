"""The JavaScript of live charts and texts in a browser, without JupyterLab: a page with a stand-in for the kernel."""

import altair as alt
import pandas as pd
import pytest

from memlab.charts.rows import inline
from memlab.panels.live import LiveChart
from memlab.panels.style import STYLE
from memlab.panels.tokens import TokenText
from tests.browser_lab import browser_page
from tests.browser_setup import find_browser

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MODEL = """
async ([script, values]) => {
  const listeners = {};
  const model = {
    values, sent: 0,
    get: (name) => values[name],
    set: (name, value) => { values[name] = value; (listeners[name] ?? []).forEach((call) => call()); },
    save_changes: () => { model.sent += 1; },
    on: (event, call) => { (listeners[event.slice(7)] ??= []).push(call); },
    off: (event, call) => { listeners[event.slice(7)] = (listeners[event.slice(7)] ?? []).filter((c) => c !== call); },
    count: () => Object.values(listeners).reduce((sum, calls) => sum + calls.length, 0),
  };
  const { default: widget } = await import(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  window.model = model;
  window.done = widget.render({ model, el: document.getElementById("place") });
}
"""


@pytest.fixture
def page():
    browser = find_browser()
    if browser is None:
        pytest.skip("no browser")
    with browser_page(browser) as opened:
        opened.goto("data:text/html,<body data-jp-theme-light='false'><div id='place'></div></body>")
        opened.evaluate("style => document.head.insertAdjacentHTML('beforeend', style)", STYLE)
        yield opened


def start(page, widget, *names):
    values = {name: getattr(widget, name) for name in names}
    page.evaluate(MODEL, [str(widget._esm), values])


def a_chart(seed):
    table = pd.DataFrame({"x": range(40), "y": [(i * 7 + seed) % 40 for i in range(40)]})
    brush, place = alt.selection_interval(name="brush"), alt.param(name="place", value=1.0)
    points = alt.Chart(inline(table)).mark_point().encode(alt.X("x:Q"), alt.Y("y:Q"), tooltip=["x:Q", "y:Q"])
    rule = alt.Chart({"values": [{}]}).mark_rule().transform_calculate(at="place").encode(alt.X("at:Q"))
    return alt.layer(points.add_params(brush), rule).add_params(place)


def test_a_chart_is_drawn_again_without_keeping_the_old_one(page):
    live = LiveChart()
    live.draw(lambda: a_chart(0))
    start(page, live.children[0], "spec", "embed_options", "_vl_selections", "_params", "debounce_wait")
    page.wait_for_selector("svg.marks")
    listeners = page.evaluate("model.count()")
    for seed in range(1, 30):
        live.draw(lambda seed=seed: a_chart(seed))
        page.evaluate("spec => model.set('spec', spec)", live.spec)
    page.wait_for_timeout(300)
    assert page.locator("svg.marks").count() == 1
    assert page.evaluate("model.count()") == listeners

    # A parameter moves the rule without another drawing.
    rule = page.locator(".mark-rule.role-mark line").first
    before = rule.get_attribute("transform")
    svg = page.locator("svg.marks").element_handle()
    page.evaluate("model.set('_params', { place: 30 })")
    page.wait_for_function(
        "old => document.querySelector('.mark-rule.role-mark line').getAttribute('transform') !== old", arg=before
    )
    assert page.evaluate("svg => svg.isConnected", svg)

    # The pointer selects, and gets an answer. The text has the colour of the page.
    box = page.locator("svg.marks .background").first.bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 160, steps=4)
    page.mouse.up()
    page.wait_for_function("Object.keys(model.values._vl_selections.brush?.value ?? {}).length === 2")
    page.locator("svg.marks .mark-symbol path").nth(39).hover()
    page.wait_for_selector("#vg-tooltip-element.visible.dark-theme")
    assert page.locator("svg.marks .role-axis-label text").first.get_attribute("fill") == "currentColor"

    page.evaluate("window.done()")
    assert page.evaluate("model.count()") == 0


def test_a_broken_chart_says_so_and_the_next_one_is_drawn(page):
    live = LiveChart()
    live.draw(lambda: a_chart(0))
    names = ("spec", "embed_options", "_vl_selections", "_params", "debounce_wait")
    start(page, live.children[0], *names)
    page.wait_for_selector("svg.marks")
    page.evaluate("model.set('spec', { mark: 'no such mark', encoding: {} })")
    page.wait_for_selector("text=The chart could not be drawn")
    page.evaluate("spec => model.set('spec', spec)", live.spec)
    page.wait_for_selector("svg.marks")
    page.evaluate("model.set('spec', null)")
    assert page.locator("svg.marks").count() == 0


def test_tokens_are_picked_with_the_pointer_and_the_keyboard(page):
    text = TokenText("Decoded text", hint="Point at a token")
    text.show(
        [f"word{i} " for i in range(300)], kinds=["wrong" if i == 200 else "" for i in range(300)],
        below=["should" if i == 200 else "" for i in range(300)], tips=[f"token {i}" for i in range(300)], focus=200,
    )  # fmt: skip
    names = [
        name for name in text.trait_names(sync=True) if not name.startswith(("_", "layout", "tooltip", "tabbable"))
    ]
    start(page, text, *[name for name in names if name not in ("comm", "keys", "log")])
    tokens = page.locator(".memlab-token")
    assert tokens.count() == 300
    assert page.locator("rt").inner_text() == "should"
    inside = page.evaluate(
        """() => { const a = document.querySelectorAll('.memlab-token')[200].getBoundingClientRect(),
                         b = document.querySelector('.memlab-tokens').getBoundingClientRect();
                   return a.top >= b.top && a.bottom <= b.bottom }"""
    )
    assert inside  # the first wrong token is scrolled into view
    assert page.locator(".memlab-tip").inner_text() == "Point at a token"
    tokens.nth(201).click()
    assert page.evaluate("model.values.picked") == 201
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("model.values.picked") == 200
    assert page.locator(".memlab-tip").inner_text() == "token 200"
    assert page.locator("[aria-selected=true]").count() == 1
    page.keyboard.press("Escape")
    assert page.evaluate("model.values.picked") == -1
    page.evaluate("model.set('pieces', ['<b>one</b>'])")
    page.wait_for_function("document.querySelectorAll('.memlab-token').length === 1")
    assert tokens.first.inner_text().startswith("<b>one")
