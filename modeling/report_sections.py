"""The findings and the impression of a report that was written with both."""

import re

_HEADER = re.compile(r"(?<!\w)(findings?|impressions?)[ \t]*:", re.IGNORECASE)


def report_sections(report: str) -> dict[str, str] | None:
    """
    The two sections of a report by name.

    Args:
        report (`str`): A report, such as `"Findings: Clear lungs. Impression: Normal."`.

    Returns:
        `{"findings": str, "impression": str}`, or `None` unless it has each header once, in this order, before anything
        else, with text below it.
    """
    headers = list(_HEADER.finditer(report))
    if [header[1].lower().rstrip("s") for header in headers] != ["finding", "impression"]:
        return None
    first, second = headers
    findings, impression = report[first.end() : second.start()].strip(), report[second.end() :].strip()
    if report[: first.start()].strip() or not findings or not impression:
        return None
    return {"findings": findings, "impression": impression}
