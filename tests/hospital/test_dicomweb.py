"""The watch on a real Orthanc, on loopback: one report of each image, though the watch or the PACS is killed."""

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests

from otdrg_hf.data.phantom import make_phantom
from otdrg_hf.hospital import RESEARCH_USE
from otdrg_hf.hospital.dicomweb import DicomwebInbox, DicomwebOutbox, PacsUnavailable, connect
from otdrg_hf.hospital.watch import Watch
from otdrg_hf.reporting.results_file import ResultsFile
from tests.support.dicom_files import make_dicom

from .conftest import ALGORITHM, OUTSIDE, radiograph
from .test_watch import ENVIRONMENT, Bombs, FragileOutbox, Killed

pytest.importorskip("dicomweb_client", reason="needs otdrg-hf[hospital]")

PLUGINS = [
    path
    for folder in ("/usr/lib/orthanc", "/usr/share/orthanc/plugins", "/usr/local/share/orthanc/plugins")
    for path in Path(folder).glob("libOrthancDicomWeb.so*")
]


class Orthanc:
    """An Orthanc with DICOMweb, which can be stopped and started again with what it holds."""

    def __init__(self, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.root, self._folder = f"http://127.0.0.1:{port}", folder
        self.url = f"{self.root}/dicom-web"
        settings = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "OverwriteInstances": False,
            "Plugins": [str(PLUGINS[0])],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))

    def start(self):
        with open(self._folder / "orthanc.log", "ab") as log:
            program = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
            self._process = subprocess.Popen([program, self._folder / "orthanc.json"], stdout=log, stderr=log)
        for _ in range(600):
            with contextlib.suppress(requests.ConnectionError):
                requests.get(f"{self.root}/system", timeout=10)
                return
            time.sleep(0.1)
        raise RuntimeError("Orthanc does not start")

    def runs(self) -> bool:
        return self._process.poll() is None

    def stop(self, how=signal.SIGTERM):
        self._process.send_signal(how)
        self._process.wait()

    def send(self, content: bytes):
        requests.post(f"{self.root}/instances", data=content, timeout=30).raise_for_status()

    def reports(self) -> list[pydicom.Dataset]:
        found = []
        for instance in requests.get(f"{self.root}/instances", timeout=30).json():
            data = pydicom.dcmread(
                io.BytesIO(requests.get(f"{self.root}/instances/{instance}/file", timeout=30).content)
            )
            found += [data] if data.Modality == "SR" else []
        return found


@pytest.fixture
def orthanc(tmp_path):
    if not PLUGINS or not (shutil.which("Orthanc") or os.path.exists("/usr/sbin/Orthanc")):
        pytest.skip("Orthanc with DICOMweb is not installed (Debian: orthanc, orthanc-dicomweb)")
    (tmp_path / "pacs").mkdir()
    server = Orthanc(tmp_path / "pacs")
    server.start()
    yield server
    server.stop(signal.SIGKILL)


def images_reported(reports) -> list[str]:
    return sorted(
        report.CurrentRequestedProcedureEvidenceSequence[0]
        .ReferencedSeriesSequence[0]
        .ReferencedSOPSequence[0]
        .ReferencedSOPInstanceUID
        for report in reports
    )


def expected(count: int) -> list[str]:
    return sorted(f"1.2.826.0.1.3680043.8.498.77.{index}.3" for index in range(count))


def one_round(orthanc, tmp_path, answer, step=lambda: None, wait=lambda failures: None, lines=None):
    def model(studies, **options):
        for _ in studies:
            yield answer

    client = connect(orthanc.url)
    say = (lambda line: None) if lines is None else lines.append
    with ResultsFile(tmp_path / "ledger.jsonl", "report") as ledger:
        outbox = FragileOutbox(DicomwebOutbox(client), step)
        return Watch(model, ALGORITHM, DicomwebInbox(client), outbox, ledger, say=say, wait=wait).round()


def test_killed_and_resumed(orthanc, tmp_path, answer):
    orthanc.send(radiograph(50, Modality="CT"))
    for index in range(6):
        orthanc.send(radiograph(index))
    for fuse in range(1, 7):
        with contextlib.suppress(Killed):
            one_round(orthanc, tmp_path, answer, Bombs(fuse).step)
    one_round(orthanc, tmp_path, answer)
    assert images_reported(orthanc.reports()) == expected(6)
    (tmp_path / "ledger.jsonl").unlink()  # the PACS knows as well
    assert one_round(orthanc, tmp_path, answer) == (0, 0)
    assert len(orthanc.reports()) == 6


def test_the_pacs_goes_away(orthanc, tmp_path, answer, caplog, capfd):
    caplog.set_level("DEBUG")
    for index in range(3):
        orthanc.send(radiograph(index))
    steps, lines = [], []

    def stop_sometimes():
        steps.append(1)
        if len(steps) in (2, 8) and orthanc.runs():  # before a store, and behind a request
            orthanc.stop(signal.SIGKILL if len(steps) == 2 else signal.SIGTERM)

    def start_again(failures):
        if failures > 1 and not orthanc.runs():
            orthanc.start()

    reported, refused = one_round(orthanc, tmp_path, answer, stop_sometimes, start_again, lines)
    assert refused == 0 and "Waiting for the PACS: it cannot be reached." in lines
    one_round(orthanc, tmp_path, answer)
    assert images_reported(orthanc.reports()) == expected(3)
    said = "\n".join([*lines, *(record.getMessage() for record in caplog.records if "urllib3" in record.name)])
    for secret in (*OUTSIDE, "3680043.8.498.77"):
        assert secret not in said + "".join(capfd.readouterr())


def test_a_server_that_is_no_pacs(tmp_path):
    client = connect("http://127.0.0.1:9/dicom-web")
    with pytest.raises(PacsUnavailable, match="^it cannot be reached$"):
        next(DicomwebInbox(client).images())


@pytest.mark.slow
def test_two_hundred_phantoms_and_five_kills(orthanc, tmp_path):
    for index in range(200):
        image = make_phantom(index, "test", image_size=128).images[0].convert("L")
        root = f"1.2.826.0.1.3680043.8.498.77.{index}"
        uids = {"StudyInstanceUID": f"{root}.1", "SeriesInstanceUID": f"{root}.2", "SOPInstanceUID": f"{root}.3"}
        data = pydicom.dcmread(io.BytesIO(make_dicom(np.asarray(image), **uids)))
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, data, enforce_file_format=True)
        orthanc.send(buffer.getvalue())
    command = [sys.executable, "-m", "otdrg_hf", "watch", "--dicomweb", orthanc.url, "--max_new_tokens", "60"]
    for wanted in (20, 61, 99, 140, 181):
        process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        ledger = tmp_path / "otdrg_watch.jsonl"
        while process.poll() is None and (not ledger.exists() or ledger.read_bytes().count(b"\n") < wanted):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    subprocess.run([*command, "--once"], cwd=tmp_path, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    reports = orthanc.reports()
    assert images_reported(reports) == expected(200)
    if shutil.which("dsrdump"):
        reports[0].save_as(tmp_path / "one.dcm", enforce_file_format=True)
        shown = subprocess.run(["dsrdump", tmp_path / "one.dcm"], capture_output=True, text=True, check=True).stdout
        assert RESEARCH_USE[:20] in shown
