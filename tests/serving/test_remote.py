"""Images by their address: only where it is allowed, and never from this machine or its network."""

import http.server
import threading
import time

import pytest

from otdrg_hf.serving import remote
from tests.serving.conftest import data_url

REPORTS = "/v1/reports"
PRIVATE = [
    *("127.0.0.1", "10.0.0.7", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
    *(
        "::1",
        "fe80::1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "::",
        "ff02::1",
        "fe80::1%1",
    ),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_of_a_network_are_not_public(address):
    assert not remote.is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_addresses_of_the_internet_are(address):
    assert remote.is_public(address)


@pytest.fixture
def site(pictures):
    """A web site on loopback: an image, a redirect, an endless answer, and what is missing."""

    class Site(http.server.BaseHTTPRequestHandler):
        asked = []

        def do_GET(self):
            self.asked.append(self.path)
            if self.path.startswith("/away"):
                self.send_response(302)
                self.send_header("Location", self.path.partition("?")[2])
                self.end_headers()
            elif self.path == "/film.png":
                self.send_response(200)
                self.send_header("Content-Length", str(len(pictures[0])))
                self.end_headers()
                self.wfile.write(pictures[0])
            elif self.path == "/slow":
                self.send_response(200)
                for _ in range(100):
                    self.send_header("X-Slow", "1")
                    self.flush_headers()
                    time.sleep(0.05)
                self.end_headers()
            elif self.path == "/large":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(bytes(10_000))
            else:
                self.send_error(404)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", Site.asked
    server.shutdown()


def test_addresses_are_refused_by_default(client, site):
    address, asked = site
    for url in (f"{address}/film.png", "HTTPS://example.org/a.png"):
        answer = client.post(REPORTS, json={"images": [url]})
        assert answer.status_code == 422 and answer.json()["error"]["code"] == "urls_not_allowed"
    assert asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0x7f000001", "127.1", "2130706433"])
def test_this_machine_is_not_fetched_from_under_any_name(serve, site, host):
    client, (address, asked) = serve(allow_urls=True), site
    answer = client.post(REPORTS, json={"images": [address.replace("127.0.0.1", host) + "/film.png?key=secret"]})
    assert answer.status_code == 422 and answer.json()["error"]["code"] == "fetch_failed"
    assert asked == [] and "secret" not in answer.text


def test_public_addresses_are_fetched_and_their_redirects_are_checked(serve, site, monkeypatch):
    client, (address, _) = serve(allow_urls=True, max_bytes=5000), site
    public = {"127.0.0.1"}
    monkeypatch.setattr(remote, "is_public", lambda host: host in public)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    answer = client.post(REPORTS, json={"images": [f"{address}/film.png"]})
    assert answer.status_code == 200, answer.text
    assert client.post(REPORTS, json={"images": [f"{address}/away?/film.png"]}).status_code == 200
    faults = {
        "/missing": "HTTP 404",
        "/large": "more than",
        "/away?http://192.168.0.1/film.png": "this machine or its network",
        "/away?file:///etc/passwd": "could not be fetched",
        "/away?/away?/away?/away?/away?/film.png": "could not be fetched",
    }
    for path, fault in faults.items():
        answer = client.post(REPORTS, json={"images": [address + path]})
        assert answer.status_code == 422 and fault in answer.json()["error"]["message"], answer.text
        assert address not in answer.text and "root:" not in answer.text


def test_a_host_that_trickles_its_headers_does_not_hold_the_server(site, monkeypatch):
    monkeypatch.setattr(remote, "is_public", lambda host: True)
    with pytest.raises(ValueError, match="within 0.5 seconds"):
        remote.fetch_public(f"{site[0]}/slow", 5000, timeout=0.5)


@pytest.mark.parametrize("path", ["/etc/passwd", "file:///etc/passwd", "ftp://example.org/a.png", "gopher://a", ""])
def test_paths_are_never_read(serve, pictures, path):
    client = serve(allow_urls=True)
    answer = client.post(REPORTS, json={"images": [data_url(pictures[0]), path]})
    assert answer.status_code == 422 and answer.json()["error"]["code"] == "invalid_image"
