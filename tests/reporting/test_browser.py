"""The page in a headless browser: no errors, no network requests, usable with mouse and keyboard."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from multistream.reporting import report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser (the extra 'browser').")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
if not (BROWSER and DRIVER):
    pytest.skip("chromium and chromedriver are needed.", allow_module_level=True)

from selenium.webdriver.common.by import By  # noqa: E402  selenium is known to be there only here
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402


@pytest.fixture(scope="module")
def pages(
    early: Path, late: Path, two: Path, vectors_alone: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    runs = {"early": early, "late": late, "two": two, "anp": vectors_alone}
    return {n: report(run, photos=8, out=folder / f"{n}.html", device="cpu").path for n, run in runs.items()}


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1100,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    made.set_script_timeout(10)
    yield made
    made.quit()


@pytest.fixture
def open_page(driver: Any, pages: dict[str, Path]) -> Iterator[Callable[[str], Any]]:
    """Opens a page, and asserts afterwards that there was no network request and no console message."""

    def open_(name: str) -> Any:
        driver.get_log("performance")
        driver.get(pages[name].as_uri())
        return driver

    yield open_
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}
    assert {url for url in asked if url.startswith("file")} <= {path.as_uri() for path in pages.values()}
    assert driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []
    assert driver.get_log("browser") == []
    assert driver.execute_script("return window.broken") is None


def pixels(driver: Any) -> str:
    return str(driver.execute_script("return document.getElementById('canvas').toDataURL()"))


def description(driver: Any) -> str:
    return str(driver.find_element(By.ID, "description").text)


@pytest.mark.parametrize("name", ["early", "late", "anp"])
def test_page_opens_without_errors_and_shows_names_as_text(open_page: Callable[[str], Any], name: str) -> None:
    page = open_page(name)
    assert "</script><script>window.broken=1</script>" in page.find_element(By.TAG_NAME, "body").text
    assert page.find_element(By.ID, "probabilities").text
    if name != "early":
        assert len(Select(page.find_element(By.ID, "stream")).options) == (name == "late")
    shown = {k for k in ("stream", "stage", "opacity", "class") if page.find_element(By.ID, k).is_displayed()}
    assert shown == ({"class"} if name == "anp" else {"stream", "stage", "opacity", "class"})
    assert page.find_element(By.NAME, "reference").is_displayed() == (name != "anp")
    if name != "late":
        assert "<b>pair" in page.find_element(By.ID, "entries").text


def test_page_works_with_the_mouse(open_page: Callable[[str], Any]) -> None:
    page = open_page("early")
    seen = {pixels(page)}
    photo = page.find_elements(By.CSS_SELECTOR, "[data-photo]")[3]
    photo.click()
    assert photo.get_attribute("aria-pressed") == "true"
    seen.add(pixels(page))
    for control, text in (("class", ""), ("stage", "block5"), ("stage", "block1")):
        select = Select(page.find_element(By.ID, control))
        before = description(page)
        option = next(o for o in select.options if o.text.startswith(text) and not o.is_selected())
        select.select_by_visible_text(option.text)
        assert description(page) != before
        seen.add(pixels(page))
    for radio in ("scale", "reference"):
        page.find_elements(By.NAME, radio)[1].click()
        seen.add(pixels(page))
    page.execute_script(
        "const o = document.getElementById('opacity'); o.value = 20; o.dispatchEvent(new Event('input'))"
    )
    seen.add(pixels(page))
    assert len(seen) == 8
    assert page.find_element(By.ID, "opacity-value").text == "20 %"
    page.find_element(By.ID, "next").click()
    assert page.find_elements(By.CSS_SELECTOR, "[data-photo]")[4].get_attribute("aria-pressed") == "true"


def test_a_stream_can_be_selected(open_page: Callable[[str], Any]) -> None:
    page = open_page("two")
    stream, stage = Select(page.find_element(By.ID, "stream")), Select(page.find_element(By.ID, "stage"))
    assert [option.text for option in stream.options] == ["all image streams", "object", "other"]
    seen = {(pixels(page), description(page))}
    for key in ("object", "other"):
        stream.select_by_visible_text(key)
        assert f": {key}, all stages contribute" in description(page)
        seen.add((pixels(page), description(page)))
    before = len(stage.options)
    stream.select_by_visible_text("all image streams")
    assert len(stage.options) >= before > 1
    assert len({drawn for drawn, _ in seen}) == len({text for _, text in seen}) == 3
    stream_control = page.find_element(By.ID, "stream")
    stream_control.send_keys(Keys.ARROW_DOWN)
    assert ": object, all stages contribute" in description(page)


@pytest.mark.parametrize("name", ["early", "late", "two", "anp"])
def test_every_figure_has_a_description(open_page: Callable[[str], Any], name: str) -> None:
    page = open_page(name)
    shown = "return [...document.querySelectorAll('svg, img, canvas')].filter(e => e.checkVisibility())"
    for each in page.execute_script(shown):
        hidden = each.get_attribute("aria-hidden") == "true"
        assert hidden or each.get_attribute("aria-label") or each.get_attribute("alt"), each.get_attribute("outerHTML")
    if name != "anp":
        assert page.find_element(By.ID, "canvas").get_attribute("aria-label") == description(page)
    for control in page.find_elements(By.CSS_SELECTOR, "select, input, button"):
        assert control.accessible_name or not control.is_displayed()


def test_page_works_with_the_keyboard(open_page: Callable[[str], Any]) -> None:
    page = open_page("early")
    visited, changed = [], set()
    for _ in range(60):
        page.switch_to.active_element.send_keys(Keys.TAB)
        focused = page.switch_to.active_element
        name = focused.get_attribute("id") or focused.get_attribute("name") or focused.get_attribute("data-photo")
        visited.append(name)
        before = pixels(page), description(page)
        outline = page.execute_script("return getComputedStyle(arguments[0]).outlineStyle", focused)
        if name in ("5", "next", "previous"):
            assert outline == "solid"
            focused.send_keys(Keys.ENTER)
        elif name in ("class", "stage", "scale", "reference"):
            focused.send_keys(Keys.ARROW_DOWN)
        elif name == "opacity":
            focused.send_keys(Keys.ARROW_LEFT)
        if (pixels(page), description(page)) != before:
            changed.add(name)
    assert changed == {"5", "next", "previous", "class", "stage", "scale", "reference", "opacity"}
    assert "stream" in visited


def test_tables_add_up(open_page: Callable[[str], Any]) -> None:
    page = open_page("early")
    rows = page.find_elements(By.CSS_SELECTOR, "#contributions tbody tr")
    for column in (0, 1):
        cells = [row.find_elements(By.TAG_NAME, "td")[column].text.replace("−", "-") for row in rows]
        numbers = [float(text) for text in cells]
        assert sum(numbers[:-1]) == pytest.approx(numbers[-1], abs=0.0005 * len(numbers))


@contextmanager
def screen(page: Any, *, width: int, mobile: bool = False, media: str = "", **features: str) -> Iterator[None]:
    """Opens the page with another device's screen size."""
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": mobile}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wanted = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": wanted})
    try:
        yield
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("name", ["early", "late", "two", "anp"])
@pytest.mark.parametrize("width", [320, 390])
def test_narrow_page_scrolls_only_vertically(open_page: Callable[[str], Any], name: str, width: int) -> None:
    page = open_page(name)
    with screen(page, width=width, mobile=True):
        assert page.execute_script("return document.documentElement.scrollWidth") == width


def test_narrow_page_keeps_photo_and_map_together(open_page: Callable[[str], Any]) -> None:
    """The photos are a strip that scrolls to the selected photo; the map below it does not move."""
    page = open_page("early")
    with screen(page, width=390, mobile=True):
        page.execute_script("document.querySelector('.photos').scrollIntoView()")
        place = "return document.getElementById('canvas').getBoundingClientRect().top"
        top = page.execute_script(place)
        assert 0 < top < 844
        for _ in range(7):
            page.find_element(By.ID, "next").click()
            chosen = page.find_element(By.CSS_SELECTOR, "[data-photo][aria-pressed='true']")
            left, right = page.execute_script(
                "const b = arguments[0].getBoundingClientRect(); return [b.left, b.right]", chosen
            )
            assert -1 <= left < right <= 391


CONTRAST = """
const line = (c) => { const v = c / 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
const light = (text) => {
  const [r, g, b] = text.match(/[\\d.]+/g).map(Number);
  return 0.2126 * line(r) + 0.7152 * line(g) + 0.0722 * line(b);
};
const paper = light(getComputedStyle(document.body).backgroundColor);
const kinds = 'p, th, td, dt, dd, a, figcaption, caption, .verdict, summary, text, small';
const words = [...document.querySelectorAll(kinds)];
return Math.min(...words.filter((e) => e.textContent.trim() && !e.closest('.matrix')).map((e) => {
  const style = getComputedStyle(e), ink = light(e.tagName === 'text' ? style.fill : style.color);
  return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
}));
"""
"""The smallest contrast of any text with its background, by WCAG 2."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_sufficient_contrast(open_page: Callable[[str], Any], scheme: str) -> None:
    page = open_page("early")
    with screen(page, width=1100, prefers_color_scheme=scheme):
        paper = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
        assert page.execute_script(CONTRAST) >= 4.5


@pytest.mark.parametrize("name", ["early", "late", "two", "anp"])
def test_no_table_is_cut_in_print(open_page: Callable[[str], Any], name: str) -> None:
    """A sheet of A4 with the browser's own margins is 718 pixels wide, and cannot be scrolled."""
    page = open_page(name)
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    with screen(page, width=718, media="print"):
        cut = (
            "return [...document.querySelectorAll('.wide, pre')].filter(e => e.scrollWidth > e.clientWidth + 1)"
            ".map(e => e.getAttribute('aria-label') || e.id || e.textContent.slice(0, 40))"
        )
        assert page.execute_script(cut) == []
        assert not page.find_element(By.ID, "controls").is_displayed()
    page.execute_script("dispatchEvent(new Event('afterprint'))")
    sheets = base64.b64decode(page.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert sheets.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", sheets)) <= 12


def test_print_opens_everything(open_page: Callable[[str], Any]) -> None:
    page = open_page("early")
    count = "return document.querySelectorAll('details[open]').length"
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert page.execute_script(count) == page.execute_script("return document.querySelectorAll('details').length") > 2
    page.execute_script("dispatchEvent(new Event('afterprint'))")
    assert page.execute_script(count) == 0


def test_policy_blocks_network_requests(driver: Any, pages: dict[str, Path]) -> None:
    driver.get(pages["early"].as_uri())
    call = "const done = arguments[0]; fetch('https://example.invalid/').then(() => done('sent'), (e) => done('' + e))"
    assert "TypeError" in driver.execute_async_script(call)
    assert "Content Security Policy" in " ".join(entry["message"] for entry in driver.get_log("browser"))
    script = (
        "const s = document.createElement('script'); s.textContent = 'window.broken = 1'; document.body.append(s);"
        "return window.broken"
    )
    assert driver.execute_script(script) is None
    driver.get_log("browser")
