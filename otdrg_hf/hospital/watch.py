"""Reports each new radiograph once, however often the process is killed."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

from otdrg_hf.hospital import MANUFACTURER
from otdrg_hf.hospital.dicomweb import PacsUnavailable
from otdrg_hf.hospital.structured_report import Algorithm, report_uid, structured_report
from otdrg_hf.modeling.image_loading import load_radiograph
from otdrg_hf.reporting.loop import report_studies
from otdrg_hf.reporting.results_file import ResultsFile

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
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
        batch_size (`int`, *optional*, defaults to 8): Images that run together. Each report is stored, then noted, on
            its own.
        max_new_tokens (`int`, *optional*, defaults to 256): Bound on a report's length.
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
        batch_size: int = 8,
        max_new_tokens: int = 256,
        say: Callable[[str], None] = print,
        wait: Callable[[int], None] = lambda failures: time.sleep(min(60, 2**failures)),
    ):
        self._report, self._algorithm, self._inbox, self._outbox = report, algorithm, inbox, outbox
        self._ledger, self._done = ledger, set(ledger.finished)
        self._batch_size, self._options = batch_size, {"max_new_tokens": max_new_tokens}
        self._say, self._wait = say, wait
        self._reported = self._refused = 0

    def round(self) -> tuple[int, int]:
        """Reports what is new; gives how many images were reported, and how many could not be."""
        self._reported = self._refused = 0
        unreported = self._unreported()
        while batch := list(itertools.islice(unreported, self._batch_size)):
            once: dict[str, _Unreported] = {}
            for image in batch:
                once.setdefault(image.uid, image)
            self._report_batch(list(once.values()))
            for copy in batch:  # which may be readable where the first was not
                if copy.uid not in self._done and copy is not once[copy.uid]:
                    self._report_batch([copy])
        return self._reported, self._refused

    def _unreported(self) -> Iterator["_Unreported"]:
        """The images of the inbox that have no report yet."""
        images = self._inbox.images()
        while (image := self._patiently(lambda: next(images, None))) is not None:
            try:
                unreported = self._read(image)
            except ValueError as error:
                self._refuse(error)
            else:
                if unreported is not None:
                    yield unreported

    def _read(self, image: Image) -> "_Unreported | None":
        """An image, unless it has its report, or is a heat map of `otdrg report --sc`."""
        source, content = self._patiently(image.read)
        uid = report_uid(source.SOPInstanceUID, self._algorithm)
        if uid in self._done or source.Manufacturer == MANUFACTURER:
            return None
        if self._patiently(lambda: self._outbox.has(uid, source)):
            self._note(uid, "was there already")
            return None
        return _Unreported(uid, source, content)

    def _report_batch(self, batch: "list[_Unreported]") -> None:
        """Reports images together, or one by one where the model refuses one of them."""
        left = list(batch)
        pictures = (_picture(each.content) for each in batch)
        options = {"batch_size": len(batch), "evidence": True, "description": None, **self._options}
        try:
            for answer in report_studies(self._report, pictures, **options):
                self._keep(left.pop(0), answer)
        except ValueError as error:
            if len(batch) == 1:
                self._refuse(error)
                return
            for each in left:
                self._report_batch([each])

    def _keep(self, image: "_Unreported", answer: dict) -> None:
        """Stores the report of an image, then notes it."""
        try:
            if "error" in answer:
                raise ValueError(answer["error"])
            document = structured_report(answer, [image.source], self._algorithm, image.uid)
            # Where a store ended without an answer, the report may be there all the same.
            self._patiently(lambda: self._outbox.has(image.uid, image.source) or self._outbox.store(document))
        except ValueError as error:  # also of a report that the PACS refuses
            self._refuse(error)
        else:
            self._note(image.uid, "stored")
            self._reported += 1

    def _note(self, uid: str, how: str) -> None:
        self._ledger.append({"report": uid})
        self._done.add(uid)
        self._say(f"report {uid} {how}")

    def _refuse(self, error: ValueError) -> None:
        self._refused += 1
        self._say(f"An image was not reported: {error}")

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


class _Unreported(NamedTuple):
    """An image: the UID of its report, its identity and its file."""

    uid: str
    source: "Dataset"
    content: bytes


def _picture(content: bytes) -> "Picture | ValueError":
    try:
        return load_radiograph(content, "image")
    except ValueError as error:
        return error
