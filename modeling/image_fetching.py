"""Downloads an image within bounds of time and size, or says in one line why not."""

import http.client
import socket
import ssl
import threading
import urllib.error
import urllib.request

TIMEOUT = 30.0
# In words of our own: those of an error can quote the address.
PROBLEMS = {
    socket.gaierror: "there is no such host",
    ConnectionRefusedError: "the host refuses the connection",
    ssl.SSLError: "no secure connection",
    TimeoutError: "the host does not answer",
    http.client.InvalidURL: "the address is not valid",
}
_CHUNK = 1 << 16


def fetch(url: str, name: str, max_bytes: int, timeout: float = TIMEOUT) -> bytes:
    """
    The content at an address, at most one byte more than `max_bytes` of it.

    Args:
        url (`str`): `http://` or `https://`; redirects are followed.
        name (`str`): What to call it in an error. Errors never quote the address, which may hold a key.
        max_bytes (`int`): Bound on the size.
        timeout (`float`, *optional*, defaults to 30): Seconds for all of it, however slowly it trickles in.

    Raises:
        ValueError: if it cannot be had.
    """
    answer: dict = {}
    # A socket's own timeout starts anew with each byte; only another thread can bound the whole.
    worker = threading.Thread(target=_download, args=(url, max_bytes, timeout, answer), daemon=True)
    worker.start()
    worker.join(timeout)
    if worker.is_alive():
        answer["stop"] = True
        raise ValueError(f"{name}: could not be fetched within {timeout:g} seconds.")
    if "content" not in answer:
        raise ValueError(f"{name}: could not be fetched ({answer['problem']}).")
    return answer["content"]


def _download(url: str, max_bytes: int, timeout: float, answer: dict) -> None:
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "otdrg-hf"})
        with urllib.request.urlopen(request, timeout=timeout) as response:
            content = bytearray()
            while len(content) <= max_bytes and "stop" not in answer:
                chunk = response.read1(min(_CHUNK, max_bytes + 1 - len(content)))
                if not chunk:
                    break
                content += chunk
            if response.length and len(content) <= max_bytes:
                answer["problem"] = "the connection broke off"
            else:
                answer["content"] = bytes(content)
    except urllib.error.HTTPError as error:
        answer["problem"] = f"HTTP {error.code}" + (", which asks for permission" if error.code in (401, 403) else "")
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        kind = type(reason if isinstance(reason, Exception) else error)
        answer["problem"] = next((text for known, text in PROBLEMS.items() if issubclass(kind, known)), kind.__name__)
