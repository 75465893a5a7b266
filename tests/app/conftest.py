"""The page's pipelines, of a tiny model and of the bundled one, and the bundled one's page in a browser."""

import html
import json
import re

import pytest
from transformers import pipeline

from otdrg_hf import DEMO_CHECKPOINT
from tests.support.served_app import start_site


def page_after(updates) -> dict:
    """What the parts hold when all updates are done."""
    page = {}
    for update in updates:
        page |= update
    return page


def record_of(page: dict) -> dict:
    """What the page offers as its download."""
    return json.loads(html.unescape(re.search('data-record="(.*?)"', page["report"], re.DOTALL)[1]))


@pytest.fixture(scope="session")
def report(model, processor):
    return pipeline("radiology-report", model=model, processor=processor)


@pytest.fixture(scope="session")
def calibrated():
    """The bundled model, which is calibrated."""
    return pipeline("radiology-report", model=str(DEMO_CHECKPOINT))


# Of a module: an open page keeps its server busy, which would take time from all tests that follow.
@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The page of the bundled model."""
    site = start_site(DEMO_CHECKPOINT, tmp_path_factory.mktemp("served"))
    yield site
    site.process.terminate()
    site.process.communicate(timeout=60)
