"""
Takes the pictures of the web page for README and guides. A script:

    python -m tests.app.take_pictures docs/images [--model FOLDER] [--example 2]
"""

import argparse
import base64
import tempfile
import time
from pathlib import Path

from otdrg_hf import DEMO_CHECKPOINT
from tests.support.browsing import DONE, Page, start_browser
from tests.support.served_app import start_site

SIZES = {"app.png": (1280, 1000), "app_phone.png": (390, 844)}


def take_pictures(folder: Path, model: Path, example: int) -> None:
    """Writes one picture of the page, at full height, for each of `SIZES`: a synthetic example with its report."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        site = start_site(model, Path(temporary))
        browser = start_browser(Path(temporary, "profile"))
        try:
            for name, (width, height) in SIZES.items():
                page = Page(browser, site.address).open(width, height)
                next(b for b in page.all("button") if b.text.split() == ["Synthetic", "example", str(example)]).click()
                page.wait(DONE)
                page.wait("#otdrg-rewrite:enabled")
                time.sleep(0.5)  # colours fade in
                whole = {"x": 0, "y": 0, "width": width, "scale": 1}
                whole["height"] = browser.execute_script("return document.documentElement.scrollHeight")
                options = {"captureBeyondViewport": True, "clip": whole}
                picture = browser.execute_cdp_cmd("Page.captureScreenshot", options)["data"]
                (folder / name).write_bytes(base64.b64decode(picture))
                print(f"wrote {name}")
        finally:
            browser.quit()
            site.process.terminate()
            site.process.communicate(timeout=60)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, default=DEMO_CHECKPOINT)
    parser.add_argument("--example", type=int, default=2)
    given = parser.parse_args()
    take_pictures(given.folder, given.model.resolve(), given.example)
