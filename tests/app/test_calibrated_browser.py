"""The page of a calibrated model in a real headless Chromium: what it says of how far to trust a report."""

import json
import os

import numpy as np
import pytest
from PIL import Image

if not os.environ.get("OTDRG_BROWSER_REQUIRED"):  # as in CI: what would be skipped fails
    pytest.importorskip("gradio")
    pytest.importorskip("selenium")

from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from otdrg_hf.app.study import EXAMPLE_SEEDS, study_of_phantom  # noqa: E402
from tests.support.browsing import CHROMIUM, DONE, DRIVER, NO_BROWSER, Page  # noqa: E402

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER or os.environ.get("OTDRG_BROWSER_REQUIRED")), reason=NO_BROWSER
)


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
    assert page.record()["input"]["why"] in page.read(".otdrg-unfamiliar", lambda element: element.text)
    assert page.in_window(".otdrg-unfamiliar")
    page.report(film)
    WebDriverWait(page.browser, 60).until(lambda _: not page.all(".otdrg-unfamiliar"))
    assert page.wait(DONE).text


def heats(page) -> list[str]:
    return [heat.get_attribute("data-label") for heat in page.all(".otdrg-heat") if heat.is_displayed()]


def test_pointing_at_a_sentence_shows_where_it_comes_from(page, film):
    text = page.report(film)
    record = page.record()
    assert text.split() == record["generated_text"].split()
    sentences = page.all(".otdrg-sentence")
    before = heats(page)
    # The same by pointer and by keyboard.
    for follow in (
        lambda sentence: ActionChains(page.browser).move_to_element(sentence).perform(),
        lambda sentence: page.browser.execute_script("arguments[0].focus()", sentence),
    ):
        for sentence, expected in zip(sentences, record["sentences"], strict=True):
            follow(sentence)
            assert set(heats(page)) == {row["label"] for row in expected["labels"] if row["has_evidence"]}
            assert page.wait(".otdrg-detail").text == sentence.get_attribute("data-detail")
        ActionChains(page.browser).move_to_element(page.wait(".otdrg-top h1")).perform()
        page.browser.execute_script("document.activeElement.blur()")
        assert heats(page) == before


def test_tab_goes_from_sentence_to_sentence(page, film):
    page.report(film)
    page.browser.execute_script("document.querySelector('.otdrg-sentence').focus()")
    ActionChains(page.browser).send_keys(Keys.TAB).perform()
    second = page.all(".otdrg-sentence")[1]
    assert page.browser.switch_to.active_element == second
    assert page.wait(".otdrg-detail").text == second.get_attribute("data-detail")


def test_sentences_of_different_confidence_look_different(page, film):
    page.report(film)
    looks = {
        key.get_attribute("data-confidence"): (
            key.value_of_css_property("background-color"),
            key.value_of_css_property("text-decoration-style"),
        )
        for key in page.all(".otdrg-legend [data-confidence]")
    }
    assert len(looks) == len(set(looks.values())) == 3
    for sentence in page.all(".otdrg-sentence"):
        level = sentence.get_attribute("data-confidence")
        colour = sentence.value_of_css_property("background-color")
        assert colour == looks[level][0] if level in looks else colour == "rgba(0, 0, 0, 0)"


def edit(page, text: str, back: int = 0):
    """Adds to the report by keyboard alone, and leaves the cursor some characters before the end."""
    page.browser.execute_script("arguments[0].focus()", page.wait("[data-otdrg=edit]"))
    ActionChains(page.browser).send_keys(Keys.ENTER).perform()
    area = page.wait(".otdrg-draft:not([hidden])")
    assert page.browser.switch_to.active_element == area
    area.send_keys(text, *[Keys.ARROW_LEFT] * back)
    return area


def test_edits_are_offered_as_labels_and_continued_from_the_cursor(page, film):
    before = page.report(film)
    assert not page.wait("#otdrg-resume").is_displayed()
    edit(page, " There is a displaced rib fracture. Bad end", back=len(" Bad end"))
    offered = page.wait(".otdrg-offer button")
    assert offered.text == "Fracture: positive" and not page.wait(".otdrg-report").is_displayed()
    offered.click()
    page.wait('tr[data-label="Fracture"].otdrg-changed')
    page.browser.execute_script("document.querySelector('.otdrg-draft').focus()")
    ActionChains(page.browser).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()
    page.wait('tr[data-label="Fracture"][data-given=true]')
    text = page.wait(DONE).text
    draft = f"{before} There is a displaced rib fracture."
    assert text.startswith(draft) and "Bad end" not in text
    record = page.record()
    assert record["given_labels"] == {"Fracture": "positive"} and record["generated_text"].startswith(draft)
    WebDriverWait(page.browser, 10).until(lambda _: not page.wait("#otdrg-resume").is_displayed())


def test_continuing_in_the_middle_by_button(page, film):
    before = page.report(film)
    first = before.index(".") + 1
    area = edit(page, "")
    page.browser.execute_script("arguments[0].setSelectionRange(arguments[1], arguments[1])", area, first)
    page.wait("#otdrg-resume").click()
    WebDriverWait(page.browser, 60).until(lambda _: "Continued from your text" in page.wait("#otdrg-report").text)
    assert page.wait(DONE).text.startswith(before[:first])


def test_edits_can_be_undone_and_are_in_the_download(page, film, tmp_path):
    before = page.report(film)
    edit(page, " Done by hand.")
    target = str(tmp_path)
    page.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": target})
    page.wait("[data-otdrg=download]").click()
    saved = tmp_path / "report.json"
    WebDriverWait(page.browser, 30).until(lambda _: saved.exists() and saved.stat().st_size)
    assert json.loads(saved.read_text()) == {**page.record(), "edited_text": f"{before} Done by hand."}
    page.wait("[data-otdrg=edit]").click()
    assert page.wait(".otdrg-report").text == before and not page.wait(".otdrg-draft").is_displayed()
    page.wait("[data-otdrg=edit]").click()
    assert page.wait(".otdrg-draft").get_property("value") == before
