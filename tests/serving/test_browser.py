"""The page of the server in a real headless Chromium: a form in, a report out, nothing fetched from elsewhere."""

import json
import os

import pytest

REQUIRED = bool(os.environ.get("OTDRG_BROWSER_REQUIRED"))  # as in CI: what would be skipped fails
if not REQUIRED:
    pytest.importorskip("selenium")

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from otdrg_hf.data.phantom import make_phantom  # noqa: E402
from otdrg_hf.reporting import load_reporter  # noqa: E402
from tests.docs.guide_blocks import blocks_of  # noqa: E402
from tests.support.browsing import CHROMIUM, DRIVER, NO_BROWSER  # noqa: E402
from tests.support.served_api import start_server  # noqa: E402

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER or REQUIRED), reason=NO_BROWSER)


@pytest.fixture(scope="module")
def server():
    server = start_server()
    yield server
    server.stop()


def addresses(browser) -> set[str]:
    """What the browser has asked for."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return {each["request"]["url"] for each in sent}


def test_the_form_reports_an_image(server, browser, tmp_path):
    picture = make_phantom(0, "test", 256).images[0]
    picture.save(tmp_path / "chest.png")
    browser.get(server.address)
    assert "not for clinical use" in browser.find_element(By.TAG_NAME, "body").text
    browser.find_element(By.NAME, "images").send_keys(str(tmp_path / "chest.png"))
    browser.find_element(By.NAME, "indication").send_keys("Cough.")
    browser.find_element(By.TAG_NAME, "button").click()
    WebDriverWait(browser, 120, 0.1).until(lambda _: browser.current_url.endswith("/v1/reports"))
    text = browser.find_element(By.TAG_NAME, "body").text
    [shown] = [block for block in blocks_of("docs/serve.md") if block.text.startswith('{"image"')]
    assert shown.shows(text)
    row = json.loads(text)
    expected = load_reporter()({"images": [picture], "indication": "Cough."})
    assert row["image"] == "chest.png" and row["generated_text"] == expected["generated_text"]
    asked = {url for url in addresses(browser) if url.startswith("http")}
    assert asked <= {f"{server.address}{path}" for path in ("/", "/v1/reports", "/favicon.ico")} and len(asked) >= 2
    assert [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]] == []
