"""What a hospital's systems take: DICOM structured reports, heat maps as secondary captures, FHIR, a watch on a PACS."""

RESEARCH_USE = "Research use only. Not a medical device, not for clinical use."
MANUFACTURER = "otdrg-hf"
