"""A structured report is read back as what it was made of, and belongs to the study of its image."""

import contextlib
import io
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes

from otdrg_hf.hospital import RESEARCH_USE
from otdrg_hf.hospital.codes import PROCEDURE, SITES, STATE_CODES, label_code
from otdrg_hf.hospital.fhir import diagnostic_report
from otdrg_hf.hospital.regions import outline
from otdrg_hf.hospital.source import read_source
from otdrg_hf.hospital.structured_report import Algorithm, report_uid, structured_report
from otdrg_hf.labeling import LABELS

from .conftest import ALGORITHM, radiograph

pytest.importorskip("highdicom", reason="needs otdrg-hf[hospital]")

COPIED = ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "AccessionNumber")


@pytest.fixture(scope="module")
def document(answer, tmp_path_factory):
    """A report as it comes back from a file, and the file."""
    path = tmp_path_factory.mktemp("sr") / "report.dcm"
    structured_report(answer, [read_source(radiograph())], ALGORITHM).save_as(path, enforce_file_format=True)
    from highdicom.sr import srread

    return srread(path), path


def read_back(document):
    from highdicom.sr import srread

    buffer = io.BytesIO()
    document.save_as(buffer, enforce_file_format=True)
    return srread(io.BytesIO(buffer.getvalue()))


def texts_of(document) -> list[str]:
    return [item.TextValue for item in document.ContentSequence if item.ValueType == "TEXT"]


def test_study_and_patient_are_those_of_the_image(document):
    source = pydicom.dcmread(io.BytesIO(radiograph()))
    for keyword in COPIED:
        assert document[0][keyword].value == source[keyword].value
    assert "InstitutionName" not in document[0]
    assert document[0].SeriesInstanceUID != source.SeriesInstanceUID
    [study] = document[0].CurrentRequestedProcedureEvidenceSequence
    [image] = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert image.ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_unverified_preliminary_and_for_research(document, answer):
    report, _ = document
    assert report.SOPClassUID == pydicom.uid.Comprehensive3DSRStorage
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert RESEARCH_USE in texts_of(report) and "Research use only" in report.SeriesDescription
    assert answer["generated_text"].replace("\n", "\r\n") in texts_of(report)
    assert (report.ManufacturerModelName, report.SoftwareVersions) == ALGORITHM


def test_an_image_that_the_model_does_not_know_is_said_in_both_documents(answer):
    strange = {**answer, "input": {"familiar": False, "distance": 3.0, "view": "frontal", "why": "looks upside down"}}
    report = structured_report(strange, [read_source(radiograph())], ALGORITHM)
    assert any("does not know" in text and "upside down" in text for text in texts_of(report))
    assert "upside down" in diagnostic_report(strange, ALGORITHM)["conclusion"]
    known = {**strange, "input": {**strange["input"], "familiar": True}}
    assert "does not know" not in diagnostic_report(known, ALGORITHM)["conclusion"]


def test_a_group_for_each_label_that_is_present(document, answer):
    groups = document[0].content.get_planar_roi_measurement_groups()
    assert len(groups) == 3
    expected = {"Enlarged Cardiomediastinum": "Indeterminate", "Lung Opacity": "Present", "Pleural Effusion": "Present"}
    for group, (label, state) in zip(groups, expected.items(), strict=True):
        code = label_code(label)
        assert (group.finding_type.value, group.finding_type.scheme_designator) == code[:2]
        [evaluation] = group.get_qualitative_evaluations()
        assert evaluation.name.value == code.value and evaluation.value.meaning == state
        [probability] = group.get_measurements()
        assert (probability.value, probability.unit) == (62.5, codes.UCUM.Percent)
        region = group.roi
        assert region.graphic_type.value == "POLYLINE"
        low, high = region.value.min(axis=0), region.value.max(axis=0)
        assert np.allclose(low, [5, 30], atol=2) and np.allclose(high, [20, 50], atol=2)
        assert (region.value[0] == region.value[-1]).all()
    names = {item.TextValue for group in groups for item in group[0].ContentSequence if item.ValueType == "TEXT"}
    assert set(ALGORITHM) <= names


def test_dsrdump_reads_it(document):
    if shutil.which("dsrdump") is None:
        pytest.skip("dsrdump is not installed (Debian: dcmtk)")
    run = subprocess.run(["dsrdump", "+Pl", str(document[1])], capture_output=True, text=True)
    assert run.returncode == 0 and "E:" not in run.stderr, run.stderr
    shown = ("Comprehensive 3D SR", "UNVERIFIED", "left pleural effusion", "POLYLINE", "Pleural effusion", RESEARCH_USE)
    for piece in shown:
        assert piece in run.stdout


@pytest.mark.parametrize("findings", [[], [{"label": "No Finding", "state": "positive", "score": 0.9}]])
def test_nothing_found(findings, answer):
    empty = {**answer, "findings": findings, "evidence": {"No Finding": [np.ones((60, 50), np.float32)]}}
    report = read_back(structured_report(empty, [read_source(radiograph())], ALGORITHM))
    assert report.content.get_planar_roi_measurement_groups() == []
    [group] = report.content.get_image_measurement_groups()
    assert group.finding_type.meaning == (
        "No abnormality detected" if findings else "No label is positive or uncertain"
    )
    assert len(group.get_qualitative_evaluations()) == len(findings)


def test_two_views_and_the_region_in_the_one_that_shows_it(answer):
    lateral = radiograph(SOPInstanceUID="1.2.3.4")
    heat = {label: [maps[0] * 0.4, maps[0]] for label, maps in answer["evidence"].items()}
    sources = [read_source(radiograph()), read_source(lateral)]
    report = read_back(structured_report({**answer, "evidence": heat}, sources, ALGORITHM))
    for group in report.content.get_planar_roi_measurement_groups():
        assert group.roi.ContentSequence[0].referenced_sop_instance_uid == "1.2.3.4"
    with pytest.raises(ValueError, match="of one study of one patient"):
        structured_report(answer, [sources[0], read_source(radiograph(1))], ALGORITHM)


def test_uids(answer):
    source = read_source(radiograph())
    uid = report_uid(source.SOPInstanceUID, ALGORITHM)
    assert uid == report_uid(source.SOPInstanceUID, ALGORITHM) and pydicom.uid.UID(uid).is_valid
    assert uid != report_uid("1.2.3", ALGORITHM) != report_uid("1.2.3", Algorithm("OTDRG other", "0 0123"))
    assert structured_report(answer, [source], ALGORITHM, uid).SOPInstanceUID == uid
    first, second = (structured_report(answer, [source], ALGORITHM).SOPInstanceUID for _ in range(2))
    changed = structured_report({**answer, "generated_text": "Other."}, [source], ALGORITHM).SOPInstanceUID
    assert first == second != changed


def test_codes():
    concepts = [label_code(label) for label in (*LABELS, "A label of one's own", "x" * 99)]
    assert len({code.value for code in concepts}) == len(concepts)
    for code in concepts:
        assert len(code.value) <= 16 and len(code.meaning) <= 64
        if code.scheme == "SCT":
            assert code.value.isdecimal() and _verhoeff(code.value)


def test_meanings_are_those_of_pydicom():
    """Of each SNOMED CT code that pydicom's dictionary has, without the kind of concept that it puts behind some."""
    known = {}
    for name in codes.SCT.dir():
        with contextlib.suppress(RuntimeError):  # a name of two codes
            code = getattr(codes.SCT, name)
            known[code.value] = code.meaning.partition(" (")[0]
    ours = [label_code(label) for label in LABELS] + [*SITES.values(), *STATE_CODES.values(), PROCEDURE]
    shared = [code for code in ours if code.scheme == "SCT" and code.value in known]
    assert {code.meaning for code in shared} >= {"Pulmonary edema", "Pneumothorax", "Pleural effusion", "Present"}
    for code in shared:
        assert code.meaning == known[code.value]


def _verhoeff(number: str) -> bool:
    """SNOMED CT's identifiers end in a check digit (Verhoeff's): a digit that is wrong shows."""
    turn = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]
    check = 0
    for position, digit in enumerate(map(int, reversed(number))):
        for _ in range(position % 8):
            digit = turn[digit]
        a, b = check, digit
        if a < 5:
            check = (a + b) % 5 if b < 5 else (a + b - 5) % 5 + 5
        else:
            check = (a - 5 - b) % 5 + 5 if b < 5 else (a - b) % 5
    return check == 0


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (500, 7), (900, 1100)])
def test_outlines_stay_in_the_image(shape):
    heat = np.random.default_rng(0).random(shape).astype(np.float32)
    for values in (heat, np.ones(shape, np.float32)):
        points = outline(values)
        assert (points >= 0).all() and (points <= [shape[1], shape[0]]).all() and (points[0] == points[-1]).all()
    assert outline(np.zeros(shape, np.float32)) is None
    assert outline(np.full(shape, np.nan, np.float32)) is None
