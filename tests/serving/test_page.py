"""The page in a real browser: search, needs, keyboard, hostile titles, screens and themes."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from client.serving.access import Access
from tests.serving.shop import EVIL, SLASHED, SOON_S, Shop, running

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--lang=en",
)
KEY = "a-key-of-the-browser-test-0123456789"
TABS = ("people", "privacy", "federation")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM.exists() and DRIVER.exists()),
        reason="needs /usr/bin/chromium and /usr/bin/chromedriver (Debian: chromium-driver)",
    ),
]


class Page:
    """A browser with the page open."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def get(self, address: str, width: int = 1400, height: int = 1000) -> "Page":
        self.resize(width, height)
        self.driver.get(address)
        return self

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, name: str, value: str) -> None:
        features = {"features": [{"name": name, "value": value}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", features)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, what: Callable[[], Any], described: str) -> Any:
        deadline = time.monotonic() + SOON_S
        while True:
            try:
                if found := what():
                    return found
            except (NoSuchElementException, StaleElementReferenceException):
                pass
            assert time.monotonic() < deadline, f"did not come: {described}"
            time.sleep(0.05)

    def titles(self) -> list[str]:
        script = (
            "return [...document.querySelectorAll('#recommendations h3')].map(e => e.innerText)"
        )
        return list(self.run(script))

    def choose(self, user: str) -> None:
        field = self.one("#user")
        field.clear()
        field.send_keys(user)
        self.until(lambda: self.all('[role="option"]'), "the users")
        field.send_keys(Keys.ENTER)
        self.until(self.titles, "the list")

    def reasoned(self) -> list[str]:
        def found() -> list[str]:
            sentences = [one.text for one in self.all("#recommendations .sentence")]
            return sentences if len(sentences) == len(self.titles()) else []

        return list(self.until(found, "the reasons"))

    def open_tab(self, name: str, ready: str) -> None:
        self.one(f"#tab-{name}").click()
        self.until(lambda: self.all(ready), f"the view {name}")

    def focused(self) -> str:
        return str(self.driver.switch_to.active_element.get_attribute("id"))

    def complaints(self) -> list[str]:
        """What the browser says went wrong, refused styles and scripts among it."""
        return [line["message"] for line in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture
def page(driver: webdriver.Chrome, address: str) -> Page:
    """The page, freshly opened at desktop size, light."""
    driver.get("about:blank")
    driver.get_log("browser")
    found = Page(driver)
    found.prefer("prefers-color-scheme", "light")
    return found.get(address)


def test_a_user_is_found_by_a_part_of_the_name_and_shown(page: Page) -> None:
    field = page.one("#user")
    field.send_keys("R-1")
    page.until(lambda: len(page.all('[role="option"]')) == 5, "users that match")
    page.all('[role="option"]')[2].click()
    page.until(page.titles, "the list")
    assert len(page.titles()) == 10
    assert field.get_property("value") == "user-11"
    assert page.one("#list-title").text == "Recommended for user-11"
    page.until(lambda: page.all("#history li"), "the history")
    assert "14 interactions" in page.one("#history-status").text
    assert "rated" in page.one("#history").text
    assert all(page.reasoned())
    assert page.until(lambda: page.all("#interests svg .line"), "the plot of interests")


def test_a_user_whose_name_needs_quoting_is_shown(page: Page) -> None:
    page.choose(SLASHED)
    assert page.one("#list-title").text == f"Recommended for {SLASHED}"


def test_a_need_changes_the_list_as_it_is_typed(page: Page) -> None:
    page.choose("user-8")
    before = page.titles()
    page.one("#need").send_keys("a comedy with ghosts")
    page.until(lambda: page.titles() not in ([], before), "another list")
    page.until(lambda: "a comedy with ghosts" in page.one("#list-status").text, "the status")
    assert "what is wanted" in page.one("#legend").text
    page.one("#need").send_keys(Keys.CONTROL + "a", Keys.DELETE)
    page.until(lambda: page.titles() == before, "the first list")


def test_options_reach_the_list_and_nonsense_is_told(page: Page) -> None:
    page.choose("user-8")
    page.one("#options summary").click()
    page.one("#filter").send_keys("genres=Horror", Keys.ENTER)
    page.until(
        lambda: all("Horror" in one.text for one in page.all(".details")), "the filtered list"
    )
    page.one("#filter").send_keys("price>=3", Keys.ENTER)
    page.until(lambda: "filter on 'price'" in page.one("#list-status").text, "the refusal")
    page.one('[aria-label="Remove price>=3"]').click()
    page.until(page.titles, "the list again")


def test_everything_can_be_reached_by_keyboard_alone(page: Page) -> None:
    def press(*pressed: str) -> None:
        for key in pressed:
            webdriver.ActionChains(page.driver).send_keys(key).perform()

    press(Keys.TAB)
    assert page.driver.switch_to.active_element.text == "Skip to the content"
    press(Keys.TAB)
    assert page.focused() == "tab-people"
    press(Keys.ARROW_LEFT)
    assert page.focused() == "tab-federation"
    press(Keys.HOME, Keys.ARROW_RIGHT)
    assert page.focused() == "tab-privacy"
    page.until(lambda: page.one("#privacy").is_displayed(), "the view of privacy")
    assert not page.one("#people").is_displayed()
    press(Keys.HOME, Keys.TAB)
    assert page.focused() == "user"
    page.until(lambda: page.all('[role="option"]'), "the users")
    press(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    marked = page.one('[role="option"][aria-selected="true"]')
    assert page.one("#user").get_attribute("aria-activedescendant") == marked.get_attribute("id")
    press(Keys.ENTER)
    page.until(page.titles, "the list")
    assert page.one("#list-title").text == "Recommended for user-1"
    press(Keys.TAB)
    assert page.focused() == "need"
    press("comedy")
    page.until(lambda: "comedy" in page.one("#list-status").text, "the need's list")
    # What has the focus can be seen.
    press(Keys.TAB)
    assert page.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_escape_closes_the_list_of_users(page: Page) -> None:
    page.one("#user").click()
    page.until(lambda: page.all('[role="option"]'), "the users")
    page.one("#user").send_keys(Keys.ESCAPE)
    assert not page.one("#user-list").is_displayed()
    assert page.one("#user").get_attribute("aria-expanded") == "false"


def test_a_title_that_is_a_script_is_text(page: Page) -> None:
    page.choose("user-0")
    page.until(lambda: EVIL in page.one("#history").text, "the evil title")
    page.reasoned()
    page.one("#describe").click()
    page.until(lambda: "by template" in page.one("#words").text, "the words")
    page.one("#user").clear()
    page.one("#user").send_keys(EVIL)
    assert page.run("return window.hacked") is None
    assert not page.all("main script, main img")


def test_words_are_told_and_kept_apart_from_the_list(page: Page) -> None:
    page.choose("user-8")
    page.one("#describe").click()
    page.until(lambda: "Written by template" in page.one("#words").text, "the words")
    told = [one.text for one in page.all("#words strong")]
    assert told == page.titles()[:5]
    assert page.one("#describe").text == "Describe in words"


def test_privacy_shows_the_budget_and_every_release(page: Page, first_shop: Shop) -> None:
    page.open_tab("privacy", "#privacy-content table")
    text = page.one("#privacy").text
    assert re.search(r"ε 7\.\d{3} of 8 spent", text)
    assert re.search(r"Delta\n1 . 10⁻⁴\n", text)
    meter = page.one('[role="meter"]')
    assert meter.get_attribute("aria-valuemax") == "8"
    assert page.until(lambda: page.all("#privacy .budget"), "the budget's line")
    assert len(page.all("#privacy .step-dot")) == len(first_shop.intents())
    for release in first_shop.releases():
        assert release.sha256[:12] in text
    assert "public fields: name, declared users" in text


def test_the_federation_shows_runs_the_delivery_and_utility(page: Page) -> None:
    page.open_tab("federation", "#federation-content .pair svg")
    text = page.one("#federation").text
    assert "which training never saw" in text
    assert "statistics.safetensors" in text
    assert len(page.all("#federation .pair rect")) == 6


@pytest.mark.parametrize("width", [360, 700, 1400])
def test_nothing_scrolls_sideways(page: Page, width: int) -> None:
    page.resize(width, 900)
    page.choose("user-0")
    page.reasoned()
    page.one("#options summary").click()
    page.one(".why summary").click()
    page.one("#describe").click()
    page.until(lambda: "by template" in page.one("#words").text, "the words")
    ready = {
        "people": "#recommendations svg",
        "privacy": "#privacy-content table",
        "federation": "#federation-content .pair svg",
    }
    for tab in TABS:
        page.open_tab(tab, ready[tab])
        inside, outside = page.run(
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert inside <= outside, tab


def test_at_twice_the_text_size_nothing_scrolls_sideways(page: Page) -> None:
    page.resize(720, 900)
    page.run("document.documentElement.style.fontSize = '200%'")
    page.choose("user-0")
    for tab in TABS:
        page.one(f"#tab-{tab}").click()
        inside, outside = page.run(
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert inside <= outside, tab


def luminance(colour: str) -> float:
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


CONTRAST = """
const shown = [...document.querySelectorAll('body *')].filter((element) =>
  element.checkVisibility() && !element.closest('svg, option, .visually-hidden, .skip') &&
  [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (!/, 0\\)$/.test(colour)) return colour;
  }
};
return shown.map((element) =>
  [element.textContent.slice(0, 30), getComputedStyle(element).color, behind(element)]);
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_enough_contrast_in_both_themes(page: Page, theme: str) -> None:
    page.prefer("prefers-color-scheme", theme)
    page.choose("user-8")
    page.reasoned()
    paper = luminance(page.run("return getComputedStyle(document.body).backgroundColor"))
    assert paper < 0.1 if theme == "dark" else paper > 0.8
    page.one("#describe").click()
    page.until(lambda: "by template" in page.one("#words").text, "the words")
    for tab, ready in (("people", "h3"), ("privacy", "table"), ("federation", ".pair svg")):
        page.open_tab(tab, f"#{tab} {ready}")
        for text, colour, background in page.run(CONTRAST):
            assert contrast(colour, background) >= 4.5, (tab, text, colour, background)


def test_nothing_moves_for_those_who_ask_for_that(page: Page) -> None:
    page.prefer("prefers-reduced-motion", "reduce")
    page.choose("user-8")
    found = page.run(
        "return getComputedStyle(document.querySelector('.recommendations')).transitionDuration"
    )
    assert found == "0s"


def test_the_browser_has_nothing_to_complain_about_and_asks_nobody_else(
    page: Page, address: str
) -> None:
    page.choose("user-0")
    page.reasoned()
    page.open_tab("privacy", "#privacy-content table")
    page.open_tab("federation", "#federation-content table")
    assert page.complaints() == []
    asked = page.run("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert asked
    assert {name for name in asked if not name.startswith(f"{address}/")} == set()
    # Whom one looked at is not kept in the browser's history.
    assert page.driver.current_url == f"{address}/#/federation"


def test_every_field_and_view_has_a_name(page: Page) -> None:
    page.choose("user-8")
    page.one("#options summary").click()
    unnamed = page.run(
        "return [...document.querySelectorAll('input, select, button')].filter((one) =>"
        " one.checkVisibility() && !one.labels?.length && !one.ariaLabel && !one.innerText.trim())"
        ".map((one) => one.outerHTML)"
    )
    assert unnamed == []
    landmarks = page.run(
        "return ['header', 'main', 'footer', '[role=search]']"
        ".map((one) => document.querySelectorAll(one).length)"
    )
    assert landmarks == [1, 1, 1, 1]
    assert page.one("#list-status").get_attribute("aria-live") == "polite"
    assert page.run("return document.documentElement.lang") == "en"


def test_the_page_asks_for_the_key_and_keeps_it_for_the_tab_alone(
    driver: webdriver.Chrome, first_shop: Shop
) -> None:
    with running(first_shop.directory, Access(KEY)) as address:
        page = Page(driver).get(address)
        page.until(lambda: page.one("#key").is_displayed(), "the question for the key")
        page.one("#key").send_keys("wrong", Keys.ENTER)
        page.until(lambda: "does not take" in page.one("#key-error").text, "the refusal")
        page.one("#key").send_keys(KEY, Keys.ENTER)
        page.until(lambda: page.all("#first-users button"), "the users")
        page.choose("user-3")
        assert page.run("return [localStorage.length, document.cookie]") == [0, ""]
        assert page.run("return Object.values(sessionStorage)") == [KEY]
        assert KEY not in page.driver.current_url
