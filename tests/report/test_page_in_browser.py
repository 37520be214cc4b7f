"""The report in a real browser: quiet, readable on desk and phone, in light and dark, on paper."""

from __future__ import annotations

import base64

import chromium
import pytest
from realistic_study import build

from autoprompt.report.page import write_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(chromium.missing()), reason=chromium.missing() or "there"),
]

# The contrast of each visible text with what is behind it (WCAG 2.1, relative luminance).
FAINT = """
const rgba = s => { const n = s.match(/[\\d.]+/g).map(Number);
  return n.length < 4 ? [...n, 1] : n; };
const light = ([r, g, b]) => { const f = v => { v /= 255; return v <= .03928 ? v / 12.92
  : ((v + .055) / 1.055) ** 2.4; }; return .2126 * f(r) + .7152 * f(g) + .0722 * f(b); };
const behind = e => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e)
  .backgroundColor); if (c[3] > 0) return c; } return [255, 255, 255, 1]; };
const faint = [];
for (const e of document.querySelectorAll("body *")) {
  if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
  const svg = e.ownerSVGElement;
  const a = light(rgba(svg ? getComputedStyle(e).fill : getComputedStyle(e).color));
  const b = light(behind(svg ? svg.parentElement : e));
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (e.tagName !== "title" && ratio < 4.5) faint.push([e.textContent.trim(), ratio]);
}
return faint;
"""
# Words that stick out of the window, which a reader of a phone would have to push about.
OUTSIDE = """
const found = [];
for (const e of document.querySelectorAll("body *")) {
  const box = e.getBoundingClientRect();
  if (box.width && (box.right > innerWidth + 1 || box.left < -1))
    found.push(e.tagName + ": " + e.textContent.trim().slice(0, 40));
}
return [document.documentElement.scrollWidth - document.documentElement.clientWidth, found];
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    directory = tmp_path_factory.mktemp("seen")
    built = build(directory)
    path = write_report(
        built.store, built.study, directory / "report.html", optuna_study=built.optuna_study
    )
    built.store.close()
    return path.as_uri()


@pytest.fixture(scope="module")
def browser():
    with chromium.browser() as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [chromium.DESK, chromium.PHONE], ids=["desk", "phone"])
def test_the_page_is_quiet_readable_and_as_wide_as_its_window(browser, page, size, scheme):
    browser.open(page, size, scheme)
    assert browser.complaints() == []
    assert browser.run(FAINT) == []
    assert browser.run(OUTSIDE) == [0, []]
    assert browser.run("return document.querySelectorAll('svg').length") > 10


def test_the_answer_is_in_the_first_window(browser, page):
    browser.open(page)
    box = browser.run(
        "const b = document.querySelector('.figures').getBoundingClientRect();"
        "return [b.top, b.bottom, innerHeight]"
    )
    assert 0 < box[0] < box[1] < box[2]


def test_paper_has_the_folded_parts_too(browser, page):
    browser.open(page)
    shut = "return [...document.querySelectorAll('details > table')].map(e => e.offsetHeight)"
    browser.devtools("Emulation.setEmulatedMedia", media="print")
    try:
        assert min(browser.run(shut)) > 20
        assert base64.b64decode(browser.devtools("Page.printToPDF")["data"]).startswith(b"%PDF")
    finally:
        browser.devtools("Emulation.setEmulatedMedia", media="")
