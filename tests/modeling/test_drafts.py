"""Writing together: a draft that is continued, and the impression of given findings."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import pipeline

from otdrg_hf.data.phantom import make_phantom
from otdrg_hf.reporting import load_reporter, report_studies
from tests.support.tiny_models import make_films, make_model

SHORT = {"max_new_tokens": 8}
DRAFT = "The heart is enlarged."


@pytest.fixture(scope="module")
def report(folder):
    return pipeline("radiology-report", model=str(folder))


@pytest.fixture(scope="module")
def film():
    return make_films(1, size=(48, 40), seed=3)[0]


def test_a_draft_is_continued_as_the_model_would(report, model, processor, film):
    answer = report(film, begins_with=DRAFT, **SHORT)
    prompt = processor.build_prompt(1, ["unknown"])
    inputs = processor(images=film, text=f"{prompt} {DRAFT}")
    ids = model.generate(**inputs, **SHORT)[:, inputs["input_ids"].shape[1] :]
    assert answer["generated_text"] == (DRAFT + processor.batch_decode(ids, skip_special_tokens=True)[0]).rstrip()
    assert answer["findings"] == report(film, **SHORT)["findings"]


@given(st.text(max_size=30))
@settings(max_examples=25)
def test_any_draft_is_kept_as_it_is(report, film, draft):
    text = report(film, begins_with=draft, max_new_tokens=3)["generated_text"]
    if draft.strip():
        assert text.startswith(draft.rstrip()) and (text.startswith(draft) or text == draft.rstrip())
    else:
        assert text == report(film, max_new_tokens=3)["generated_text"]


def test_drafts_of_a_batch_are_those_of_the_studies(report, film):
    studies = [
        film,
        {"images": film, "begins_with": DRAFT},
        {"images": [film, film], "begins_with": "No pleural effusion or pneumothorax.\n\nThe heart"},
        {"images": film, "begins_with": "Possible pneumonia.", "disease_labels": {"Pneumonia": "positive"}},
    ]
    single = [report(study, **SHORT)["generated_text"] for study in studies]
    assert [answer["generated_text"] for answer in report(studies, batch_size=4, **SHORT)] == single
    for study, text in zip(studies[1:], single[1:], strict=True):
        assert text.startswith(study["begins_with"])
    answers = report_studies(report, [film, studies[2]], begins_with=DRAFT, description=None, **SHORT)
    assert [answer["generated_text"] for answer in answers] == [single[1], single[2]]  # a study's own comes first


def test_the_models_own_report_is_continued_as_it_was():
    """From wherever it is interrupted between two words: the cursor of a page."""
    report = load_reporter()
    phantom = make_phantom(3, "test", 128)
    study = {"images": phantom.images, "views": phantom.views}
    text = report(study)["generated_text"]
    words = text.split(" ")
    cuts = [" ".join(words[:count]) for count in range(1, len(words), 7)]
    for answer in report([{**study, "begins_with": cut} for cut in cuts], batch_size=8):
        assert answer["generated_text"] == text


def test_candidates_continue_the_draft(report, film):
    options = {"num_beams": 2, "num_return_sequences": 2}
    answer = report(film, begins_with=DRAFT, generate_kwargs=options, **SHORT)
    assert all(text.startswith(DRAFT) for text in answer["candidates"])


@pytest.mark.parametrize(
    "given_texts, match",
    [
        (
            {"begins_with": "Clear. " * 400},
            r"beginning of the report takes \d+ tokens and leaves no room .* context of 512",
        ),
        ({"impression_of": "Clear. " * 400}, "beginning of the report takes"),
        ({"begins_with": 7}, "`begins_with` must be text, got int"),
        ({"impression_of": ["Clear."]}, "`impression_of` must be text, got list"),
        ({"begins_with": "Clear.", "impression_of": "Clear."}, "`begins_with` or `impression_of`, not both"),
        ({"impression_of": "Findings: Clear. Impression: Normal."}, "takes the findings alone"),
        ({"impression_of": "Impression: Normal."}, "takes the findings alone"),
        ({"impression_of": "Clear lungs."}, "did not learn to begin its reports with 'Findings:'"),
    ],
    ids=str,
)
def test_what_cannot_be_continued_is_one_line(report, film, given_texts, match):
    for call in (
        lambda: report(film, **given_texts, **SHORT),
        lambda: report({"images": film, **given_texts}, **SHORT),
    ):
        with pytest.raises(ValueError, match=match) as error:
            call()
        assert "\n" not in str(error.value)


def test_a_draft_that_just_fits_is_continued(report, film):
    tokenizer, context = report.processor.tokenizer, report.model.config.context_length
    prompt = report.processor.count_tokens(report.processor.build_prompt(1, ["unknown"]))
    draft = "a" * (4 * context)
    while len(tokenizer(f" {draft}", add_special_tokens=False)["input_ids"]) > context - prompt - 1:
        draft = draft[:-1]
    assert report(film, begins_with=draft, **SHORT)["generated_text"].startswith(draft)
    with pytest.raises(ValueError, match="leaves no room"):
        report(film, begins_with=draft + "aaaaaaaa", **SHORT)


@pytest.fixture(scope="module")
def sectioned(processor):
    """A tiny model that learned one report with both sections by heart."""
    model = make_model(seed=1)
    film = make_films(1, size=(48, 40), seed=3)[0]
    text = "Findings: The heart is normal in size. Impression: The lungs are clear."
    prompt = processor.build_prompt(1, ["unknown"])
    inputs = processor(images=film, text=prompt + processor.build_completion(text))
    labels = inputs["input_ids"].clone()
    labels[:, : processor.count_tokens(prompt)] = -100
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(150):
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss < 0.02:
            break
    return pipeline("radiology-report", model=model.eval(), processor=processor)


def test_the_impression_of_given_findings(sectioned, film):
    findings = "The heart is normal in size."
    answer = sectioned(film, impression_of=findings, max_new_tokens=20)
    assert answer["generated_text"].startswith(f"Findings: {findings} Impression:")
    assert answer["sections"]["findings"] == findings
    assert answer["sections"]["impression"].startswith("The lungs are clear")
    own = sectioned(film, max_new_tokens=60)["sections"]
    assert own == answer["sections"]
    kept = "FINDINGS: The heart is\nnormal in size."
    assert sectioned(film, impression_of=kept, **SHORT)["generated_text"].startswith(f"{kept} Impression:")
    rows = sectioned(film, impression_of=findings, sentences=True, max_new_tokens=20)["sentences"]
    assert [row["section"] for row in rows] == ["findings", "impression"]
    assert rows[0]["likelihood"] is None and rows[1]["likelihood"] > 0.5
