"""A PACS by DICOMweb: radiographs found by QIDO-RS and fetched by WADO-RS, reports stored by STOW-RS."""

import io
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

from otdrg_hf.extras import require
from otdrg_hf.hospital.source import header_kept, read_source, silenced

if TYPE_CHECKING:
    from dicomweb_client import DICOMwebClient
    from pydicom import Dataset

MODALITIES = ("CR", "DX", "DR", "RG")
PAGE = 500
TIMEOUT = 60.0


class PacsUnavailable(Exception):
    """The server did not answer, or not as it should: the same request may succeed later."""

    def __init__(self, reason: str, answered: bool = False):
        super().__init__(reason)
        self.answered = answered


class PacsRefused(ValueError):
    """The server does not have an image, or does not take a report; it would not the next time either."""


def connect(url: str) -> "DICOMwebClient":
    """
    A client of a DICOMweb server, without retries of its own.

    Raises:
        ValueError: for what is not an HTTP URL.
    """
    require("dicomweb_client", extra="hospital")
    from dicomweb_client import DICOMwebClient
    from requests import Session

    class TimedSession(Session):
        def request(self, *args, **kwargs):
            return super().request(*args, **{"timeout": TIMEOUT, **kwargs})

    if not url.startswith(("http://", "https://")):
        raise ValueError("--dicomweb takes an http:// or https:// URL.")
    client = DICOMwebClient(url.rstrip("/"), session=TimedSession())
    client.set_http_retry_params(retry=False)
    return client


class DicomwebInbox:
    """
    The radiographs of a PACS, each given once.

    Args:
        client ([`DICOMwebClient`]): As of [`connect`].
        since (`str`, *optional*): `YYYYMMDD`: leave earlier studies out.
    """

    def __init__(self, client: "DICOMwebClient", since: str | None = None):
        self._client, self._seen = client, set()
        self._filters = {} if since is None else {"StudyDate": f"{since}-"}

    def images(self) -> Iterator["PacsImage"]:
        """Those that are new since the last round; [`PacsUnavailable`] ends a round early."""
        for modality in MODALITIES:
            for uids in self._instances(modality):
                if uids not in self._seen:
                    yield PacsImage(self._client, *uids)
                    self._seen.add(uids)

    def _instances(self, modality: str) -> Iterator[tuple[str, str, str]]:
        """UIDs of study, series and instance; each once, also where a server does not know pages."""
        found: dict[tuple[str, str, str], None] = {}
        before = -1
        while before < len(found):
            before = len(found)
            page = [_uids(row) for row in self._page(modality, before)]
            new = [uids for uids in dict.fromkeys(page) if uids not in found]
            found |= dict.fromkeys(new)
            yield from (uids for uids in new if all(uids))
            if len(page) < PAGE:
                return

    def _page(self, modality: str, offset: int) -> list[dict]:
        filters = {"Modality": modality, **self._filters}
        return _ask(lambda: self._client.search_for_instances(search_filters=filters, limit=PAGE, offset=offset))


class PacsImage:
    """An image in a PACS."""

    def __init__(self, client: "DICOMwebClient", study: str, series: str, instance: str):
        self._client, self._uids = client, (study, series, instance)

    def read(self) -> tuple["Dataset", bytes]:
        """Its header as of [`read_source`], and its content as a file."""
        data = _ask(
            lambda: self._client.retrieve_instance(*self._uids, media_types=(("application/dicom", "*"),)),
            refused=(400, 404, 406, 410),
            refusal="the PACS does not give the image",
        )
        buffer = io.BytesIO()
        with header_kept("the DICOM data is damaged or cut short"):
            data.save_as(buffer, enforce_file_format=True)
        return read_source(buffer.getvalue()), buffer.getvalue()


class DicomwebOutbox:
    """The PACS that reports are stored in."""

    def __init__(self, client: "DICOMwebClient"):
        self._client = client

    def has(self, report: str, source: "Dataset") -> bool:
        """Whether a report is there."""
        filters = {"SOPInstanceUID": report}
        return bool(_ask(lambda: self._client.search_for_instances(source.StudyInstanceUID, search_filters=filters)))

    def store(self, document: "Dataset") -> None:
        """Stores a report; raises [`PacsUnavailable`] or [`PacsRefused`] where the server did not."""
        refusal = "the PACS does not take the report"
        response = _ask(lambda: self._client.store_instances([document]), (400, 409, 413, 415, 422), refusal)
        if response.get("FailedSOPSequence"):
            raise PacsRefused(f"{refusal}.")


def _ask(request: Callable[[], Any], refused: Collection[int] = (), refusal: str = "") -> Any:
    """
    The result of a request.

    The client's errors quote URLs, and thereby UIDs: they become [`PacsUnavailable`], or [`PacsRefused`] for a status
    of `refused`.
    """
    from requests import RequestException

    with silenced():
        try:
            return request()
        except RequestException as error:
            status = None if error.response is None else error.response.status_code
        except Exception:  # of an answer that is not DICOM JSON or multipart
            raise PacsUnavailable("it answers what is not DICOMweb", answered=True) from None
    if status in refused:
        raise PacsRefused(f"{refusal} (HTTP {status}).")
    raise PacsUnavailable("it cannot be reached" if status is None else f"HTTP {status}", status is not None)


def _uids(row: dict) -> tuple[str, str, str]:
    study, series, instance = (
        str(next(iter(row.get(tag, {}).get("Value", ())), "")) for tag in ("0020000D", "0020000E", "00080018")
    )
    return study, series, instance
