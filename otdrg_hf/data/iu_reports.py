"""The reports of IU X-Ray, as Open-i's XML files or as Kaggle's table."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from otdrg_hf.data.errors import REPORT_UNREADABLE, DataError, Reject, Rejected
from otdrg_hf.data.source_files import iter_files, read_table

MAX_REPORT_BYTES = 4 << 20

_TABLE_COLUMNS = ("uid", "findings", "impression")
_OPTIONAL_COLUMNS = ("indication", "comparison", "MeSH", "image")
_SPACE = re.compile(r"\s+")
_STUDY = re.compile(r"CXR\d+")
_IMAGE = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class IUReport:
    """
    A report: its texts (white space collapsed), MeSH terms, and the stems and the caption of its images, which Kaggle's
    table does not name.
    """

    id: str
    indication: str
    comparison: str
    findings: str
    impression: str
    mesh: tuple[str, ...]
    images: tuple[str, ...]
    caption: str

    @property
    def views(self) -> list[str]:
        """
        One view per image. The XML describes the study and not its images, so only a single image whose caption names
        one of the two views is known; all others are "unknown".
        """
        caption = self.caption.lower()
        lateral = re.search(r"\blat(eral)?\b", caption) is not None
        frontal = re.search(r"\b(pa|ap|frontal|portable)\b", caption) is not None
        if len(self.images) != 1 or lateral == frontal:
            return ["unknown"] * len(self.images)
        return ["lateral" if lateral else "frontal"]


def iter_iu_reports(reports: str, reject: Reject | None = None) -> Iterator[IUReport]:
    """
    Yields the reports of NLMCXR_reports.tgz, its folder, or Kaggle's indiana_reports.csv. What cannot be read is passed
    to `reject(reason, detail, member=name)`; without `reject` it raises [`DataError`].
    """

    def refuse(reason: str, detail: str, member: str) -> None:
        if reject is None:
            raise DataError(f"{os.path.basename(reports)}, {member}: {reason} ({detail})")
        reject(reason, detail, member=member)

    if reports.lower().endswith(".csv"):
        rows = read_table(reports, _TABLE_COLUMNS, _OPTIONAL_COLUMNS)
        parse, entries = _parse_row, ((f"row {number}", row) for number, row in enumerate(rows, 1))
    else:
        parse, entries = parse_iu_report, iter_files(reports, ".xml", MAX_REPORT_BYTES, refuse)
    for name, content in entries:
        try:
            yield parse(content)
        except Rejected as error:
            refuse(error.reason, error.detail, name)


def _parse_row(row: dict[str, str]) -> IUReport:
    number = study_number(row["uid"])
    if not number.isdigit():
        raise Rejected(REPORT_UNREADABLE, f"uid {row['uid']!r} is not a number")
    texts = {name: _SPACE.sub(" ", row[name]) for name in ("indication", "comparison", "findings", "impression")}
    mesh = tuple(term.strip() for term in row["MeSH"].split(";") if term.strip())
    return IUReport(id=f"CXR{number}", **texts, mesh=mesh, images=(), caption=row["image"])


def parse_iu_report(content: bytes) -> IUReport:
    """
    Parses one XML report.

    Raises:
        [`Rejected`]: for XML that does not parse, that declares a document type (as entity bombs do; the collection has
            none), or that is not a report of the collection.
    """
    try:
        root = _parse_without_doctype(content)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise Rejected(REPORT_UNREADABLE, str(error)) from None
    identifier = root.find("uId")
    name = "" if identifier is None else identifier.get("id", "")
    if not _STUDY.fullmatch(name):
        raise Rejected(REPORT_UNREADABLE, "no uId of the form CXR123")
    sections = {text.get("Label", ""): _text(text) for text in reversed(list(root.iter("AbstractText")))}
    images = list(root.iter("parentImage"))
    stems = tuple(image.get("id", "") for image in images)
    if not all(_IMAGE.fullmatch(stem) for stem in stems):
        raise Rejected(REPORT_UNREADABLE, "an image name that is not a plain file name")
    return IUReport(
        id=name,
        indication=sections.get("INDICATION", ""),
        comparison=sections.get("COMPARISON", ""),
        findings=sections.get("FINDINGS", ""),
        impression=sections.get("IMPRESSION", ""),
        mesh=tuple(_text(term) for term in root.findall("MeSH/major") if _text(term)),
        images=stems,
        caption=" ".join(dict.fromkeys(_text(image.find("caption")) for image in images)).strip(),
    )


def _text(element: Element | None) -> str:
    return "" if element is None else _SPACE.sub(" ", "".join(element.itertext())).strip()


def _parse_without_doctype(content: bytes) -> Element:
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.Parse(content, True)
    return builder.close()


def _refuse_doctype(*declaration) -> None:
    raise ValueError("it declares a document type, which no report has")


def study_number(uid: str) -> str:
    """The number of a study: "12" for "12", "CXR12" and "12.0", which pandas makes of a column with gaps."""
    return re.sub(r"\.0$", "", uid.strip().removeprefix("CXR"))
