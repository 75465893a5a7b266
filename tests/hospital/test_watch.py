"""`otdrg watch`: each radiograph of a folder is reported once, at whatever point the process is killed."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time

import pydicom
import pytest

from otdrg_hf.hospital.dicomweb import PacsRefused, PacsUnavailable
from otdrg_hf.hospital.folders import FolderInbox, FolderOutbox
from otdrg_hf.hospital.watch import Watch
from otdrg_hf.reporting.results_file import ResultsFile

from .conftest import ALGORITHM, OUTSIDE, radiograph

pytest.importorskip("highdicom", reason="needs otdrg-hf[hospital]")

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class Killed(BaseException):
    """The process ends here."""


class Bombs:
    """Ends the process at its n-th step."""

    def __init__(self, fuse: int):
        self.fuse = fuse

    def step(self):
        self.fuse -= 1
        if self.fuse < 0:
            raise Killed


class FragileOutbox:
    """An outbox in which the process may be killed, or the PACS go away, before and after each request."""

    def __init__(self, outbox, step):
        self._outbox, self._step = outbox, step

    def has(self, *arguments):
        self._step()
        return self._outbox.has(*arguments)

    def store(self, document):
        self._step()
        self._outbox.store(document)
        self._step()


@pytest.fixture
def inbox(tmp_path):
    """Five radiographs, one of them twice, and what is not one."""
    folder = tmp_path / "in"
    (folder / "more").mkdir(parents=True)
    for index in range(5):
        (folder / ("more" if index % 2 else "") / f"Roentgen_{index}.dcm").write_bytes(radiograph(index))
    (folder / "copy").write_bytes(radiograph(0))
    (folder / "notes.txt").write_text("Roentgen")
    return folder


@pytest.fixture
def make_watch(inbox, tmp_path, answer):
    """A watch from `inbox` to a folder, of a model that says the same of each image and counts them."""
    reported = []

    def model(studies, **options):
        for _ in studies:
            reported.append(1)
            yield answer

    (tmp_path / "out").mkdir()

    @contextlib.contextmanager
    def make(step=lambda: None, lines=None, box=None, batch_size=8):
        with ResultsFile(tmp_path / "ledger.jsonl", "report") as ledger:
            outbox = FragileOutbox(box or FolderOutbox(tmp_path / "out"), step)
            append = ledger.append

            def fragile_append(row):
                step()
                append(row)
                step()

            ledger.append = fragile_append
            say = (lambda line: None) if lines is None else lines.append
            arguments = (model, ALGORITHM, FolderInbox(inbox, wait=False), outbox, ledger)
            yield Watch(*arguments, batch_size=batch_size, say=say, wait=lambda failures: None)

    make.reported = reported
    return make


def reported_images(folder) -> list[str]:
    """The image of each report in a folder, of which nothing is left unfinished."""
    assert {path.suffix for path in folder.iterdir()} <= {".dcm", ".jsonl", ".lock"}
    images = []
    for path in sorted(folder.glob("*.dcm")):
        report = pydicom.dcmread(path)
        assert report.SOPInstanceUID == path.stem
        [study] = report.CurrentRequestedProcedureEvidenceSequence
        images.append(study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
    return sorted(images)


def images_of(*indices) -> list[str]:
    return sorted(f"1.2.826.0.1.3680043.8.498.77.{index}.3" for index in indices)


def test_each_image_once(make_watch, inbox, tmp_path):
    lines = []
    with make_watch(lines=lines) as watch:
        assert watch.round() == (5, 0) and watch.round() == (0, 0)
        (inbox / "late").write_bytes(radiograph(7))
        assert watch.round() == (1, 0)
    with make_watch() as watch:
        assert watch.round() == (0, 0)
    assert reported_images(tmp_path / "out") == images_of(0, 1, 2, 3, 4, 7)
    assert len(make_watch.reported) == 6
    # The ledger alone is enough, where reports were taken away.
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    with make_watch() as watch:
        assert watch.round() == (0, 0)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_killed_at_every_point(make_watch, tmp_path, batch_size):
    kills = 0
    for fuse in (*range(8), *range(60)):
        with contextlib.suppress(Killed), make_watch(Bombs(fuse).step, batch_size=batch_size) as watch:
            watch.round()
            break
        kills += 1
        images = reported_images(tmp_path / "out")
        assert len(images) == len(set(images))
    assert kills > 7
    assert reported_images(tmp_path / "out") == images_of(*range(5))
    assert len((tmp_path / "ledger.jsonl").read_text().splitlines()) == 5


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 5), (2, [2, 1, 2, 1, 1]), (8, [5, 1, 1, 1, 1])])
def test_images_run_together(make_watch, tmp_path, answer, batch_size, sizes):
    """Where the model refuses a batch after its first report, the others run alone, and none is reported again."""
    batches = []

    def model(studies, **options):
        batches.append(len(list(studies)))
        assert options["batch_size"] == batches[-1]
        yield answer
        if batches[-1] > 1:
            raise ValueError("too much together")

    with make_watch(batch_size=batch_size) as watch:
        watch._report = model
        assert watch.round() == (5, 0)
    assert batches == sizes
    assert reported_images(tmp_path / "out") == images_of(*range(5))


def test_a_study_that_the_model_refuses(make_watch):
    def model(studies, **options):
        raise ValueError("no room for a report")
        yield

    lines = []
    with make_watch(lines=lines) as watch:
        watch._report = model
        assert watch.round() == (0, 6)
    assert lines == ["An image was not reported: no room for a report"] * 6


def test_a_copy_that_can_be_read(make_watch, inbox, tmp_path):
    """Of two files of one image, one of which is damaged, in one batch."""
    (inbox / "1_damaged").write_bytes(radiograph(20)[:-1000])
    (inbox / "2_whole").write_bytes(radiograph(20))
    with make_watch() as watch:
        assert watch.round() == (6, 1)
    assert reported_images(tmp_path / "out") == images_of(0, 1, 2, 3, 4, 20)


def test_killed_while_a_report_is_written(make_watch, tmp_path, monkeypatch):
    replace = os.replace

    def killed(source, target):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with contextlib.suppress(Killed), make_watch() as watch:
            watch.round()
    assert os.replace is replace
    (tmp_path / "out" / ".1.2.dcm.0123.tmp").write_bytes(b"half")  # what a kill leaves, unlike an exception
    with make_watch() as watch:
        assert watch.round() == (5, 0)
    assert reported_images(tmp_path / "out") == images_of(*range(5))


def test_a_pacs_that_goes_away(make_watch, tmp_path):
    count, lines = [0], []

    def flaky():
        count[0] += 1
        if count[0] % 3 == 0:  # also after a report was stored
            raise PacsUnavailable("it cannot be reached")

    def only_requests():
        if sys._getframe(1).f_code.co_name in ("has", "store"):
            flaky()

    with make_watch(only_requests, lines) as watch:
        assert sum(watch.round()) == 5
    assert reported_images(tmp_path / "out") == images_of(*range(5))
    assert "Waiting for the PACS: it cannot be reached." in lines


def test_a_pacs_that_fails_on_one(make_watch, tmp_path):
    class Faulty(FolderOutbox):
        def has(self, report, source):
            if source.StudyInstanceUID.endswith("77.2.1"):
                raise PacsUnavailable("HTTP 500", answered=True)
            return super().has(report, source)

    lines = []
    with make_watch(lines=lines, box=Faulty(tmp_path / "out")) as watch:
        assert watch.round() == (4, 1)
    assert lines.count("Waiting for the PACS: HTTP 500.") == 8
    assert "An image was not reported: the PACS does not answer as it should: HTTP 500." in lines


def test_a_pacs_that_refuses_one(make_watch, tmp_path):
    class Choosy(FolderOutbox):
        def store(self, document):
            if document.StudyInstanceUID.endswith("77.2.1"):
                raise PacsRefused("the PACS does not take the report (HTTP 409).")
            super().store(document)

    lines = []
    with make_watch(lines=lines, box=Choosy(tmp_path / "out")) as watch:
        assert watch.round() == (4, 1)
    assert "An image was not reported: the PACS does not take the report (HTTP 409)." in lines
    with make_watch() as watch:
        assert watch.round() == (1, 0)
    assert reported_images(tmp_path / "out") == images_of(*range(5))


def test_what_is_not_a_radiograph(make_watch, inbox, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    (inbox / "ct").write_bytes(radiograph(8, Modality="CT"))
    (inbox / "cut.dcm").write_bytes(radiograph(9)[:-1000])
    (inbox / "no_uid").write_bytes(radiograph(10, StudyInstanceUID=None))
    (inbox / "ours").write_bytes(radiograph(11, Modality="OT", Manufacturer="otdrg-hf"))
    lines = []
    with make_watch(lines=lines) as watch:
        assert watch.round() == (5, 3)
        assert watch.round() == (0, 0)
        (inbox / "cut.dcm").write_bytes(radiograph(9))  # now whole
        assert watch.round() == (1, 0)
    assert reported_images(tmp_path / "out") == images_of(0, 1, 2, 3, 4, 9)
    said = "\n".join([*lines, caplog.text, *capfd.readouterr(), (tmp_path / "ledger.jsonl").read_text()])
    assert "An image was not reported: a CT slice, not a radiograph." in [line.replace("image: ", "") for line in lines]
    for secret in (*OUTSIDE, "77.8", str(tmp_path)):
        assert secret not in said


def test_a_file_that_is_being_copied_waits(inbox):
    watched = FolderInbox(inbox)
    assert list(watched.images()) == []
    for path in inbox.rglob("*"):
        os.utime(path, (1, 1))
    assert len(list(watched.images())) == 6 and list(watched.images()) == []


@pytest.mark.parametrize(
    "arguments, line",
    [
        ([], "error: Say what to watch: --folder DIR or --dicomweb URL."),
        (["--folder", "none"], "error: There is no folder 'none' to watch."),
        (["--folder", "in", "--out", "in/reports"], "error: The reports cannot go into the folder that is watched;"),
        (["--folder", "in", "--out", "dicomweb"], "error: --out dicomweb needs --dicomweb URL."),
        (["--dicomweb", "ftp://pacs"], "error: --dicomweb takes an http:// or https:// URL."),
        (["--dicomweb", "http://pacs", "--since", "monday"], "error: --since takes a day as YYYYMMDD."),
    ],
    ids=str,
)
def test_one_clear_line(otdrg, inbox, arguments, line):
    code, _, complained = otdrg("watch", *arguments)
    assert code == 2 and complained.startswith(line) and complained.count("\n") == 1


def test_the_command_once(otdrg, folder, inbox, tmp_path):
    (inbox / "ct").write_bytes(radiograph(8, Modality="CT"))
    arguments = ("watch", "--folder", "in", "--model", folder, "--once", "--max_new_tokens", 4)
    code, printed, complained = otdrg(*arguments)
    assert code == 1 and "a CT slice" in printed
    assert reported_images(tmp_path / "otdrg_reports") == images_of(*range(5))
    for secret in (*OUTSIDE, str(tmp_path)):
        assert secret not in printed + complained
    (inbox / "ct").unlink()
    code, printed, _ = otdrg(*arguments)
    assert (code, printed) == (0, "")


@pytest.mark.slow
def test_killed_processes(folder, tmp_path):
    """Forty images; the process is killed three times, as its reports come."""
    (tmp_path / "in").mkdir()
    for index in range(40):
        (tmp_path / "in" / f"{index}.dcm").write_bytes(radiograph(index))
        os.utime(tmp_path / "in" / f"{index}.dcm", (1, 1))
    command = [sys.executable, "-m", "otdrg_hf", "watch", "--folder", "in", "--out", "out", "--model", str(folder)]
    for wanted in (5, 17, 29, 40):
        process = subprocess.Popen([*command, "--max_new_tokens", "20"], cwd=tmp_path, env=ENVIRONMENT)
        while process.poll() is None and len(list((tmp_path / "out").glob("*.dcm"))) < wanted:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    for leftover in (tmp_path / "out").glob(".*.tmp"):
        leftover.unlink()
    assert reported_images(tmp_path / "out") == images_of(*range(40))
