"""The page in a real headless Chromium: a film goes in, the report appears, a label is changed, the report follows."""

import json
import os
import time

import numpy as np
import pytest
from PIL import Image

REQUIRED = bool(os.environ.get("OTDRG_BROWSER_REQUIRED"))  # as in CI: what would be skipped fails
if not REQUIRED:
    pytest.importorskip("gradio")
    pytest.importorskip("selenium")

from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from otdrg_hf.app.study import EXAMPLE_SEEDS, study_of_phantom  # noqa: E402
from otdrg_hf.labeling import LABELS  # noqa: E402
from tests.support.browsing import CHROMIUM, DONE, DRIVER, NO_BROWSER, Page  # noqa: E402
from tests.support.tiny_models import make_films  # noqa: E402

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER or REQUIRED), reason=NO_BROWSER)


@pytest.fixture
def page(browser, site):
    return Page(browser, site.address)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("patient_smith") / "film.png"
    study_of_phantom(EXAMPLE_SEEDS[0]).images[0].save(path)
    return path


def test_first_sight(page):
    page.open()
    assert "not for clinical use" in page.wait(".otdrg-notice").text
    assert page.wait("#otdrg-rewrite").get_attribute("disabled")
    assert not page.wait("#otdrg-opacity").is_displayed() and page.overflow() <= 0


def test_film_report_label_report_download(page, film, tmp_path):
    first = page.open().report(film)
    seen = page.browser.execute_script("return window.seen")
    assert first and len(set(seen)) > 2 and seen[-1] > seen[0]  # as it is written
    assert [row.get_attribute("data-label") for row in page.all(".otdrg-labels tbody tr")] == list(LABELS)
    before = page.record()
    assert before["generated_text"].split() == first.split() and before["complete"]

    state = before["findings"][1]["state"]
    other = "negative" if state != "negative" else "positive"
    page.choose("Cardiomegaly", other)
    assert "with your changes" in page.browser.execute_script(
        "return getComputedStyle(document.querySelector('#otdrg-rewrite'), '::after').content"
    )
    second = page.rewrite("Cardiomegaly")
    after = page.record()
    assert second != first
    assert after["given_labels"] == {"Cardiomegaly": other} and after["findings"][1]["state"] == other
    page.browser.save_screenshot(str(tmp_path / "page.png"))
    assert np.asarray(Image.open(tmp_path / "page.png").convert("L")).std() > 20

    target = str(tmp_path / "saved")
    page.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": target})
    page.wait("[data-otdrg=download]").click()
    saved = tmp_path / "saved" / "report.json"
    WebDriverWait(page.browser, 30).until(lambda _: saved.exists() and saved.stat().st_size)
    assert json.loads(saved.read_text()) == after

    page.wait('tr[data-label="Cardiomegaly"] .otdrg-given').click()
    page.wait("#otdrg-rewrite:enabled").click()
    page.wait('tr[data-label="Cardiomegaly"][data-given=false]')
    assert page.wait(DONE).text == first and page.record() == before


def test_evidence_and_its_slider(page, film):
    page.open().report(film)
    names = [radio.get_attribute("value") for radio in page.all("input[name=otdrg-evidence]")]
    assert names[0] == "" and len(names) > 2
    for name in (names[2], names[0], names[1]):
        page.wait(f'input[name=otdrg-evidence][value="{name}"]').click()
        shown = [heat.get_attribute("data-label") for heat in page.all(".otdrg-heat") if heat.is_displayed()]
        assert shown == ([name] if name else [])
    layer = page.wait(".otdrg-heat:not([hidden])")
    assert float(layer.value_of_css_property("opacity")) == 0.6
    page.wait("#otdrg-opacity input[type=range]").send_keys(*[Keys.ARROW_LEFT] * 4)
    WebDriverWait(page.browser, 10).until(lambda _: float(layer.value_of_css_property("opacity")) == 0.4)


def test_dicom(page, tmp_path):
    pytest.importorskip("pydicom")
    from tests.support.dicom_files import SECRETS, make_dicom

    for name, position in (("IM1", "LL"), ("IM2", "PA")):
        (tmp_path / name).write_bytes(make_dicom(make_films(1, (200, 180))[0], ViewPosition=position))
    page.open().report(tmp_path / "IM1", tmp_path / "IM2")
    assert [select.get_property("value") for select in page.all("select.otdrg-view")] == ["lateral", "frontal"]
    assert page.record()["views"] == ["lateral", "frontal"]
    source = page.browser.page_source
    assert not any(secret in source for secret in (*SECRETS.values(), str(tmp_path)))


def test_bad_uploads_are_one_line_and_a_good_one_follows(page, film, tmp_path):
    (tmp_path / "bad.png").write_text("no film")
    page.open().drop(tmp_path / "bad.png")
    message = page.wait("#otdrg-message .otdrg-error").text
    assert message.startswith("image 'bad.png': not an image file") and str(tmp_path) not in message
    assert page.wait("#otdrg-rewrite").get_attribute("disabled")

    with open(tmp_path / "huge.dcm", "wb") as file:
        file.truncate(201 * 2**20)
    page.drop(tmp_path / "huge.dcm")
    assert page.wait("#otdrg-refused p:not([hidden])").text == "huge.dcm: 201 MB, images of up to 200 MB can be read."

    assert page.report(film)
    assert not page.wait("#otdrg-message").text and not page.wait("#otdrg-refused").is_displayed()


def test_examples_of_which_the_second_does_not_wait_for_the_first(page):
    page.open()
    buttons = {button.text: button for button in page.all("button")}
    buttons["Synthetic example 1"].click()
    page.wait(".otdrg-report[aria-busy=true]")
    buttons["Synthetic example 2"].click()
    truth = study_of_phantom(EXAMPLE_SEEDS[1]).phantom_report
    shown = "return document.querySelector('.otdrg-report ~ details')?.textContent ?? ''"
    WebDriverWait(page.browser, 60).until(lambda browser: truth in browser.execute_script(shown))
    assert page.record()["synthetic_image"] and page.record()["complete"]
    assert "A synthetic phantom, not a patient." in page.wait("body").text


def test_phone(page, film, tmp_path):
    page.open(390, 844).report(film)
    assert page.overflow() <= 0
    page.browser.execute_script("document.querySelector('tr[data-label=Fracture]').scrollIntoView({ block: 'center' })")
    state = page.wait('tr[data-label="Fracture"]').get_attribute("data-state")
    small = page.wait('tr[data-label="Fracture"] label').size
    assert small["height"] >= 30 and small["width"] >= 60  # to be hit by a thumb
    assert page.in_window(".otdrg-notice") and not page.in_window("#otdrg-rewrite")
    page.choose("Fracture", "negative" if state != "negative" else "positive")
    assert page.in_window("#otdrg-rewrite")  # it comes to whoever is far down the table
    page.browser.save_screenshot(str(tmp_path / "phone.png"))
    page.rewrite("Fracture")
    assert page.overflow() <= 0
    top = page.browser.execute_script("return document.querySelector('.otdrg-report').getBoundingClientRect().top")
    assert 0 <= top < 844


def test_nothing_is_fetched_from_elsewhere_and_no_film_stays(page, film, site):
    page.browser.get_log("performance"), page.browser.get_log("browser")
    page.open().report(film)
    messages = [json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert len(asked) > 5
    assert not [url for url in asked if not url.startswith((site.address, "data:", "blob:"))]
    assert not [entry for entry in page.browser.get_log("browser") if entry["level"] == "SEVERE"]
    content = film.read_bytes()
    deadline = time.monotonic() + 10
    while left := [path for path in site.temporary.rglob("*") if path.is_file() and path.read_bytes() == content]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
