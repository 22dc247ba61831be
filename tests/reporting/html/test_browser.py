"""The page in a browser: nothing is fetched, nothing complains, and it fits narrow and wide windows."""

import pytest

from ragcun.reporting.html import write_report
from tests.reporting.html.conftest import evaluate, write_isotropy

pytestmark = pytest.mark.slow
READABLE = """() => {
  const channels = colour => colour.match(/[0-9.]+/g).map(Number);
  const luminance = colour => {
    const [r, g, b] = channels(colour).slice(0, 3).map(value => value / 255)
      .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor, parts = channels(colour);
      if (parts.length < 4 || parts[3] > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const shown = [...document.body.querySelectorAll("*")].filter(element => element.checkVisibility()
    && [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim()));
  return shown.map(element => {
    const style = getComputedStyle(element);
    const [one, other] = [style.color, behind(element)].map(luminance).sort((a, b) => b - a);
    return [parseFloat(style.fontSize), (one + 0.05) / (other + 0.05)];
  });
}"""
"""The font size and the contrast of every visible text."""
WIDTH = "document.documentElement.scrollWidth"
SHIFTS = """shifts = [];
new PerformanceObserver(list => shifts.push(...list.getEntries().map(entry => entry.value)))
  .observe({type: "layout-shift", buffered: true});"""
"""Keeps how far visible parts moved while the page loaded."""
CLOSED = "document.querySelectorAll('details:not([open])').length"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_opens_cleanly_and_fits(browser, whole_page, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    messages: list[str] = []
    requests: list[str] = []
    for event in ("console", "pageerror", "requestfailed"):
        page.on(event, lambda what: messages.append(str(what)))
    page.on("request", lambda request: requests.append(request.url))
    page.add_init_script(SHIFTS)
    page.goto(whole_page.as_uri(), wait_until="load")
    page.wait_for_timeout(300)
    assert page.evaluate("shifts") == []
    assert 0 < page.query_selector("#run-1-queries ~ details .values").bounding_box()["y"] < 900
    for details in page.query_selector_all("details"):
        details.evaluate("element => { element.open = true; }")
    assert messages == []
    assert [url for url in requests if not url.startswith("data:image/png;base64,")] == [whole_page.as_uri()]
    widths = page.eval_on_selector_all("img", "pictures => pictures.map(picture => picture.naturalWidth)")
    assert len(widths) == 7
    assert min(widths) > 0
    assert page.evaluate(WIDTH) <= width
    assert page.evaluate("document.documentElement.scrollHeight") > 900
    sizes, contrasts = zip(*page.evaluate(READABLE), strict=True)
    assert min(sizes) >= 12
    assert min(contrasts) >= 4.5
    page.close()


def test_the_keyboard_alone_reaches_and_opens_everything(browser, whole_page):
    page = browser.new_page()
    page.goto(whole_page.as_uri(), wait_until="load")
    assert page.evaluate(CLOSED) > 0
    for _ in range(1000):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):  # after the last
            break
        if page.evaluate("document.activeElement.matches('details:not([open]) > summary')"):
            page.keyboard.press("Enter")
    assert page.evaluate(CLOSED) == 0
    page.close()


def test_long_names_do_not_widen_the_page(browser, make_run, data_dir, tmp_path):
    runs = [make_run(letter * 200, base_model=letter * 900, head=f"{letter} " * 300) for letter in "ab"]
    evaluate(runs[0], data_dir, names=["plain"])
    write_isotropy(runs[0] / "isotropy.json", str(runs[0] / "best_model"))
    output = write_report(runs, tmp_path / "page.html", data_dir=tmp_path)
    page = browser.new_page()
    page.goto(output.as_uri(), wait_until="load")
    for width in (400, 1200):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(WIDTH) <= width
    page.close()
