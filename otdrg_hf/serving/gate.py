"""What every request passes first: keys, origins, bounds on bytes and time, and the line in the log."""

import hashlib
import hmac
import json
import logging
import time
from pathlib import Path
from urllib.parse import urlsplit

import anyio

from otdrg_hf.serving.limits import UNANSWERED, ClientGone, Limits, Refusal
from otdrg_hf.serving.telemetry import Telemetry

logger = logging.getLogger("otdrg_hf.serving")
OPEN_PATHS = ("/health",)
METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with `no-referrer`, browsers send the form of the page as of no origin
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY,
}


def read_keys(path: Path) -> list[str]:
    """
    The keys in a file, one a line; empty lines and those that start with # are left out.

    Raises:
        ValueError: for a file that cannot be read, or holds no key or a short one.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"The file of keys cannot be read ({getattr(error, 'strerror', None) or 'not text'})."
        ) from None
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise ValueError("The file of keys is empty: put a key on each line, such as `openssl rand -hex 32` makes.")
    if any(len(key) < 16 for key in keys):
        raise ValueError("The file of keys holds one of fewer than 16 characters: make it by `openssl rand -hex 32`.")
    return keys


class Gate:
    """
    ASGI middleware, the outermost.

    Bodies are received whole before the application runs, which bounds them in bytes and time; an exception becomes a
    status and one line, and nothing of a request is logged but its method, its route, its status and its seconds.

    Args:
        app: The application.
        limits ([`Limits`]): Bounds.
        telemetry ([`Telemetry`]): Counts requests.
        routes (`frozenset[str]`): Paths that may be named in a log.
        keys (`list[str]`, *optional*): One of which a request has to bring.
        local (`bool`, *optional*, defaults to `False`): Answer only to names of this machine.
    """

    def __init__(
        self,
        app,
        limits: Limits,
        telemetry: Telemetry,
        routes: frozenset[str],
        keys: list[str] | None = None,
        local: bool = False,
    ):
        self.app, self.limits, self.telemetry, self.routes, self.local = app, limits, telemetry, routes, local
        self.digests = [hashlib.sha256(key.encode()).digest() for key in keys] if keys else None
        self.bytes_held = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        answer = _Answer(send)
        start = time.monotonic()
        body = _Body(self)
        try:
            self._check_sender(scope)
            if scope["method"] == "POST":
                receive = body.replayed(await self._receive_all(scope, receive, body), receive)
            scope["otdrg.body"] = body
            await self.app(scope, receive, answer)
        except Refusal as refusal:
            await answer.refuse(refusal)
        except ClientGone:
            pass
        except Exception as error:  # only the type: the text can quote what was sent
            logger.error("a request failed: %s", type(error).__name__)
            await answer.refuse(UNANSWERED)
        finally:
            body.release()
            self._record(scope, answer.status or 499, time.monotonic() - start)

    def _record(self, scope, status: int, seconds: float) -> None:
        route = scope["path"] if scope["path"] in self.routes else "other"
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.telemetry.request(route, method, status, seconds)
        if route not in ("/health", "/metrics"):
            logger.info("%s %s %d %.3f s", method, route, status, seconds)

    def _check_sender(self, scope) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.local and _hostname(f"//{host}") not in ("127.0.0.1", "localhost", "::1"):
            # A page elsewhere must not reach this server through a name that it points at loopback.
            raise Refusal(403, "This server answers to names of this machine only.", "forbidden")
        foreign = origin is not None and _host_of(origin) != host.lower()
        if scope["method"] not in ("GET", "HEAD") and (foreign or headers.get("sec-fetch-site") == "cross-site"):
            raise Refusal(403, "Requests from pages of other sites are refused.", "forbidden")
        if self.digests is not None and scope["path"] not in OPEN_PATHS:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            digest = hashlib.sha256(key.strip().encode("utf-8", "surrogatepass")).digest()
            known = [hmac.compare_digest(digest, each) for each in self.digests]  # all of them, in constant time
            if scheme.lower() != "bearer" or not any(known):
                raise Refusal(401, "A key is needed: Authorization: Bearer KEY.", "invalid_api_key")

    async def _receive_all(self, scope, receive, body: "_Body") -> bytes:
        announced = next((value for name, value in scope["headers"] if name.lower() == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > self.limits.max_bytes:
            raise self._too_large()
        chunks: list[bytes] = []
        try:
            with anyio.fail_after(self.limits.upload_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    body.take(len(message.get("body", b"")))
                    if body.size > self.limits.max_bytes:
                        raise self._too_large()
                    chunks.append(message.get("body", b""))
                    if not message.get("more_body"):
                        return b"".join(chunks)
        except TimeoutError:
            raise Refusal(408, "The body of the request did not arrive in time.", "upload_timeout") from None

    def _too_large(self) -> Refusal:
        return Refusal(413, f"The body is larger than {self.limits.max_bytes / 1e6:g} MB.", "too_large")


class _Body:
    """The bytes that a request holds in memory, out of those that all may hold."""

    def __init__(self, gate: Gate):
        self.gate, self.size, self.held = gate, 0, 0

    def take(self, size: int) -> None:
        if self.gate.bytes_held + size > self.gate.limits.max_body_bytes:
            raise Refusal(429, "The server is receiving too much at once: try again later.", "server_busy", 5)
        self.size += size
        self.held += size
        self.gate.bytes_held += size

    def release(self) -> None:
        """The body has been read, and is not kept."""
        self.gate.bytes_held -= self.held
        self.held = 0

    def replayed(self, content: bytes, receive):
        """`receive` for the application: the whole body, then what comes after it."""
        messages = [{"type": "http.request", "body": content, "more_body": False}]

        async def replay():
            return messages.pop() if messages else await receive()

        return replay


class _Answer:
    """`send` with the headers of all answers; knows whether an answer has begun."""

    def __init__(self, send):
        self.send, self.status = send, None

    async def __call__(self, message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            present = {name.lower() for name, _ in message.get("headers", ())}
            extra = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            extra = [(name, value) for name, value in extra if name not in present]
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        await self.send(message)

    async def refuse(self, refusal: Refusal) -> None:
        if self.status is not None:  # too late for a status: the answer has begun
            return
        content = json.dumps(refusal.body).encode()
        headers = {"content-type": "application/json", "content-length": str(len(content)), **refusal.headers}
        if refusal.status in (408, 413, 429):  # the rest of the body is not read
            headers["connection"] = "close"
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self({"type": "http.response.start", "status": refusal.status, "headers": encoded})
        await self({"type": "http.response.body", "body": content})


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _host_of(origin: str) -> str | None:
    """Host and port of an origin."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None
