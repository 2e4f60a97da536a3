"""Rules of the look that only a browser can check: nothing is cut off, chart text can be read, panels fit the page."""

from __future__ import annotations

from tests.chart_rules import faults

TALLEST = 850
"""Height of a panel before anything is pressed, pixels."""
LOWEST = 4.5
"""Contrast of chart text with the page behind it."""

CUT_OFF = """p => {
  const said = e => (e.innerText || e.textContent || '').trim().slice(0, 60);
  const found = [];
  const boxes = '.widget-label, label, label span, button, th, td, [class*=memlab-]';
  for (const e of p.querySelectorAll(boxes)) {
    if (!e.clientWidth || e.closest('.vega-bind')) continue;
    const hides = ['hidden', 'clip'].includes(getComputedStyle(e).overflowX);
    if (hides && e.scrollWidth > e.clientWidth + 1) found.push(`${said(e)}: cut off at the right`);
  }
  const pen = document.createElement('canvas').getContext('2d');
  for (const e of p.querySelectorAll('select')) {
    if (!e.clientWidth) continue;
    const style = getComputedStyle(e);
    pen.font = style.font;
    const room = e.clientWidth - parseFloat(style.paddingLeft) - Math.max(16, parseFloat(style.paddingRight));
    for (const option of e.options)
      if (pen.measureText(option.text).width > room + 1) found.push(`${option.text}: too long for its list`);
  }
  for (const e of p.querySelectorAll('svg.marks')) {
    let box = e.parentElement;
    const free = box => getComputedStyle(box).overflowX === 'visible';
    while (box && free(box)) box = box.parentElement;
    if (box && e.getBoundingClientRect().right > box.getBoundingClientRect().right + 2)
      found.push(`${said(e)}: the chart is wider than its place`);
  }
  return [...new Set(found)];
}"""
"""Labels, options, cells and charts whose text does not fit, as far as they have a size now."""

PALE = """([p, lowest]) => {
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const shine = c => [0, 1, 2].map(i => c[i] / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const chart of p.querySelectorAll('svg.marks')) {
    const page = ground(chart), halos = {};
    const texts = [...chart.querySelectorAll('text')].filter(e => e.textContent.trim());
    const isHalo = e => getComputedStyle(e).stroke !== 'none' && parseFloat(getComputedStyle(e).strokeWidth) >= 2;
    for (const e of texts.filter(isHalo)) halos[e.textContent] = rgb(getComputedStyle(e).stroke);
    for (const e of texts.filter(e => !isHalo(e))) {
      const style = getComputedStyle(e), fill = rgb(style.fill), back = halos[e.textContent] || page;
      let shown = (fill[3] ?? 1) * parseFloat(style.fillOpacity);
      for (let box = e; box !== chart; box = box.parentElement) shown *= parseFloat(getComputedStyle(box).opacity);
      if (fill.length < 3 || shown === 0) continue;
      const seen = fill.slice(0, 3).map((c, i) => c * shown + back[i] * (1 - shown));
      const [low, high] = [shine(seen), shine(back)].sort((a, b) => a - b);
      const contrast = (high + 0.05) / (low + 0.05);
      if (contrast < lowest) found.push(`${e.textContent.slice(0, 40)}: contrast ${contrast.toFixed(1)}`);
    }
  }
  return [...new Set(found)];
}"""
"""Texts of charts whose contrast with the page, or with the halo behind them, is too low."""


def breaches(place):
    """The rules that a part of the page (a locator) breaks, one line each."""
    element = place.element_handle()
    found = element.evaluate(CUT_OFF) + element.evaluate(f"p => ({PALE})([p, {LOWEST}])")
    for svg in element.evaluate("p => [...p.querySelectorAll('svg.marks')].map(e => e.outerHTML)"):
        found += faults(svg)
    return list(dict.fromkeys(found))


def too_tall(page):
    """Panels that do not fit on the page before anything is pressed."""
    sizes = page.evaluate(
        """() => [...document.querySelectorAll('[class*=-panel]')].filter(e => /memlab-[a-z]+-panel/.test(e.className))
             .map(e => [e.className.match(/memlab-[a-z]+-panel/)[0], Math.round(e.getBoundingClientRect().height)])"""
    )
    return [f"{name} is {height} px high, more than {TALLEST}" for name, height in sizes if height > TALLEST]


def answers(page, chart, *, tries=12):
    """Whether a tooltip appears while the pointer is over one of the marks of a chart (a locator of its SVG)."""
    chart.scroll_into_view_if_needed()
    marks = chart.locator(".role-mark path, .role-mark line, .role-mark text, .role-mark rect")
    tip = page.locator("#vg-tooltip-element.visible")
    count = marks.count()
    for i in dict.fromkeys(round(k * (count - 1) / max(1, tries - 1)) for k in range(min(tries, count))):
        box = marks.nth(i).bounding_box()
        if not box:
            continue
        page.mouse.move(box["x"] + box["width"] / 2 - 3, box["y"] + box["height"] / 2)
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        if tip.count():
            page.mouse.move(0, 0)
            return True
    return False
