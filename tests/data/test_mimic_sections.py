"""Sections of MIMIC-CXR reports follow the conventions of the official parser."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otdrg_hf.data.mimic_sections import (
    REPORTS_CUT_BY_POSITION,
    REPORTS_READ_FROM_SECTION,
    SECTION_NAMES,
    normalize_section_name,
    read_sections,
    split_sections,
)
from tests.support.shared_cases import shared_cases

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
        ("REASON FOR STUDY", "indication"),
        ("CLINICAL DATA", "history"),
        ("HISTORY OF PRESENT ILLNESS", "history"),
        ("PFI", "provisional"),
        ("PROVISIONAL FINDINGS IMPRESSION (PFI)", "provisional"),
        ("PRELIMINARY IMPRESSION", "provisional"),
    ],
)
def test_synonyms(header, section):
    assert normalize_section_name(header) == section


@pytest.mark.parametrize(
    "section, headers",
    [
        ("indication", "NDICATION,IDICATION,INDCATION,INDICATOIN,INDICATIONS,INDICAITON,I NDICATION,REASN FOR EXAM"),
        ("indication", "CLINCAL INDICATION,CLINICAL INDICATON,REASON FOR EXAMINTION,REASONFOR EXAM,INDIKATION"),
        ("history", "HISTROY,HISTOY,HIISTORY,CLINICAL HISTRY,CLINICLA INFORMATION,PATEINT HISTORY,CLINICAL INFORMTION"),
        ("findings", "FINDGINGS,FINDINDGS,FINDIGS,FINIDNGS,FINDINGSS,INDINGS,FIND INGS,REFERENCE FINDNGS"),
        ("impression", "MPRESSION,IMPRESSON,IMPRESSOIN,IMPRESION,IMPRRESSION,IMORESSION,CONCLUSON,CONCLUSIONS"),
        ("impression", "IM PRESSION,FINDINGS/IMPRESION,IMPRESSIONS"),
        ("comparison", "COMPARISION,COMPARSION,COMPARRISON,COMPARISIONS,COMPARISON EXAMS,REFERANCE EXAM"),
        ("technique", "TECHNIQUES,TECNIQUE,TECHNIQE"),
        ("provisional", "PROVISONAL FINDINGS,PRELIMINARY FINDINGS,PRELIMNARY IMPRESSION"),
    ],
)
def test_typing_errors_of_one_letter(section, headers):
    assert {header: normalize_section_name(header) for header in headers.split(",")} == dict.fromkeys(
        headers.split(","), section
    )


@pytest.mark.parametrize(
    "header", ["MODIFICATION", "COMPRESSION", "RATIO", "PROCEDURE", "LINES", "NOTE", "HISTON", "EXAM A"]
)
def test_other_words_are_not_taken_for_typing_errors(header):
    assert normalize_section_name(header) == header.lower()


def one_edit(draw, word):
    place = draw(st.integers(0, len(word) - 1))
    letter = draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    left, right = word[:place], word[place:]
    return draw(
        st.sampled_from(
            [left + right[1:], left + letter + right, left + letter + right[1:], left + right[1::-1] + right[2:]]
        )
    )


@given(st.data(), st.sampled_from(["INDICATION", "FINDINGS", "IMPRESSION", "HISTORY", "COMPARISON", "TECHNIQUE"]))
def test_any_one_edit_of_a_header_is_forgiven(data, header):
    assert normalize_section_name(one_edit(data.draw, header)) == header.lower()


def test_the_question_never_becomes_the_impression():
    text = " FINAL REPORT\n NDICATION:  Rule out effusion.\n \n FINDINGS:  Clear.\n"
    assert read_sections(text) == ("Rule out effusion.", "Clear.", "")


def test_a_header_with_nothing_behind_it_leaves_the_next_alone():
    text = " FINAL REPORT\n INDICATION:\n HISTORY:\n FINDINGS:  Clear.\n IMPRESSION:\n AP CHEST:  Normal.\n"
    assert read_sections(text) == ("", "Clear.", "AP CHEST: Normal.")


def test_known_headers_need_no_blank_behind_the_colon():
    text = " FINAL REPORT\n INDICATION:Cough.\n FINDINGS:Clear lungs.\n NO:seen.\n IMPRESSION:Normal.\n"
    assert read_sections(text) == ("Cough.", "Clear lungs. NO:seen.", "Normal.")


@pytest.mark.parametrize(
    "lines, indication",
    [
        (["INDICATION:  ", "HISTORY:  Cough and fever."], "Cough and fever."),
        (["HISTORY:  Cough and fever.", "INDICATION: "], "Cough and fever."),
        (["INDICATION:  ___", "CLINICAL HISTORY:  Dyspnea."], "Dyspnea."),
        (["INDICATION:  ___", "COMPARISON:  ___"], "___"),
        (["INDICATION:  None given.", "CLINICAL INFORMATION:  Trauma."], "Trauma."),
        (["INDICATION:  N/A", "PATIENT HISTORY:  Fall."], "Fall."),
        (["INDICATION: \t ", "REASON FOR EXAM:  Line."], "Line."),
        (["REASON FOR EXAM:  Line.", "INDICATION:  "], "Line."),
        (["INDICATION:  Not provided.", "HISTORY:  ___"], "Not provided."),
        (["CHIEF COMPLAINT:  Chest pain.", "INDICATION:"], "Chest pain."),
        (["CLINICAL STATEMENT:  Known lung cancer."], "Known lung cancer."),
        (["INDICATION:  Chest pain.", "HISTORY:  Smoker."], "Chest pain."),
        (["INDICATION:  Chest pain.", "INDICATION:  Fever."], "Fever."),
        (["INDICATION:  None of the usual symptoms.", "HISTORY:  Smoker."], "None of the usual symptoms."),
        (["INDICATION:  ", "HISTORY:  "], ""),
    ],
)
def test_what_stands_in_for_a_blank_indication(lines, indication):
    text = "\n ".join([" FINAL REPORT", *lines, "FINDINGS:  Clear.", ""])
    assert read_sections(text) == (indication, "Clear.", "")


FINAL = ["FINAL REPORT", "HISTORY:  Cough.", "", "FINDINGS:  Effusion is small.", "", "IMPRESSION:  Effusion."]
RULE = "_" * 40


@pytest.mark.parametrize(
    "lines",
    [
        [*FINAL, RULE, "PFI REPORT", "PFI:  Hemithorax is opaque."],
        [*FINAL, RULE, "PFI REPORT", "Hemithorax is opaque."],
        [*FINAL, "PFI:  Hemithorax is opaque."],
        [*FINAL, "PFI:", "", "1. Hemithorax is opaque."],
        [*FINAL, "PFI - Hemithorax is opaque."],
        [*FINAL, RULE, "PFI REPORT", "HISTORY:  Hemithorax is opaque.", "FINDINGS:  Hemithorax is opaque."],
        [*FINAL, "PROVISIONAL FINDINGS IMPRESSION (PFI):  KYL 5:00 PM", "Hemithorax is opaque."],
        ["PROVISIONAL FINDINGS IMPRESSION (PFI):  KYL 5:00 PM", "Hemithorax is opaque.", RULE, *FINAL],
        ["PFI:  Hemithorax is opaque.", RULE, *FINAL],
        ["PRELIMINARY REPORT", "HISTORY:  Hemithorax is opaque.", RULE, *FINAL],
        [*FINAL[:3], "PFI:  Hemithorax is opaque.", *FINAL[3:]],
        [*FINAL[:3], "Provisional findings:  Hemithorax is opaque.", *FINAL[3:]],
        [*FINAL[:3], "Preliminary read: hemithorax is opaque.", *FINAL[3:]],
        [*FINAL[:3], "WET READ:  Hemithorax is opaque.", *FINAL[3:]],
        [*FINAL, RULE, "WET READ VERSION #1 KYL 5:00 PM", "Hemithorax is opaque."],
        [*FINAL[:1], "INDICATION:  ", *FINAL[1:], "PFI:  Hemithorax is opaque."],
    ],
)
@pytest.mark.parametrize("indent", ["\n ", "\n"])
def test_provisional_findings_are_left_out(lines, indent):
    sections = read_sections(indent.join(["", *lines, ""]))
    assert sections == ("Cough.", "Effusion is small.", "Effusion.")


def test_provisional_findings_are_no_indication_of_their_own():
    assert read_sections(" FINAL REPORT\n PFI:  Effusion.\n \n FINDINGS:  Clear.\n") == ("", "Clear.", "")


def test_a_report_that_is_all_preliminary_is_read():
    text = " PRELIMINARY REPORT\n INDICATION:  Cough.\n \n FINDINGS:  Clear.\n"
    assert read_sections(text) == ("Cough.", "Clear.", "")


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


@pytest.mark.parametrize("case", shared_cases("section.json", lambda case: isinstance(case["expected"], dict)))
def test_cases_from_the_field(case):
    sections = read_sections(case["input"])._asdict()
    assert {name: sections[name] for name in case["expected"]} == case["expected"]
