"""Whatever a header holds, a document is well-formed and names the same patient, and nothing of it reaches a log."""

import io
import logging
import re
import warnings

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otdrg_hf.hospital.secondary_capture import secondary_capture
from otdrg_hf.hospital.source import read_source
from otdrg_hf.hospital.structured_report import structured_report

from .conftest import ALGORITHM, radiograph

pytest.importorskip("highdicom", reason="needs otdrg-hf[hospital]")

MARK = "zzSECRETzz"
NAMES = ["Müller^Jörg", "Yamada^Tarou=山田^太郎=やまだ^たろう", "Wang^XiaoDong", "O'Brien^Seán^^Dr", "^", ""]
ODD = [
    f"{MARK}\r\n(0010,0020) LO [other]",
    f"{MARK}\\second^value",
    f"{MARK}\x1b$B\x1b(B",
    f"{MARK}\u202egnorw",
    f"{MARK}<script>&quot;",
    f"{MARK}\0\0(0008,0018)",
    f"{MARK}%s%n{{x}}${{jndi:ldap://x}}",
    MARK * 50,
    "=" * 70 + MARK,
]


def documents(content: bytes, answer):
    source = read_source(content)
    return structured_report(answer, [source], ALGORITHM)


def with_raw(keyword: str, value: bytes, content: bytes | None = None) -> bytes:
    """A file whose element holds these bytes, whatever DICOM allows there."""
    content = content or radiograph()
    tag, vr = pydicom.tag.Tag(keyword), pydicom.datadict.dictionary_VR(keyword)
    head = tag.group.to_bytes(2, "little") + tag.elem.to_bytes(2, "little") + vr.encode()
    value += b" " * (len(value) % 2)
    element = head + len(value).to_bytes(2, "little") + value
    if (start := content.find(head, 132)) >= 0:
        end = start + 8 + int.from_bytes(content[start + 6 : start + 8], "little")
        return content[:start] + element + content[end:]
    start = content.find((0x28).to_bytes(2, "little") + (0x02).to_bytes(2, "little") + b"US")
    return content[:start] + element + content[start:]  # pydicom takes elements in any order


def read_back(dataset) -> pydicom.Dataset:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return pydicom.dcmread(io.BytesIO(buffer.getvalue()))


@pytest.mark.parametrize("name", NAMES)
def test_proper_names_stay(name, answer):
    back = read_back(documents(radiograph(PatientName=name), answer))
    assert str(back.PatientName) == name


def check_well_formed(back: pydicom.Dataset, expected: set):
    """No value of the copied elements holds what separates, ends or turns anything; no element was added."""
    assert set(back.keys()) == expected
    for keyword in ("PatientName", "PatientID", "StudyID", "AccessionNumber", "ReferringPhysicianName"):
        value = back[keyword].value
        assert not isinstance(value, (list, pydicom.multival.MultiValue))
        assert all(character.isprintable() and character != "\\" for character in str(value)), keyword
        assert all(len(group) <= 64 for group in str(value).split("="))
    assert len(back.PatientID) <= 64 and len(back.AccessionNumber) <= 16
    assert re.fullmatch(r"(\d{8})?", back.StudyDate) and back.PatientSex in ("", "M", "F", "O")


TEXT_ELEMENTS = ["PatientName", "PatientID", "StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription"]


@pytest.fixture(scope="module")
def elements(answer) -> set:
    """Those of a report, whatever the header holds."""
    return set(documents(radiograph(), answer).keys())


@settings(max_examples=200)
@given(keyword=st.sampled_from(TEXT_ELEMENTS), value=st.one_of(st.binary(max_size=200), st.text().map(str.encode)))
def test_any_bytes_in_a_header(keyword, value):
    plain = read_source(radiograph())
    source = read_source(with_raw(keyword, value[:60_000]))
    source.file_meta = pydicom.dataset.FileMetaDataset()
    source.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    source.SpecificCharacterSet = "ISO_IR 192"
    check_well_formed(read_back(source), {*plain.keys(), pydicom.tag.Tag("SpecificCharacterSet")})


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_nothing_is_injected_and_nothing_is_heard(value, answer, elements, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    content = radiograph()
    for keyword in (*TEXT_ELEMENTS, "PatientBirthDate", "StudyDate", "StudyTime", "PatientSex"):
        content = with_raw(keyword, value.encode(), content)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        document = documents(content, answer)
    check_well_formed(read_back(document), elements)
    assert not [warning for warning in heard if MARK in str(warning.message)]
    assert MARK not in caplog.text and MARK not in "".join(capfd.readouterr())


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID"])
@pytest.mark.parametrize("value", [f"1.2.{MARK}", "1.2\\1.3", "01.2", "1." + "2" * 80, "", "1"])
def test_what_is_not_a_uid_is_named_by_its_element(keyword, value, answer):
    with pytest.raises(ValueError) as error:
        documents(with_raw(keyword, value.encode()), answer)
    assert str(error.value) == f"the DICOM element {keyword} is missing or is not a UID."


def test_kinds_of_image_that_cannot_be_referred_to(answer):
    with pytest.raises(ValueError, match="^a structured report cannot refer to this DICOM image.$") as error:
        documents(radiograph(SOPClassUID="1.2.3.4.5"), answer)
    assert "1.2.3.4.5" not in str(error.value)


def test_what_is_not_dicom():
    with pytest.raises(ValueError, match="^not a DICOM file"):
        read_source(b"GIF89a" + bytes(200))
    with pytest.raises(ValueError, match="is missing or is not a UID"):
        read_source(bytes(128) + b"DICM")


def test_secondary_capture(answer):
    pytest.importorskip("matplotlib")
    from PIL import Image

    content = radiograph(PatientName="Müller^Jörg", PatientSex="F")
    source = read_source(content)
    image = Image.open(io.BytesIO(content)).convert("RGB")
    capture = read_back(secondary_capture(answer, image, source, ALGORITHM))
    assert capture.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    assert str(capture.PatientName) == "Müller^Jörg" and capture.StudyInstanceUID == source.StudyInstanceUID
    assert capture.pixel_array.shape[2] == 3 and capture.pixel_array.std() > 5
    assert capture.BurnedInAnnotation == "YES" and "Research use only" in capture.ImageComments
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert capture.SOPInstanceUID != source.SOPInstanceUID and "InstitutionName" not in capture
