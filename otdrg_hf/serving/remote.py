"""Fetching an image from a public address, and never from this machine or its network."""

import http.client
import ipaddress
import socket
import urllib.request

from otdrg_hf.modeling.image_loading import NotFetched, fetch

MAX_REDIRECTS = 3
TIMEOUT = 20.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def fetch_public(url: str, max_bytes: int, timeout: float = TIMEOUT) -> bytes:
    """
    The content at an http or https address, redirects included.

    The name is resolved once, each of its addresses must be public, and the connection goes to one of these: a name
    that changes its address in between gains nothing. Proxies of the environment are not used.

    Args:
        url (`str`): The address.
        max_bytes (`int`): At most so many are read.
        timeout (`float`, *optional*): Seconds for all of it.

    Raises:
        ValueError: in one line that does not quote the address, which may hold a key.
    """
    content = fetch(url, max_bytes, timeout, _opener().open)
    if len(content) > max_bytes:
        raise ValueError(f"more than {max_bytes / 1e6:g} MB.")
    return content


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet, whatever form it hides in."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public(str(embedded))
    return ip.is_global and not ip.is_multicast


def _connect(address: tuple[str, int], timeout=None, source_address=None) -> socket.socket:
    host, port = address
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if not found or not all(is_public(where[0]) for *_, where in found):
        raise NotFetched("addresses of this machine or its network are not fetched")
    problem: OSError = NotFetched("it has no address")
    for family, kind, protocol, _, where in found:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(timeout)
            connection.connect(where)
            return connection
        except OSError as error:
            connection.close()
            problem = error
    raise problem


class _PublicConnection(http.client.HTTPConnection):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._create_connection = _connect


class _PublicSecureConnection(http.client.HTTPSConnection):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._create_connection = _connect


class _PublicHTTP(urllib.request.HTTPHandler):
    def http_open(self, request):
        return self.do_open(_PublicConnection, request)


class _PublicHTTPS(urllib.request.HTTPSHandler):
    def https_open(self, request):
        return self.do_open(_PublicSecureConnection, request)


class _FewRedirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS


def _opener() -> urllib.request.OpenerDirector:
    """Without the handlers of files, FTP and proxies that urllib has by default."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        _PublicHTTP(),
        _PublicHTTPS(),
        _FewRedirects(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener
