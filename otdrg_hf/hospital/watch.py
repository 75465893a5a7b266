"""Reports each new radiograph once, however often the process is killed."""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from otdrg_hf.hospital import MANUFACTURER
from otdrg_hf.hospital.dicomweb import PacsUnavailable
from otdrg_hf.hospital.structured_report import Algorithm, report_uid, structured_report
from otdrg_hf.modeling.image_loading import load_radiograph
from otdrg_hf.reporting.loop import report_studies
from otdrg_hf.reporting.results_file import ResultsFile

if TYPE_CHECKING:
    from pydicom import Dataset
    from transformers import Pipeline


_PATIENCE = 8


class Image(Protocol):
    """An image that may be a radiograph."""

    def read(self) -> "tuple[Dataset, bytes]": ...


class Inbox(Protocol):
    """Where images come from."""

    def images(self) -> Iterator[Image]: ...


class Outbox(Protocol):
    """Where reports go."""

    def has(self, report: str, source: "Dataset") -> bool: ...

    def store(self, document: "Dataset") -> None: ...


class Watch:
    """
    Takes images from an inbox, and stores a structured report of each in an outbox.

    The UID of a report follows from image and model. It is noted in the ledger after the report is stored; where a
    process was killed between the two, the outbox is asked for that UID before anything is written again. So there is
    one report of each image, at whatever point a process ended.

    Args:
        report ([`Pipeline`]): As of [`load_reporter`].
        algorithm ([`Algorithm`]): Its name and version.
        inbox ([`Inbox`]), outbox ([`Outbox`]): A folder or PACS.
        ledger ([`ResultsFile`]): Of the UIDs of reports, under the key `report`.
        say (`Callable`): Gets a line for each image, which says nothing of its header.
        wait (`Callable`): Called before a request is made again, with the number of failures in a row.
    """

    def __init__(
        self,
        report: "Pipeline",
        algorithm: Algorithm,
        inbox: Inbox,
        outbox: Outbox,
        ledger: ResultsFile,
        *,
        max_new_tokens: int = 256,
        say: Callable[[str], None] = print,
        wait: Callable[[int], None] = lambda failures: time.sleep(min(60, 2**failures)),
    ):
        self._report, self._algorithm, self._inbox, self._outbox = report, algorithm, inbox, outbox
        self._ledger, self._done = ledger, set(ledger.finished)
        self._options, self._say, self._wait = {"max_new_tokens": max_new_tokens}, say, wait

    def round(self) -> tuple[int, int]:
        """Reports what is new; gives how many images were reported, and how many could not be."""
        reported = refused = 0
        images = self._inbox.images()
        while (image := self._patiently(lambda: next(images, None))) is not None:
            try:
                reported += self._take(image)
            except ValueError as error:  # also of a report that the PACS refuses
                refused += 1
                self._say(f"An image was not reported: {error}")
        return reported, refused

    def _take(self, image: Image) -> int:
        """Reports an image, unless it was; gives the number of reports that it made."""
        source, content = self._patiently(image.read)
        uid = report_uid(source.SOPInstanceUID, self._algorithm)
        if uid in self._done or source.Manufacturer == MANUFACTURER:  # done, or a heat map of `otdrg report --sc`
            return 0
        stored = self._patiently(lambda: self._outbox.has(uid, source))
        if not stored:
            document = self._document(uid, source, content)
            # Where a store ended without an answer, the report may be there all the same.
            self._patiently(lambda: self._outbox.has(uid, source) or self._outbox.store(document))
        self._ledger.append({"report": uid})
        self._done.add(uid)
        self._say(f"report {uid} was there already" if stored else f"report {uid} stored")
        return int(not stored)

    def _document(self, uid: str, source: "Dataset", content: bytes) -> "Dataset":
        picture = load_radiograph(content, "image")
        [answer] = report_studies(self._report, [picture], evidence=True, description=None, **self._options)
        if "error" in answer:
            raise ValueError(answer["error"])
        return structured_report(answer, [source], self._algorithm, uid)

    def _patiently(self, request: Callable):
        """The result of a request, made again until the PACS can be reached and, some times, until it answers well."""
        failures = 0
        while True:
            try:
                return request()
            except PacsUnavailable as error:
                failures += 1
                if error.answered and failures > _PATIENCE:  # it is there, but something is wrong with this image
                    raise ValueError(f"the PACS does not answer as it should: {error}.") from None
                self._say(f"Waiting for the PACS: {error}.")
                self._wait(failures)
