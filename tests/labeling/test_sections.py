"""Which parts of a report describe the image, and where sentences end."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otdrg_hf.labeling.sections import read_header, split_sections, split_sentences

CLINICAL = [
    "indication", "clinical history", "clinical statement", "clinical question", "question", "notes", "context",
    "reason for exam", "comparison", "technique", "clinical", "hx", "request details", "recommendation", "indicaton",
    "ndication", "presenting complaint", "clinical impression", "patient information", "exam", "views",
]  # fmt: skip
DESCRIBING = [
    "findings", "impression", "result", "results", "report", "conclusion", "wet read", "addendum", "chest findings",
    "findings and impression", "pa and lateral chest radiographs", "opinion", "fidnings",
    "upright ap view of the chest", "wet read version #1 ___ 5:00 pm", "pfi", "preliminary report", "final",
]  # fmt: skip
NO_HEADERS = [
    "lungs",
    "heart",
    "pleural effusion",
    "other findings",
    "no acute findings",
    "differential diagnosis",
    "ap",
]


@pytest.mark.parametrize("header", CLINICAL)
def test_headers_of_what_is_asked(header):
    assert read_header(header)[0] == "asks"


@pytest.mark.parametrize("header", DESCRIBING)
def test_headers_of_what_is_seen(header):
    assert read_header(header)[0] == "describes"


@pytest.mark.parametrize(
    "header", [*NO_HEADERS, "ap chest compared to", "", "the patient said that he had had a cough for a week"]
)
def test_words_before_a_colon_that_are_no_header(header):
    assert read_header(header) is None


@pytest.mark.parametrize(
    "report, parts",
    [
        ("No effusion.", {"": "No effusion."}),
        ("Lungs: clear. Heart: large.", {"": "Lungs: clear. Heart: large."}),
        ("71M, CHF.\nFINDINGS: No edema.", {"findings": "No edema."}),
        ("CLINICAL STATEMENT: CHF. FINDINGS: No edema.", {"findings": "No edema."}),
        ("Question - CHF? Result - no edema", {"result": "no edema"}),
        ("QUESTION\nCHF?\nRESULT\nNo edema", {"result": "No edema"}),
        ("Notes: CHF.\n\nReport:\nNo edema.", {"report": "No edema."}),
        ("**Context:** CHF\n**Findings:** No edema.", {"findings": "** No edema."}),
        ("cough Findings: clear", {"findings": "clear"}),
        ("FINDINGS: A. IMPRESSION: B. RECOMMENDATION: C.", {"impression": "B.", "findings": "A."}),
        ("FINDINGS: A.IMPRESSION: B.", {"impression": "B.", "findings": "A."}),
        ("Heart normal. ADDENDUM: Edema.", {"addendum": "Edema.", "": "Heart normal."}),
        ("The heart is normal. IMPRESSION: No edema.", {"impression": "No edema.", "": "The heart is normal."}),
        ("Man with CHF. IMPRESSION: No edema.", {"impression": "No edema."}),
        ("INDICATION: CHF.\n\nThe lungs are clear.", {"": "The lungs are clear."}),
        ("INDICATION: CHF.\nThe lungs are clear.", {"": "The lungs are clear."}),
        ("INDICATION: CHF. The lungs are clear. Small nodule.", {"": "The lungs are clear. Small nodule."}),
        ("INDICATION: CHF. THE LUNGS ARE CLEAR.", {"": "THE LUNGS ARE CLEAR."}),
        ("COMPARISON: None. No focal opacity.", {"": "No focal opacity."}),
        ("INDICATION: Dyspnea. Heart failure. No fever.", {}),
        (
            "INDICATION: CHF.\n\nThe lungs are clear.\n\nIMPRESSION: B.",
            {"impression": "B.", "": "The lungs are clear."},
        ),
        ("FINDINGS: Edema since 5:00 AM: none: no.", {"findings": "Edema since 5:00 AM: none: no."}),
        ("INDICATION: CHF", {}),
        ("WET READ: Edema.", {"wet read": "Edema."}),
        ("WET READ: Edema. FINAL REPORT FINDINGS: No edema.", {"report findings": "No edema."}),
        ("WET READ: Edema.\n FINAL REPORT\n There is no edema.", {"": "There is no edema."}),
        ("FINDINGS: No edema.\nWET READ: Edema.", {"findings": "No edema."}),
        ("FINDINGS: No edema.\n WET READ VERSION #1 ___ 5:00 PM\n Edema.", {"findings": "No edema."}),
        ("WET READ: Edema.\nFINDINGS: ___", {"findings": "___", "wet read": "Edema."}),
        ("WET READ: Edema.\nADDENDUM: Effusion.", {"wet read": "Edema.", "addendum": "Effusion."}),
        ("The lungs are clear.\nWET READ: Edema.", {"": "The lungs are clear.", "wet read": "Edema."}),
        ("Preliminary report: edema. Impression: clear.", {"impression": "clear."}),
        ("PRELIMINARY REPORT\nFINDINGS: A.\nIMPRESSION: B.", {"impression": "B.", "findings": "A."}),
        ("PFI REPORT\nIMPRESSION: Edema.\nFINAL REPORT\nFINDINGS: Clear.", {"findings": "Clear."}),
        ("PROVISIONAL FINDINGS IMPRESSION (PFI): Edema.\nIMPRESSION: Clear.", {"impression": "Clear."}),
        ("PFI: Edema.", {"pfi": "Edema."}),
    ],
)
def test_parts_that_describe(report, parts):
    assert {name: report[start:end].strip() for name, start, end in split_sections(report)} == parts


@pytest.mark.parametrize(
    "text, sentences",
    [
        ("1.Lungs clear 2.No edema", ["1", "Lungs clear", "2", "No edema"]),
        ("1.No edema.2.Effusion.", ["1", "No edema.", "2", "Effusion"]),
        ("(a) No edema (b) effusion", ["(a) No edema", "(b) effusion"]),
        ("i) no edema ii) effusion", ["i) no edema", "ii) effusion"]),
        ("•No edema •Effusion", ["No edema", "Effusion"]),
        ("No edema\nSmall effusion", ["No edema", "Small effusion"]),
        ("no edema\nsmall effusion", ["no edema", "small effusion"]),
        ("no edema or\nsmall effusion", ["no edema or\nsmall effusion"]),
        ("No pleural\neffusion", ["No pleural\neffusion"]),
        ("Effusion\nis small", ["Effusion\nis small"]),
        ("No edema Heart large", ["No edema", "Heart large"]),
        ("Edema: No\nEffusion: Yes", ["Edema: No", "Effusion: Yes"]),
        ("Edema? No. Effusion? Yes.", ["Edema? No", "Effusion? Yes"]),
        ("Edema? Heart large.", ["Edema?", "Heart large"]),
        ("? edema", ["? edema"]),
        ("A 1.5 cm. nodule at the R. base. No edema.", ["A 1.5 cm. nodule at the R. base", "No edema"]),
        ("Nodule of 1.5 cm. No edema.", ["Nodule of 1.5 cm", "No edema"]),
        ("No. 8 French catheter. No. Small.", ["No. 8 French catheter", "No", "Small"]),
        ("No edema (e.g. alveolar) or effusion.", ["No edema (e.g. alveolar) or effusion"]),
        ("Effusion ...... none", ["Effusion ...... none"]),
        ("Edema... Heart large.", ["Edema", "Heart large"]),
    ],
)
def test_sentences(text, sentences):
    assert [text[start:end] for start, end in split_sentences(text)] == sentences


PIECES = st.sampled_from(
    [
        "Findings",
        "INDICATION",
        "No edema",
        "clear",
        "heart",
        ":",
        " - ",
        "\n",
        "\n\n",
        ". ",
        "?",
        "1.",
        "2)",
        "(a)",
        "•",
        " ",
        "*",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=40).map("".join)))
def test_parts_and_sentences_lie_in_the_text_in_order(text):
    parts = sorted((start, end) for _, start, end in split_sections(text))
    assert all(0 <= start <= end <= len(text) for start, end in parts)
    assert all(first[1] <= second[0] for first, second in zip(parts, parts[1:], strict=False))
    spans = split_sentences(text)
    assert all(0 <= start < end <= len(text) and text[start:end].strip() == text[start:end] for start, end in spans)
    assert all(first[1] <= second[0] for first, second in zip(spans, spans[1:], strict=False))


@settings(max_examples=100, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_no_letter_is_lost_between_sentences(text):
    kept = "".join(text[start:end] for start, end in split_sentences(text))
    assert [c for c in kept if c.isalnum()] == [c for c in text if c.isalnum()]
