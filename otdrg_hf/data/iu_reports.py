"""Parses the XML reports of the Indiana University Chest X-ray Collection (Demner-Fushman et al., 2016)."""

import re
from dataclasses import dataclass
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from .rejections import REPORT_UNREADABLE, Rejected

_SPACE = re.compile(r"\s+")
_ID = re.compile(r"CXR\d+")
_IMAGE_ID = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class IUReport:
    """A report: its texts (white space collapsed), MeSH terms, and the stems and the caption of its images."""

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


def parse_iu_report(content: bytes) -> IUReport:
    """
    Parse one XML report. Raises [`Rejected`] for XML that does not parse, that declares a document type (the way of
    entity bombs; the collection has none), or that is no report of the collection.
    """
    try:
        root = _parse_without_doctype(content)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise Rejected(REPORT_UNREADABLE, str(error)) from None
    identifier = root.find("uId")
    name = "" if identifier is None else identifier.get("id", "")
    if not _ID.fullmatch(name):
        raise Rejected(REPORT_UNREADABLE, "no uId of the form CXR123")
    sections = {text.get("Label", ""): _text(text) for text in reversed(list(root.iter("AbstractText")))}
    images = list(root.iter("parentImage"))
    stems = tuple(image.get("id", "") for image in images)
    if not all(_IMAGE_ID.fullmatch(stem) for stem in stems):
        raise Rejected(REPORT_UNREADABLE, "an image name that is no plain file name")
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
    raise ValueError("it declares a document type, which reports have not")
