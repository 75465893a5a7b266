"""Sections of MIMIC-CXR reports follow the conventions of the official parser."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otdrg_hf.data.section_names import REPORTS_CUT_BY_POSITION, REPORTS_READ_FROM_SECTION, SECTION_NAMES
from otdrg_hf.data.sections import normalize_section_name, read_sections, split_sections

PLAIN = (
    " FINAL REPORT\n INDICATION:  ___F with cough\n \n COMPARISON:  None.\n \n"
    " FINDINGS: \n \n The lungs\n are  clear.\n \n IMPRESSION: \n \n Normal chest.\n"
)


def names(text):
    return [name for name, _ in split_sections(text)]


def test_plain_report():
    assert names(PLAIN) == ["preamble", "indication", "comparison", "findings", "impression"]
    assert read_sections(PLAIN) == ("___F with cough", "The lungs are clear.", "Normal chest.")


@pytest.mark.parametrize(
    "header, section",
    [
        ("IMPRESSON", "impression"),
        ("CONCLUSION", "impression"),
        ("FINDINGS AND IMPRESSION", "impression"),
        ("REASON FOR EXAM", "indication"),
        ("CLINICAL HISTORY", "history"),
        ("CHEST, TWO VIEWS", "findings"),
        ("PORTABLE AP CHEST", "findings"),
        ("WETREAD", "wet read"),
        ("FINAL IMPRESSION ADDED", "impression"),
        ("PROCEDURE", "procedure"),
        (" NDICATION ", "impression"),
    ],
)
def test_synonyms(header, section):
    assert normalize_section_name(header) == section


def test_last_of_several_sections_counts():
    text = " X\n IMPRESSION:  First.\n \n IMPRESSION:  Second.\n"
    assert read_sections(text).impression == "Second."


def test_empty_title_before_the_true_findings_is_dropped():
    text = " FINAL REPORT\n CHEST, PA LATERAL:\n \n INDICATION:  Cough.\n \n IMPRESSION:  Clear.\n"
    sections = read_sections(text)
    assert sections.findings == "" and sections.indication == "Cough." and sections.impression == "Clear."


def test_history_stands_in_for_the_indication():
    assert read_sections(" X\n HISTORY:  Fever.\n \n FINDINGS:  Clear.\n").indication == "Fever."


def test_last_paragraphs_are_the_findings_where_nothing_else_is():
    text = " FINAL REPORT\n INDICATION:  Line placement.\n \n The line ends in the SVC.\n \n No pneumothorax.\n"
    assert names(text) == ["preamble", "indication", "last_paragraph"]
    assert read_sections(text).findings == "The line ends in the SVC. No pneumothorax."


def test_report_without_headers_drops_its_first_paragraph():
    text = " FINAL REPORT\n \n Heart is enlarged.\n"
    assert names(text) == ["full report", "last_paragraph"]
    assert read_sections(text).findings == "Heart is enlarged."


def test_comparison_is_the_last_resort():
    text = " FINAL REPORT\n COMPARISON:  ___. No change in the effusion.\n"
    assert read_sections(text).findings == "___. No change in the effusion."


def test_header_on_the_line_of_another_is_text():
    text = " X\n IMPRESSION:  AP CHEST:  No change.\n"
    assert read_sections(text).impression == "AP CHEST: No change."


def test_lower_case_and_unspaced_colons_are_no_headers():
    text = " X\n FINDINGS:  Clear.\n Note: see above.\n RATIO 1:2.\n"
    assert names(text) == ["preamble", "findings"]


def test_unindented_report_is_read_too():
    text = "INDICATION: Cough.\nFINDINGS: Clear lungs.\nIMPRESSION:\nNormal."
    assert read_sections(text) == ("Cough.", "Clear lungs.", "Normal.")


def test_windows_line_ends():
    assert read_sections(PLAIN.replace("\n", "\r\n")) == read_sections(PLAIN)


def test_report_cut_by_position():
    start, end = REPORTS_CUT_BY_POSITION["s50196495"]
    text = " " * start + "a" * (end - start) + " tail\n IMPRESSION:  Not this.\n"
    assert read_sections(text, "s50196495") == ("", "a" * (end - start), "")


def test_report_known_to_say_nothing():
    assert read_sections(PLAIN, "s58235663")[1:] == ("", "")


def test_report_read_from_another_section():
    assert REPORTS_READ_FROM_SECTION["s51966317"] == "indication"
    assert read_sections(PLAIN, "s51966317").findings == "___F with cough"


def test_the_official_numbers_of_exceptions():
    assert (len(REPORTS_READ_FROM_SECTION), len(REPORTS_CUT_BY_POSITION)) == (23, 31)


lines = st.one_of(
    st.sampled_from([f"{name.upper()}:  " for name in SECTION_NAMES]),
    st.sampled_from(["", "The lungs are clear.", "NOTE", "at 5:30 PM", "AP CHEST: x"]),
)


@given(st.lists(lines, max_size=15))
def test_no_text_is_lost_or_doubled(parts):
    text = " FINAL REPORT" + "".join(f"\n {part}" for part in parts)
    sentence = "The lungs are clear."
    assert sum(body.count(sentence) for _, body in split_sections(text)) == text.count(sentence)


@given(st.text())
def test_any_text_is_read(text):
    sections = read_sections(text)
    assert all(part == " ".join(part.split()) for part in sections)
