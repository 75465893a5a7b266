"""Weights of tokens in the language-model loss: those of sentences that state a finding."""

import pytest
import torch
from tiny_training import tiny_model, tiny_rows

from otdrg_hf.training.collator import StudyCollator
from otdrg_hf.training.finding_weights import finding_weights, states_a_finding


@pytest.fixture(scope="module")
def built():
    return tiny_model()


def weighted_text(processor, report: str) -> str:
    """The tokens of a report that weigh more, as text."""
    completion = processor.build_completion(report)
    ids = torch.tensor(processor.tokenizer(completion, add_special_tokens=False)["input_ids"])
    weights = finding_weights(completion, processor.tokenizer, 3.0)
    assert set(weights.tolist()) <= {1.0, 3.0} and len(weights) == len(ids)
    return processor.tokenizer.decode(ids[weights == 3.0]).strip()


@pytest.mark.parametrize(
    "report, stated",
    [
        (
            "The lungs are clear. There is a small right pleural effusion. No pneumothorax.",
            "small right pleural effusion",
        ),
        ("Possible left basilar pneumonia.", "Possible left basilar pneumonia"),
        ("No pneumothorax. The lungs are clear.", ""),
        ("", ""),
    ],
)
def test_sentences_that_state_a_finding_weigh_more(built, report, stated):
    text = weighted_text(built[1], report)
    assert stated in text
    assert "clear" not in text and "pneumothorax" not in text
    assert stated or not text


def test_denials_state_nothing():
    assert states_a_finding("Mild cardiomegaly") and states_a_finding("Possible edema")
    assert not states_a_finding("No pleural effusion") and not states_a_finding("The heart is normal in size")


def test_a_weight_of_one_is_the_plain_loss_and_more_pulls_towards_findings(built):
    model, processor = built
    rows = tiny_rows(6)
    plain, weighted = StudyCollator(processor)(rows), StudyCollator(processor, finding_weight=3.0)(rows)
    assert "label_weights" not in plain
    assert weighted["label_weights"].shape == weighted["labels"].shape
    with torch.no_grad():
        loss = model(**plain).lm_loss
        ones = model(**plain, label_weights=torch.ones_like(weighted["label_weights"])).lm_loss
        heavier = model(**{**weighted}).lm_loss
    torch.testing.assert_close(ones, loss)
    assert heavier > loss
