"""The page of a calibrated model in a real headless Chromium: what it says of how far to trust a report."""

import os

import numpy as np
import pytest
from PIL import Image

if not os.environ.get("OTDRG_BROWSER_REQUIRED"):  # as in CI: what would be skipped fails
    pytest.importorskip("gradio")
    pytest.importorskip("selenium")

from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from otdrg_hf.app.study import EXAMPLE_SEEDS, study_of_phantom  # noqa: E402
from tests.support.browsing import CHROMIUM, DONE, DRIVER, Page, start_browser  # noqa: E402
from tests.support.served_app import start_site  # noqa: E402

NO_BROWSER = "no Chromium with chromedriver is installed"
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER or os.environ.get("OTDRG_BROWSER_REQUIRED")), reason=NO_BROWSER
)


@pytest.fixture(scope="module")
def site(calibrated_folder, tmp_path_factory):
    site = start_site(calibrated_folder, tmp_path_factory.mktemp("served"))
    yield site
    site.process.terminate()
    site.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    assert CHROMIUM and DRIVER, NO_BROWSER
    browser = start_browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.quit()


@pytest.fixture
def page(browser, site):
    return Page(browser, site.address).open()


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("films") / "film.png"
    study_of_phantom(EXAMPLE_SEEDS[1]).images[0].save(path)
    return path


def test_operating_point_by_keyboard(page, film):
    page.report(film)
    assert "operating_point" not in page.record() and not page.all(".otdrg-changed")
    page.wait("#otdrg-point input:checked").send_keys(Keys.ARROW_RIGHT)
    page.wait("#otdrg-point .otdrg-changed")
    page.wait("#otdrg-rewrite:enabled").send_keys(Keys.ENTER)
    page.wait(".otdrg-report[data-point=sensitive]")
    assert page.record()["operating_point"]["asked"] == "sensitive" and not page.all(".otdrg-changed")
    page.report(film)  # the next study is written at the point that is on the page
    page.wait(".otdrg-report[data-point=sensitive]")


def test_unfamiliar_image(page, film, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (300, 300), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    page.report(tmp_path / "noise.png")
    assert page.record()["input"]["why"] in page.wait(".otdrg-unfamiliar").text
    assert page.in_window(".otdrg-unfamiliar")
    page.report(film)
    WebDriverWait(page.browser, 60).until(lambda _: not page.all(".otdrg-unfamiliar"))
    assert page.wait(DONE).text
