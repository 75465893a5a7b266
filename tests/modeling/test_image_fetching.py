"""Images from the network: what arrives, what is too slow, too large or forbidden, without quoting the address."""

import io
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from otdrg_hf.modeling import image_loading
from otdrg_hf.modeling.image_loading import fetch, load_radiograph
from tests.support.tiny_models import make_films

FILM = make_films(1)[0]
SECRET = "key=secret"


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(FILM).save(buffer, "PNG")
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        place = self.path.split("?")[0].split("/")[1]
        if place in ("401", "403", "404", "500"):
            return self.send_error(int(place))
        if place == "moved":
            self.send_response(302)
            self.send_header("Location", f"/film/film.png?{SECRET}")
            return self.end_headers()
        content = png()
        self.send_response(200)
        if place != "endless":
            self.send_header("Content-Length", str(len(content) + (100 if place == "cut" else 0)))
        self.end_headers()
        try:
            if place == "endless":
                while True:
                    self.wfile.write(bytes(1 << 16))
            if place == "slow":
                for byte in content:
                    self.wfile.write(bytes([byte]))
                    self.server.stopped.wait(0.05)
            else:
                self.wfile.write(content)
        except OSError:
            pass

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.stopped = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.stopped.set()
    server.shutdown()


@contextmanager
def one_line(match):
    with pytest.raises(ValueError, match=match) as error:
        yield
    text = str(error.value)
    assert text.startswith("image 'film.png': ") and "\n" not in text
    assert "127.0.0.1" not in text and SECRET not in text


@pytest.mark.parametrize("place", ["film", "moved"])
def test_film_arrives(server, place):
    picture = load_radiograph(f"{server}/{place}/film.png?{SECRET}")
    assert (np.asarray(picture)[..., 0] == FILM).all()


@pytest.mark.parametrize(
    "place, match",
    [
        ("404", r"could not be fetched \(HTTP 404\)"),
        ("403", r"could not be fetched \(HTTP 403, which asks for permission\)"),
        ("401", r"could not be fetched \(HTTP 401, which asks for permission\)"),
        ("cut", r"could not be fetched \(the connection broke off\)"),
    ],
)
def test_film_that_is_not_given(server, place, match):
    with one_line(match):
        load_radiograph(f"{server}/{place}/film.png?{SECRET}")


def test_server_that_says_nothing(monkeypatch):
    monkeypatch.setattr(image_loading, "TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with one_line("could not be fetched"):
            load_radiograph(f"http://127.0.0.1:{silent.getsockname()[1]}/film.png?{SECRET}")


def test_server_that_drips(server, monkeypatch):
    monkeypatch.setattr(image_loading, "TIMEOUT", 0.5)
    with one_line("could not be fetched within 0.5 seconds"):
        load_radiograph(f"{server}/slow/film.png?{SECRET}")


def test_download_stops_at_the_limit(server, monkeypatch):
    assert len(fetch(f"{server}/endless/film.png", 100_000, image_loading.TIMEOUT)) == 100_001
    monkeypatch.setattr(image_loading, "MAX_BYTES", 3_000_000)
    with one_line("more than 3 MB, too large for a radiograph"):
        load_radiograph(f"{server}/endless/film.png?{SECRET}")


@pytest.mark.parametrize(
    "address, match",
    [
        ("http://", "could not be fetched"),
        ("http://[film.png", "could not be fetched"),
        ("http://127.0.0.1:port/film.png", "the address is not valid"),
        ("http://no.such.host.invalid/film.png", "there is no such host"),
        ("http://127.0.0.1:9/film.png", "the host refuses the connection"),
    ],
)
def test_address_that_leads_nowhere(address, match):
    with pytest.raises(ValueError, match=match) as error:
        load_radiograph(address)
    assert "\n" not in str(error.value) and "no.such" not in str(error.value)
