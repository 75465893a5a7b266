"""A headless Chromium on the page, for the tests and for the pictures of the guides."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
NO_BROWSER = "no Chromium with chromedriver is installed"
CLOSED_NETWORK = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
DONE = ".otdrg-report[aria-busy=false]"
# Collects what the report says while it is written.
FOLLOW = """
window.seen = [];
new MutationObserver(() => {
  const report = document.querySelector(".otdrg-report[aria-busy=true]");
  if (report && report.textContent) window.seen.push(report.textContent.length);
}).observe(document.body, { childList: true, subtree: true, characterData: true });
"""


class Page:
    """The page as a user meets it."""

    def __init__(self, browser, address: str):
        self.browser, self.address = browser, address

    def open(self, width: int = 1280, height: int = 1000):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 640}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.browser.get(self.address)
        self.wait("#otdrg-drop input[type=file]")
        self.browser.execute_script(FOLLOW)
        return self

    def all(self, selector: str) -> list:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def wait(self, selector: str):
        return WebDriverWait(self.browser, 60, 0.05).until(lambda _: (self.all(selector) or [None])[0])

    def read(self, selector: str, get: Callable[[WebElement], str]) -> str:
        """What `get` reads of the first such element; the page may replace it at any time."""
        waiting = WebDriverWait(self.browser, 60, 0.05, [NoSuchElementException, StaleElementReferenceException])
        return waiting.until(lambda _: [get(self.browser.find_element(By.CSS_SELECTOR, selector))])[0]

    def drop(self, *paths):
        self.wait("#otdrg-drop input[type=file]").send_keys("\n".join(map(str, paths)))

    def report(self, *paths) -> str:
        """The report of the films."""
        self.drop(*paths)
        return self.read(DONE, lambda element: element.text)

    def choose(self, label: str, state: str):
        self.wait(f'tr[data-label="{label}"] input[value={state}]').click()

    def rewrite(self, label: str) -> str:
        """The report after the label was given."""
        self.wait("#otdrg-rewrite:enabled").click()
        self.wait(f'tr[data-label="{label}"][data-given=true]')
        return self.read(DONE, lambda element: element.text)

    def record(self) -> dict:
        return json.loads(self.read(DONE, lambda element: element.get_attribute("data-record")))

    def overflow(self) -> int:
        """By how many pixels it is wider than the window."""
        return self.browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")

    def in_window(self, selector: str) -> bool:
        box = "const box = document.querySelector(arguments[0]).getBoundingClientRect();"
        return self.browser.execute_script(f"{box} return box.top >= 0 && box.bottom <= innerHeight;", selector)


def start_browser(profile: Path) -> webdriver.Chrome:
    """Starts Chromium with an empty profile in a folder, and with a log of what it asks for."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*CLOSED_NETWORK, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
