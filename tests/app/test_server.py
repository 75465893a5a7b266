"""The server of the page: this machine only, nothing fetched from elsewhere, and nothing left behind."""

import os
import signal
import socket
import sys
import tempfile

import pytest

pytest.importorskip("gradio")

from starlette.testclient import TestClient  # noqa: E402

from otdrg_hf import DEMO_CHECKPOINT  # noqa: E402
from otdrg_hf.app.server import describe, make_app, private_folder, run_app  # noqa: E402
from otdrg_hf.cli import main  # noqa: E402
from tests.support.served_app import start_site  # noqa: E402


@pytest.fixture(scope="module")
def client(report, tmp_path_factory):
    tmp_path_factory.getbasetemp()  # before there is another folder for temporary files
    with private_folder(), TestClient(make_app(report, "tiny", "A notice."), base_url="http://127.0.0.1") as client:
        yield client


def test_page(client):
    page = client.get("/")
    assert page.status_code == 200
    for text in ("Not a medical device, not for clinical use.", "A notice.", "window.otdrg"):
        assert text in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    assert page.headers["referrer-policy"] == "no-referrer"


def test_other_names_for_this_machine_are_refused(client):
    """As a page elsewhere would use, by a name that it points at loopback."""
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400


def test_no_analytics_and_no_programming_interface(client):
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False
    assert all(d["api_visibility"] == "private" for d in config["dependencies"])
    assert client.get("/gradio_api/info").json() == {"named_endpoints": {}, "unnamed_endpoints": {}}


def test_upload_beyond_the_limit_is_refused(report, monkeypatch):
    monkeypatch.setattr("otdrg_hf.app.page.MAX_FILE_SIZE", 1000)
    with private_folder() as folder, TestClient(make_app(report, "tiny", ""), base_url="http://127.0.0.1") as client:
        for size, status in ((1000, 200), (1001, 413)):
            assert client.post("/gradio_api/upload", files={"files": ("film.png", bytes(size))}).status_code == status
        assert [path.stat().st_size for path in folder.rglob("film.png")] == [1000]


def test_private_folder_goes_with_what_is_in_it(monkeypatch):
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    before = tempfile.gettempdir()
    with private_folder() as folder:
        assert os.environ["GRADIO_TEMP_DIR"] == tempfile.gettempdir() == str(folder)
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "film.png").write_bytes(b"film")
    assert not folder.exists() and tempfile.gettempdir() == before and "GRADIO_TEMP_DIR" not in os.environ


def test_names_of_models(tmp_path):
    assert describe(None, None)[0] == describe(str(DEMO_CHECKPOINT), None)[0] == "bundled demo model"
    assert "synthetic images only" in describe(None, None)[1]
    (tmp_path / "my_model").mkdir()
    assert describe(str(tmp_path / "my_model"), "Notice.") == ("my_model", "Notice.")
    assert describe("org/model", None) == ("org/model", "")


@pytest.fixture
def busy_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_port_that_is_taken(busy_port, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["otdrg", "app", "--port", str(busy_port)])
    with pytest.raises(SystemExit) as end:
        main()
    expected = f"error: 127.0.0.1, port {busy_port}, cannot be used (Address already in use); choose another --port."
    assert end.value.code == 2 and capsys.readouterr().err.strip() == expected


def test_host_that_there_is_not():
    with pytest.raises(ValueError, match=r"no\.such\.host\.invalid, port 0, cannot be used \(no such host\)"):
        run_app(host="no.such.host.invalid", port=0)


@pytest.mark.parametrize(
    "options, match",
    [
        ({"model": "no/such/folder"}, "The model 'no/such/folder' cannot be loaded"),
        ({"device": "toaster"}, "There is no device 'toaster'"),
    ],
    ids=str,
)
def test_model_that_cannot_be_loaded_is_one_line(monkeypatch, options, match):
    monkeypatch.setattr("otdrg_hf.app.server._end_tidily", lambda: None)
    with pytest.raises(ValueError, match=match) as error:
        run_app(port=0, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "how", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT], ids=["SIGTERM", "Ctrl-C"]
)
def test_an_ended_server_leaves_nothing(folder, tmp_path, how):
    site = start_site(folder, tmp_path)
    assert any(path.name.startswith("otdrg-app-") for path in tmp_path.iterdir())
    site.process.send_signal(how)
    try:
        printed, _ = site.process.communicate(timeout=60)
    finally:
        site.process.kill()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("otdrg-app-")]
    assert "Traceback" not in printed


@pytest.mark.parametrize("host, warned", [("127.0.0.1", False), ("0.0.0.0", True)])
def test_other_machines_come_in_only_when_asked_and_with_a_warning(folder, monkeypatch, capsys, host, warned):
    served = []
    monkeypatch.setattr("otdrg_hf.app.server._serve", lambda app, listener: served.append(listener.getsockname()))
    monkeypatch.setattr("otdrg_hf.app.server._end_tidily", lambda: None)  # signals are not for tests to take
    run_app(str(folder), host, 0)
    [(address, port)] = served
    printed = capsys.readouterr()
    assert address == host and f"OTDRG is at http://{host}:{port} " in printed.out
    assert ("lets other machines in, without a password" in printed.err) == warned
