"""`otdrg report --sr --sc --fhir`: what is printed stays as it is, and the documents are written all or none."""

import json

import pydicom
import pytest

from otdrg_hf.hospital import RESEARCH_USE
from otdrg_hf.hospital.fhir import diagnostic_report

from .conftest import ALGORITHM, OUTSIDE, radiograph

pytest.importorskip("highdicom", reason="needs otdrg-hf[hospital]")


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "in.dcm"
    path.write_bytes(radiograph())
    return path


def test_three_documents(otdrg, folder, image, tmp_path):
    pytest.importorskip("matplotlib")
    documents = ("--sr", "sr.dcm", "--sc", "sc.dcm", "--fhir", "fhir.json")
    arguments = ("report", image, "--model", folder, "--max_new_tokens", 6, "--json")
    code, printed, complained = otdrg(*arguments, *documents)
    assert code == 0, complained
    assert json.loads(printed) == json.loads(otdrg(*arguments)[1])
    report, capture = (pydicom.dcmread(tmp_path / name) for name in ("sr.dcm", "sc.dcm"))
    assert report.StudyInstanceUID == capture.StudyInstanceUID == pydicom.dcmread(image).StudyInstanceUID
    assert report.ManufacturerModelName == f"OTDRG {folder.name}"
    resource = (tmp_path / "fhir.json").read_text()
    assert len(json.loads(resource)["result"]) == 14
    for secret in OUTSIDE:
        assert secret not in printed + complained + resource


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["in.dcm", "in.dcm", "--sr", "a"], "error: --sr, --sc and --fhir take one image, not 2."),
        (["in.dcm", "--sr", "in.dcm"], "error: in.dcm is given twice, or is the image itself; choose another file."),
        (["in.dcm", "--sr", "a", "--sc", "a"], "error: a is given twice, or is the image itself; choose another file."),
        (["in.dcm", "--sr", "no/a"], "error: The folder for a does not exist; make it first."),
        (["in.dcm", "--sr", "a", "-o", "b"], "error: --sr, --sc and --fhir are of one image, without -o."),
        (["in.dcm", "--sr", "a", "--stream"], "error: --stream writes no --sr, --sc or --fhir."),
        (["x.png", "--sr", "a"], "error: image 'x.png': not a DICOM file, and a DICOM document needs a DICOM source."),
        (["none.dcm", "--sr", "a"], "error: image 'none.dcm': cannot be read (No such file or directory)."),
    ],
    ids=str,
)
def test_one_clear_line(otdrg, image, tmp_path, arguments, line):
    (tmp_path / "x.png").write_bytes(b"\x89PNG" + bytes(200))
    before = image.read_bytes()
    code, _, complained = otdrg("report", *arguments)
    assert code == 2 and complained.splitlines() == [line]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.dcm", "x.png"] and image.read_bytes() == before


def test_an_image_that_cannot_be_read_leaves_nothing(otdrg, folder, image, tmp_path):
    image.write_bytes(radiograph(Modality="CT"))
    code, _, complained = otdrg("report", image, "--model", folder, "--sr", "sr.dcm", "--fhir", "fhir.json")
    assert code == 1 and "a CT slice, not a radiograph" in complained
    assert [path.name for path in tmp_path.iterdir()] == ["in.dcm"]


def test_fhir(answer):
    pytest.importorskip("fhir.resources")
    from fhir.resources.R4B.diagnosticreport import DiagnosticReport

    resource = json.loads(json.dumps(diagnostic_report(answer, ALGORITHM)))
    report = DiagnosticReport.model_validate(resource)
    assert report.status == "preliminary" and report.subject is None
    device, *observations = report.contained
    assert device.get_resource_type() == "Device" and device.version[0].value == ALGORITHM.version
    assert [f"#{observation.id}" for observation in observations] == [link.reference for link in report.result]
    states = {finding["label"]: finding for finding in answer["findings"]}
    for observation in observations:
        finding = states.pop(observation.code.text)
        assert observation.status == "preliminary"
        assert float(observation.component[0].valueQuantity.value) == finding["score"]
        value = observation.valueCodeableConcept or observation.dataAbsentReason
        assert value.text == finding["state"] and observation.note[0].text == RESEARCH_USE
        assert (observation.valueCodeableConcept is None) == (finding["state"] == "blank")
    assert not states
    assert "A left pleural effusion." in report.conclusion and RESEARCH_USE in report.conclusion
    assert RESEARCH_USE in resource["text"]["div"]


@pytest.mark.parametrize("text", ["", 'a < b & c > "d" </div><script>', "\x00\x1b[31m\u202e", "line\nline"])
def test_fhir_of_odd_texts(text, answer):
    from xml.etree import ElementTree

    resource = diagnostic_report({**answer, "generated_text": text}, ALGORITHM)
    narrative = ElementTree.fromstring(resource["text"]["div"])
    assert [child.tag.rpartition("}")[2] for child in narrative] == ["p", "p"]
