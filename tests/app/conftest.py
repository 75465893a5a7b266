"""The pipeline behind the page, on a tiny model."""

import pytest
from transformers import pipeline


@pytest.fixture(scope="session")
def report(model, processor):
    return pipeline("radiology-report", model=model, processor=processor)
