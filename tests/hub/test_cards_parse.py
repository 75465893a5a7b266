"""huggingface_hub reads the cards back without a warning, and a reader finds the figures that matter at once."""

import logging
import warnings

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from huggingface_hub.repocard import metadata_load

from otdrg_hf.hub.dataset_card import write_dataset_card, write_phantom_card
from otdrg_hf.hub.model_card import score_names, write_model_card
from tests.hub.conftest import prepared, stage, write_stages


@pytest.fixture
def no_warning():
    """Warnings, and what huggingface_hub logs, fail the test."""
    records = []

    class Keep(logging.Handler):
        def emit(self, record):
            records.append(record.getMessage())

    handler, logger = Keep(logging.WARNING), logging.getLogger("huggingface_hub")
    logger.addHandler(handler)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    logger.removeHandler(handler)
    assert records == []


def parsed(kind, path):
    card = kind.load(path)
    assert metadata_load(path) == card.data.to_dict() == yaml.safe_load(str(card.data))
    assert "{{" not in card.text and "{%" not in card.text and card.text.count("\n# ") <= 1
    return card


def test_model_card(published, figures, no_warning):
    write_stages(published, stage())
    path = write_model_card(published, figures, repo_id="org/tiny-otdrg")
    card = parsed(ModelCard, path)
    assert {result.metric_args["figure"] for result in card.data.eval_results} == set(score_names(figures))
    at_once, folded = card.text.split("<details>")
    assert "| Clinical efficacy, 14 labels, micro F1 |" in at_once and "micro precision" not in at_once
    assert "| Clinical efficacy, 14 labels, micro precision |" in folded and folded.count("</details>") == 1


def test_dataset_cards(tmp_path, no_warning):
    parsed(DatasetCard, write_dataset_card(prepared(tmp_path / "iu", "iu_xray")))
    parsed(DatasetCard, write_phantom_card({"train": 4}, tmp_path / "phantoms.md"))
