"""Studies that are longer than the LLM's context: found with the tokenizer asked no more than needed, and named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import tiny_model, tiny_rows, tiny_studies

from otdrg_hf.training.collator import StudyCollator
from otdrg_hf.training.studies import WORDING, _most_tokens, check_context, study_tokens


@pytest.fixture(scope="module")
def processor():
    return tiny_model()[1]


@pytest.fixture
def limited(processor, monkeypatch):
    """The processor with a context of the given length."""

    def limit(length: int | None):
        monkeypatch.setattr(processor, "context_length", length)
        return processor

    return limit


def with_report(words: int, position: int = 2) -> list[dict]:
    rows = tiny_rows(4)
    rows[position]["report"] = "opacity " * words
    return rows


def test_tokens_are_those_of_the_batch(processor):
    rows = tiny_rows(4)
    batch = StudyCollator(processor)(rows)
    counted = [study_tokens(row, processor, "report") for row in rows]
    assert [prompt + report for prompt, report in counted] == batch["attention_mask"].sum(-1).tolist()
    assert [report for _, report in counted] == (batch["labels"] != -100).sum(-1).tolist()


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60), st.integers(1, 4))
def test_the_bound_is_one(processor, indication, comparison, report, views):
    views = ["unknown"] * views
    study = {"views": views, "indication": indication, "comparison": comparison, "report": report}
    shortest = processor.count_tokens(processor.build_prompt(1, fit=False)) + WORDING
    assert sum(study_tokens(study, processor, "report")) <= shortest + _most_tokens(study, processor, "report")


def test_the_first_that_is_too_long_is_named_and_the_others_are_counted(limited):
    with pytest.raises(
        ValueError, match=r"^Study 'study-2' takes \d+ tokens \(prompt \d+, report \d+\), more than the LLM"
    ):
        check_context(with_report(400), limited(300), "report")
    rows = with_report(400)
    rows[3]["report"] = rows[2]["report"]
    with pytest.raises(ValueError, match=r"context of 300 \(2 studies are too long\): shorten the texts"):
        check_context(rows, limited(300), "report")


def test_the_limit_itself_is_not_beyond_it(limited, processor):
    rows = with_report(40)
    longest = max(sum(study_tokens(row, processor, "report")) for row in rows)
    check_context(rows, limited(longest), "report")
    with pytest.raises(ValueError, match=f"takes {longest} tokens .* more than the LLM's context of {longest - 1}:"):
        check_context(rows, limited(longest - 1), "report")
    check_context(rows, limited(None), "report")


def test_only_the_target_counts_and_no_image_is_read(limited):
    studies = tiny_studies(4)
    studies = studies.map(lambda row: {"findings": "opacity " * 400}, remove_columns="images")
    check_context(studies, limited(300), "report")
    with pytest.raises(ValueError, match="Study 'study-0' takes"):
        check_context(studies, limited(300), "findings")


@pytest.mark.parametrize("field", ["report", "indication", "comparison"])
def test_the_collator_names_the_study(limited, field):
    rows = tiny_rows(4)
    rows[2][field] = "opacity " * 400
    collate = StudyCollator(limited(300))
    assert len(collate(rows[:2])["input_ids"]) == 2
    with pytest.raises(ValueError, match="Study 'study-2' takes .* more than the LLM's context of 300"):
        collate(rows)
