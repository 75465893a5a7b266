"""What is known of each source of studies: its name in a card, its licence, and whether it is credentialed."""

from dataclasses import dataclass

PHYSIONET_LICENSE = "https://physionet.org/content/mimic-cxr/view-license/2.1.0/"


@dataclass(frozen=True)
class Source:
    """
    A source of studies, as cards describe it.

    Attributes:
        title (`str`): Readable name.
        description (`str`): What the studies are, in a sentence or two.
        license (`str`, *optional*): The Hub's identifier of the licence; `None` where it is not known.
        license_name, license_link (`str`, *optional*): Of a licence that the Hub calls `"other"`.
        url (`str`, *optional*): Where the data comes from.
        citation (`str`, *optional*): Whom to cite for it.
        synthetic (`bool`): Whether it shows no patient.
        credentialed (`bool`): Whether it may only be shared with people who have signed for it.
        known (`bool`): Whether the package knows the terms; a folder of the user's own may hold anything.
    """

    title: str
    description: str
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    url: str | None = None
    citation: str | None = None
    synthetic: bool = False
    credentialed: bool = False
    known: bool = True


SOURCES = {
    "phantom": Source(
        title="synthetic chest phantoms",
        description=(
            "Synthetic: chest radiographs drawn by a program from numbered seeds, with reports put together by a "
            "grammar. They show no patient and were read by no radiologist."
        ),
        license="apache-2.0",
        synthetic=True,
    ),
    "phantom_hard": Source(
        title="hard synthetic chest phantoms",
        description=(
            "Synthetic, as the plain phantoms are, with faint signs, shapes that look like signs, and rare labels. "
            "They show no patient and were read by no radiologist."
        ),
        license="apache-2.0",
        synthetic=True,
    ),
    "iu_xray": Source(
        title="IU X-Ray",
        description=(
            "Chest radiographs and reports of the Indiana University Chest X-ray Collection, published by the National "
            "Library of Medicine's Open-i service; de-identified by its publishers."
        ),
        license="cc-by-nc-nd-4.0",
        url="https://openi.nlm.nih.gov/faq#collection",
        citation=(
            "Demner-Fushman et al., Preparing a collection of radiology examinations for distribution and retrieval, "
            "Journal of the American Medical Informatics Association 23(2), 2016."
        ),
    ),
    "mimic_cxr": Source(
        title="MIMIC-CXR",
        description=(
            "Chest radiographs and reports of the Beth Israel Deaconess Medical Center, de-identified and published on "
            "PhysioNet for credentialed users who have signed its data use agreement."
        ),
        license="other",
        license_name="physionet-credentialed-health-data-license-1.5.0",
        license_link=PHYSIONET_LICENSE,
        url="https://physionet.org/content/mimic-cxr/",
        citation=(
            "Johnson et al., MIMIC-CXR, a de-identified publicly available database of chest radiographs with "
            "free-text reports, Scientific Data 6:317, 2019."
        ),
        credentialed=True,
    ),
    "folder": Source(
        title="a collection of the publisher's own",
        description="Studies from a folder of the publisher's own; the package does not know where they come from.",
        known=False,
    ),
    "unknown": Source(
        title="data that was not recorded",
        description="Nothing was recorded about the data of this stage.",
        known=False,
    ),
}
