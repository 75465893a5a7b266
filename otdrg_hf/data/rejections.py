"""Why a study, an image or an archive member is left out of a prepared dataset, in the words of rejected.jsonl."""

from collections.abc import Callable
from typing import Any

Reject = Callable[..., None]

EMPTY_REPORT = "empty report"
NOT_ENGLISH = "report not in English"
REPORT_MISSING = "report missing"
REPORT_UNREADABLE = "report unreadable"
NO_IMAGE_NAMED = "no image named"
NO_USABLE_IMAGE = "no usable image"
IMAGE_MISSING = "image missing"
IMAGE_UNREADABLE = "image unreadable"
IMAGE_WITHOUT_REPORT = "image that no report names"
UNSAFE_MEMBER = "unsafe archive member"
DUPLICATE = "duplicate"
NOT_IN_SPLIT = "in no split"
UNKNOWN_SPLIT = "unknown split"
UNKNOWN_COLUMN = "column outside the schema"
MALFORMED_ROW = "malformed row"


class Rejected(Exception):
    """Raised by a source for a study that it leaves out, with one of the reasons above."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


def ignore(reason: str, detail: str = "", **what: Any) -> None:
    """Takes a rejection without a word, for what has been listed before."""


def rejection(reason: str, detail: str = "", **what: Any) -> dict[str, Any]:
    """A line of rejected.jsonl: what is left out (`id`, `split`, `image`, `member`, ...), the reason, any detail."""
    entry = {name: value for name, value in what.items() if value}
    entry["reason"] = reason
    if detail:
        entry["detail"] = detail
    return entry
