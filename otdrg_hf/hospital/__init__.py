"""What a hospital's systems take: structured reports, secondary captures, FHIR; and a watch on a folder or PACS."""

RESEARCH_USE = "Research use only. Not a medical device, not for clinical use."
MANUFACTURER = "otdrg-hf"
