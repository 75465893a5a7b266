"""
Takes the pictures of the web page for README and guides. A script:

    python -m tests.app.take_pictures docs/images [--model FOLDER] [--example 2]
"""

import argparse
import base64
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from otdrg_hf import DEMO_CHECKPOINT
from tests.support.browsing import DONE, Page, start_browser
from tests.support.served_app import start_site

SIZES = {"app.png": (1280, 1000), "app_phone.png": (390, 844)}
SENTENCES, EDITING, UNFAMILIAR = "app_sentences.png", "app_editing.png", "app_unfamiliar.png"


def take_pictures(folder: Path, model: Path, example: int) -> None:
    """
    Writes pictures of the page: of each of `SIZES` a synthetic example with its report, at full height; of a calibrated
    model also a sentence that is pointed at, a report that is edited, and the warning of an image that it does not
    know.
    """
    folder.mkdir(parents=True, exist_ok=True)
    calibrated = json.loads((model / "config.json").read_text()).get("sentence_calibration") is not None
    with tempfile.TemporaryDirectory() as temporary:
        site = start_site(model, Path(temporary))
        browser = start_browser(Path(temporary, "profile"))
        try:
            for name, size in SIZES.items():
                _show_example(Page(browser, site.address).open(*size), example)
                _take(browser, folder / name, whole=True)
            if calibrated:
                _take_trust(Page(browser, site.address), folder, example, Path(temporary))
        finally:
            browser.quit()
            site.process.terminate()
            site.process.communicate(timeout=60)


def _take_trust(page: Page, folder: Path, example: int, temporary: Path) -> None:
    _show_example(page.open(1280, 800), example)
    sentence = next(s for s in page.all(".otdrg-sentence") if s.get_attribute("data-labels") != "[]")
    page.browser.execute_script("arguments[0].focus()", sentence)
    _take(page.browser, folder / SENTENCES)
    page.wait("[data-otdrg=edit]").click()
    page.wait(".otdrg-draft:not([hidden])").send_keys(" Displaced left rib fracture.")
    page.wait(".otdrg-offer button")
    _take(page.browser, folder / EDITING)
    noise = np.random.default_rng(0).integers(0, 255, (300, 300), dtype=np.uint8)
    Image.fromarray(noise).save(temporary / "noise.png")
    page.open(1280, 800).report(temporary / "noise.png")
    page.wait(".otdrg-unfamiliar")
    _take(page.browser, folder / UNFAMILIAR)


def _show_example(page: Page, example: int) -> None:
    next(b for b in page.all("button") if b.text.split() == ["Synthetic", "example", str(example)]).click()
    page.wait(DONE)
    page.wait("#otdrg-rewrite:enabled")


def _take(browser, path: Path, whole: bool = False) -> None:
    time.sleep(0.5)  # colours fade in
    options = {}
    if whole:
        width, height = browser.execute_script("return [innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        options = {"captureBeyondViewport": True, "clip": clip}
    path.write_bytes(base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", options)["data"]))
    print(f"wrote {path.name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, default=DEMO_CHECKPOINT)
    parser.add_argument("--example", type=int, default=2)
    given = parser.parse_args()
    take_pictures(given.folder, given.model.resolve(), given.example)
