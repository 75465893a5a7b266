"""What can be wrong with study data: input that a user has to correct, and studies that are left out."""

from collections.abc import Callable
from typing import Any

Reject = Callable[..., None]

# The reasons for which a study, image or archive member is left out, in the words of rejected.jsonl.
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


class DataError(ValueError):
    """Study data cannot be used as it is; the message says what is wrong with which input, and what to do."""


class Rejected(Exception):
    """A study is left out, for one of the reasons above."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


def ignore(reason: str, detail: str = "", **what: Any) -> None:
    """A [`Reject`] that records nothing, for what has been listed before."""


def rejection(reason: str, detail: str = "", **what: Any) -> dict[str, Any]:
    """A line of rejected.jsonl: what is left out (`id`, `split`, `image`, `member`, ...), the reason, any detail."""
    entry = {name: value for name, value in what.items() if value}
    entry["reason"] = reason
    if detail:
        entry["detail"] = detail
    return entry


def require_datasets():
    """Imports and returns the `datasets` library, or says in one line how to install it."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError("Study data needs the datasets library: pip install 'otdrg-hf[train]'") from error
    return datasets
