"""What the server accepts, and the answer to what it does not."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """
    Bounds of the server.

    Args:
        max_bytes (`int`): Of the body of a request.
        max_body_bytes (`int`): Of all bodies that are being received or read, together.
        max_pixels (`int`): Of an image.
        max_views (`int`): Of a study.
        max_new_tokens (`int`): Of a report; a request may ask for fewer.
        max_batch (`int`): Studies that run together.
        max_queue (`int`): Studies that wait.
        upload_seconds (`float`): Until a body has arrived.
        request_seconds (`float`): Until a report is written, from the arrival of its request.
        readers (`int`): Threads that decode images.
        allow_urls (`bool`): Whether images may be given by their address.
    """

    max_bytes: int = 64_000_000
    max_body_bytes: int = 512_000_000
    max_pixels: int = 40_000_000
    max_views: int = 8
    max_new_tokens: int = 256
    max_batch: int = 32
    max_queue: int = 256
    upload_seconds: float = 30.0
    request_seconds: float = 120.0
    readers: int = 2
    allow_urls: bool = False


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class Refusal(Exception):
    """
    A request that gets an error instead of a report.

    Args:
        status (`int`): Of HTTP.
        message (`str`): One line for the client.
        code (`str`): What programs tell errors apart by.
        retry_after (`int`, *optional*): Seconds after which the same request may succeed.
    """

    def __init__(self, status: int, message: str, code: str, retry_after: int | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.retry_after = status, message, code, retry_after

    @property
    def body(self) -> dict:
        """In OpenAI's form."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, kind)
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


UNANSWERED = Refusal(500, "The request could not be answered.", "internal_error")
