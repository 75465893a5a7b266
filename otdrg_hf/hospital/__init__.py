"""What a hospital's systems take: structured reports, secondary captures, FHIR; and a watch on a folder or PACS."""

RESEARCH_USE = "Research use only. Not a medical device, not for clinical use."
MANUFACTURER = "otdrg-hf"


def notice_of(answer: dict) -> str:
    """What a document says of its use and, where the model does not know the image, of the report."""
    inspected = answer.get("input")
    if inspected is None or inspected["familiar"]:
        return RESEARCH_USE
    return f"{RESEARCH_USE} The model does not know such an image ({inspected['why']}): do not rely on this report."
