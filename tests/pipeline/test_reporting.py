"""The report as a person meets it: the command, and the page in a browser."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from processes import run_here
from written_students import write_everything, write_student

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

CONTRAST = """() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = parse(c).map(v => { v /= 255;
    return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
    return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor, p = parse(c);
      if (p.length < 4 || p[3] > 0) return c; }
    return 'rgb(255, 255, 255)'; };
  return [...document.querySelectorAll('h1, h2, p, li, th, td, pre, figcaption')]
    .filter(e => e.textContent.trim()).map(e => { const s = getComputedStyle(e);
      const a = light(s.color), b = light(behind(e));
      return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.tagName + ' ' + e.textContent]; })
    .filter(([ratio]) => ratio < 4.5); }"""

OVERLAPS = """() => { const found = [];
  const check = list => { const boxes = list.map(e => [e, e.getBoundingClientRect()]);
    for (let i = 1; i < boxes.length; i++) { const [a, p] = boxes[i - 1], [b, q] = boxes[i];
      if (q.top < p.bottom - 1) found.push([a, b].map(e => e.outerHTML.slice(0, 40))); } };
  check([...document.querySelectorAll('main > *')]);
  for (const row of document.querySelectorAll('tr')) { const cells = [...row.children];
    for (let i = 1; i < cells.length; i++) if (cells[i].getBoundingClientRect().left <
      cells[i - 1].getBoundingClientRect().right - 1) found.push(row.textContent); }
  for (const cell of document.querySelectorAll('th, td'))
    if (cell.scrollWidth > cell.clientWidth + 1) found.push('cut: ' + cell.textContent);
  return found; }"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page")
    write_everything(root)
    options = ("--students", root / "students", "--evaluations", root / "evaluations")
    done = run_here("report", *options, "--out", root / "out")
    assert done.code == 0, done.err
    assert str(root / "out" / "report.html") in done.out
    return root / "out"


def test_mistakes_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, code, named in (
        ([], 2, "Directory 'data/students' does not exist"),
        (["--students", "nowhere"], 2, "nowhere"),
        (["--students", "."], 1, "nothing to report below ."),
    ):
        done = run_here("report", *arguments)
        assert (done.code, named in done.err) == (code, True), done.err


def test_without_a_package_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_student(tmp_path, "t", "projection", 0, 0.8)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run_here("report", "--students", tmp_path / "students", "--out", tmp_path / "out")
    assert done.code == 1
    assert "a report needs the package matplotlib: pip install" in done.err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_the_page_in_a_browser(browser: Any, out: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    troubles: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((out / "report.html").as_uri())
    assert troubles == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert page.evaluate(OVERLAPS) == []
    assert page.evaluate(CONTRAST) == []
    # In front of a background of the scheme, figures are drawn and not blank.
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    figures = page.locator("figure img")
    assert figures.count() == 2
    for number in range(2):
        box = figures.nth(number).bounding_box()
        assert box["width"] >= 300 and box["height"] >= 150
        picture = Image.open(io.BytesIO(figures.nth(number).screenshot())).convert("RGB")
        counts = sorted(picture.getcolors(2**24), reverse=True)
        assert counts[0][0] < 0.99 * picture.width * picture.height
        assert len(counts) > 30
    # On paper it is light, whatever the screen is.
    page.emulate_media(media="print", color_scheme=scheme)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    page.close()
