"""A report as DICOM: Comprehensive 3D SR by the template TID 1500, unverified."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from otdrg_hf.extras import require
from otdrg_hf.hospital import MANUFACTURER, RESEARCH_USE, notice_of
from otdrg_hf.hospital.codes import NOTHING_PRESENT, OWN_SCHEME, PROCEDURE, SITES, STATE_CODES, Coded, label_code
from otdrg_hf.hospital.regions import outline
from otdrg_hf.hospital.source import header_kept
from otdrg_hf.reporting.review import PRESENT

if TYPE_CHECKING:
    from highdicom.sr import Comprehensive3DSR
    from pydicom import Dataset

SERIES_NUMBER = 9901


class Algorithm(NamedTuple):
    """What wrote a report: the name of the model, and the version of software and weights."""

    name: str
    version: str


def report_uid(image_uid: str, algorithm: Algorithm) -> str:
    """The UID of the report of an image by an algorithm: always the same, and made of nothing that can be read back."""
    return _derived("report", image_uid, *algorithm)


def structured_report(
    answer: dict, sources: "Sequence[Dataset]", algorithm: Algorithm, sop_instance_uid: str | None = None
) -> "Comprehensive3DSR":
    """
    The structured report of a study.

    For each label that is positive or uncertain it has a coded evaluation, the probability of positive in percent and
    the region of its evidence in the image; then the text of the report.

    Args:
        answer (`dict`): What the pipeline answered with `evidence=True`.
        sources (`Sequence[Dataset]`): The views, in the pipeline's order, as of [`read_source`], of one study.
        algorithm ([`Algorithm`]): What wrote it.
        sop_instance_uid (`str`, *optional*): By default one that follows from image, algorithm and answer.

    Raises:
        ValueError: for images of different studies or patients, or of a kind that the report cannot refer to.
    """
    require("highdicom", extra="hospital")
    from highdicom import sr

    if len({(str(source.StudyInstanceUID), source.PatientID) for source in sources}) != 1:
        raise ValueError("A structured report is of one study of one patient; these images are of several.")
    first = sources[0]
    image_uids = [source.SOPInstanceUID for source in sources]
    with header_kept("a structured report cannot refer to this DICOM image"):
        document = sr.Comprehensive3DSR(
            evidence=list(sources),
            content=_content(answer, sources, algorithm),
            series_instance_uid=_derived("series", first.StudyInstanceUID, *algorithm),
            series_number=SERIES_NUMBER,
            sop_instance_uid=sop_instance_uid or _derived("answer", *image_uids, *algorithm, repr(_summary(answer))),
            instance_number=1,
            manufacturer=MANUFACTURER,
            is_complete=True,
            is_final=False,
            is_verified=False,
            series_description=RESEARCH_USE[:64],
            manufacturer_model_name=printable(algorithm.name)[:64],
            software_versions=printable(algorithm.version)[:64],
            device_serial_number="none",
        )
        document.SpecificCharacterSet = "ISO_IR 192"
        document.CompletionFlagDescription = RESEARCH_USE[:64]
        document.CodingSchemeIdentificationSequence = [_own_scheme()]
        return document


def printable(text: str) -> str:
    """A text in one line, without control characters and backslashes, which separate values in DICOM."""
    kept = "".join(character for character in " ".join(text.split()) if character.isprintable())
    return kept.replace("\\", "/")


def _derived(*parts: str) -> str:
    from pydicom.uid import generate_uid

    return generate_uid(entropy_srcs=[MANUFACTURER, *(f"{len(part)}:{part}" for part in parts)])


def _summary(answer: dict) -> list:
    return [answer["generated_text"], [sorted(finding.items(), key=str) for finding in answer["findings"]]]


def _content(answer: dict, sources, algorithm: Algorithm):
    from highdicom import sr
    from pydicom.sr.codedict import codes

    identification = sr.AlgorithmIdentification(
        name=printable(algorithm.name) or "OTDRG", version=printable(algorithm.version), manufacturer=MANUFACTURER
    )
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=_derived("device", *algorithm), name=printable(algorithm.name), manufacturer_name=MANUFACTURER
    )
    groups = [
        _finding(finding, answer.get("evidence", {}).get(finding["label"]), sources, identification)
        for finding in answer["findings"]
        if finding["state"] in PRESENT
    ]
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(codes.DCM.Device, device),
        ),
        procedure_reported=_concept(PROCEDURE),
        imaging_measurements=groups or [_nothing_present(sources, identification)],
        title=codes.DCM.ImagingMeasurementReport,
    )
    texts = [(codes.DCM.Finding, answer["generated_text"]), (codes.DCM.Comment, notice_of(answer))]
    for name, text in texts:
        item = sr.TextContentItem(name, _paragraph(text), sr.RelationshipTypeValues.CONTAINS)
        content[0].ContentSequence.append(item)
    return content


def _finding(finding: dict, heat, sources, identification):
    """The group of one label: with its region by TID 1410, or by TID 1501 without one."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    code = label_code(finding["label"])
    shared = {
        "tracking_identifier": sr.TrackingIdentifier(identifier=printable(finding["label"]), uid=None),
        "finding_type": _concept(code),
        "finding_sites": [sr.FindingSite(_concept(SITES[code.site]))] if code.site else None,
        "algorithm_id": identification,
        "measurements": [
            sr.Measurement(
                name=codes.DCM.CertaintyOfFinding, value=round(100 * finding["score"], 2), unit=codes.UCUM.Percent
            )
        ],
        "qualitative_evaluations": [sr.QualitativeEvaluation(_concept(code), _concept(STATE_CODES[finding["state"]]))],
    }
    region = None if finding["label"] == "No Finding" else _region(heat, sources)
    if region is None:
        return sr.MeasurementsAndQualitativeEvaluations(source_images=_images(sources), **shared)
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=region, **shared)


def _nothing_present(sources, identification):
    """The group of a study in which no label is present: the template wants one at least."""
    from highdicom import sr

    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(identifier=NOTHING_PRESENT.meaning),
        finding_type=_concept(NOTHING_PRESENT),
        algorithm_id=identification,
        source_images=_images(sources),
    )


def _images(sources):
    from highdicom import sr

    return [sr.SourceImageForMeasurementGroup(view.SOPClassUID, view.SOPInstanceUID) for view in sources]


def _region(heat, sources):
    """The outline of a label in the view that shows it best."""
    from highdicom import sr

    if not heat:
        return None
    view = max(range(len(heat)), key=lambda index: float(heat[index].max()))
    points = outline(heat[view])
    if points is None:
        return None
    source = sources[view]
    image = sr.SourceImageForRegion(source.SOPClassUID, source.SOPInstanceUID)
    return sr.ImageRegion(sr.GraphicTypeValues.POLYLINE, points, image)


def _concept(code: Coded):
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, printable(code.meaning))


def _own_scheme():
    from pydicom import Dataset

    scheme = Dataset()
    scheme.CodingSchemeDesignator = OWN_SCHEME
    scheme.CodingSchemeName = "Labels of otdrg-hf"
    scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
    return scheme


def _paragraph(text: str) -> str:
    """A text that may have line breaks, without other control characters; DICOM has no empty text."""
    lines = ("".join(character for character in line if character.isprintable()) for line in text.splitlines())
    return "\r\n".join(lines).strip() or "(no text)"
