"""`otdrg report --sr --sc --fhir`: one image's report, and the documents of it; `otdrg watch`."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from otdrg_hf import __version__
from otdrg_hf.extras import require
from otdrg_hf.files import atomic_path, write_json
from otdrg_hf.hospital.dicomweb import DicomwebInbox, DicomwebOutbox, connect
from otdrg_hf.hospital.fhir import diagnostic_report
from otdrg_hf.hospital.folders import FolderInbox, FolderOutbox
from otdrg_hf.hospital.secondary_capture import secondary_capture
from otdrg_hf.hospital.source import read_source
from otdrg_hf.hospital.structured_report import Algorithm, structured_report
from otdrg_hf.hospital.watch import Watch
from otdrg_hf.images.finding import FoundImage, find_images
from otdrg_hf.modeling.image_loading import is_data_url, is_url, load_radiograph
from otdrg_hf.reporting.command import parse_operating_point, print_answers
from otdrg_hf.reporting.loading import load_reporter, model_name, weights_digest
from otdrg_hf.reporting.loop import report_image_files
from otdrg_hf.reporting.results_file import ResultsFile

if TYPE_CHECKING:
    from transformers import Pipeline


def algorithm_of(report: "Pipeline", model: str | None) -> Algorithm:
    """The name and version of a model in documents."""
    return Algorithm(f"OTDRG {model_name(model)}", f"{__version__} {weights_digest(report.model).rsplit(' ', 1)[-1]}")


def run_documents(
    images: Sequence[str],
    sr: Path | None = None,
    sc: Path | None = None,
    fhir: Path | None = None,
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    as_json: bool = False,
    operating_point: str | None = None,
    **options,
) -> int:
    """
    Prints the report of one image, as `otdrg report` does, and writes the documents of it that are asked for.

    Args:
        images (`Sequence[str]`): One image, which is DICOM for `sr` and `sc`.
        sr, sc, fhir (`Path`, *optional*): Where the structured report, the heat maps and the FHIR report go.
        model, device, dtype: As of [`load_reporter`].
        as_json (`bool`): Print a JSON line instead of text.
        operating_point (`str`, *optional*): As [`parse_operating_point`] reads it.
        options: For [`report_image_files`].

    Returns:
        `int`: 1 if the image could not be read; then, and of an image that is refused, nothing is written. Else 0.
    """
    found = find_images(images)
    if len(found) != 1:
        raise ValueError(f"--sr, --sc and --fhir take one image, not {len(found)}.")
    file = found[0]
    _check_outputs(file, [path for path in (sr, sc, fhir) if path is not None])
    if sr or sc:
        require("highdicom", extra="hospital")
    if fhir:
        require("fhir.resources", extra="hospital")
    source = _source_of(file) if sr or sc else None
    report = load_reporter(model, device, dtype)
    options["operating_point"] = None if operating_point is None else parse_operating_point(operating_point)
    [answer] = report_image_files(report, found, model_name(model), evidence=True, **options)
    if "generated_text" in answer:
        _write(answer, file, source, algorithm_of(report, model), sr, sc, fhir)
    return print_answers([{key: value for key, value in answer.items() if key != "evidence"}], as_json)


def _write(answer, file: FoundImage, source, algorithm: Algorithm, sr, sc, fhir) -> None:
    """All documents are made before the first is written."""
    datasets = []
    if sr:
        datasets.append((sr, structured_report(answer, [source], algorithm)))
    if sc:
        datasets.append((sc, secondary_capture(answer, load_radiograph(file.location), source, algorithm)))
    resource = diagnostic_report(answer, algorithm) if fhir else None
    for path, dataset in datasets:
        with atomic_path(path) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
    if fhir:
        write_json(fhir, resource)


def _check_outputs(file: FoundImage, outputs: list[Path]) -> None:
    taken = {Path(file.location).resolve()}
    for path in outputs:
        if path.resolve() in taken:
            raise ValueError(f"{path.name} is given twice, or is the image itself; choose another file.")
        if not path.parent.is_dir():
            raise ValueError(f"The folder for {path.name} does not exist; make it first.")
        taken.add(path.resolve())


def _source_of(file: FoundImage):
    if is_url(file.location) or is_data_url(file.location):
        raise ValueError("--sr and --sc take a DICOM file, not a URL.")
    try:
        return read_source(file.location)
    except OSError as error:
        raise ValueError(f"image {file.name!r}: cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise ValueError(f"image {file.name!r}: {error}") from None


def run_watch(
    folder: Path | None = None,
    dicomweb: str | None = None,
    out: str | None = None,
    ledger: Path | None = None,
    model: str | None = None,
    device: str | None = None,
    *,
    since: str | None = None,
    interval: float = 10.0,
    once: bool = False,
    batch_size: int = 8,
    max_new_tokens: int = 256,
) -> int:
    """
    Reports new radiographs of a folder or PACS until it is interrupted.

    Args:
        folder (`Path`, *optional*): The folder to watch.
        dicomweb (`str`, *optional*): The URL of a PACS: to watch, or with `folder` to store reports in.
        out (`str`, *optional*): `"dicomweb"`, or a folder for the reports; by default where the images are, a folder's
            reports in `otdrg_reports`.
        ledger (`Path`, *optional*): Which reports were stored; by default `otdrg_watch.jsonl`, in the folder of the
            reports or the current one.
        model, device: As of [`load_reporter`].
        since (`str`, *optional*): Of a PACS, `YYYYMMDD`: only studies of this day and later.
        interval (`float`): Seconds between two rounds.
        once (`bool`): One round only.
        batch_size, max_new_tokens (`int`): As of [`Watch`].

    Returns:
        `int`: How many images could not be reported in the last round.
    """
    if folder is None and dicomweb is None:
        raise ValueError("Say what to watch: --folder DIR or --dicomweb URL.")
    if since is not None and not (len(since) == 8 and since.isascii() and since.isdecimal()):
        raise ValueError("--since takes a day as YYYYMMDD.")
    out = out or ("otdrg_reports" if folder else "dicomweb")
    if out == "dicomweb" and dicomweb is None:
        raise ValueError("--out dicomweb needs --dicomweb URL.")
    if folder and out != "dicomweb" and Path(out).resolve().is_relative_to(folder.resolve()):
        raise ValueError("The reports cannot go into the folder that is watched; choose another for --out.")
    require("highdicom", extra="hospital")
    client = connect(dicomweb) if dicomweb else None
    inbox = FolderInbox(folder, wait=not once) if folder else DicomwebInbox(client, since)
    if out != "dicomweb":
        Path(out).mkdir(parents=True, exist_ok=True)
    ledger = ledger or (Path() if out == "dicomweb" else Path(out)) / "otdrg_watch.jsonl"
    with _locked(ledger), ResultsFile(ledger, "report") as results:
        report = load_reporter(model, device)
        algorithm = algorithm_of(report, model)
        outbox = DicomwebOutbox(client) if out == "dicomweb" else FolderOutbox(Path(out))
        options = {"batch_size": batch_size, "max_new_tokens": max_new_tokens}
        watch = Watch(report, algorithm, inbox, outbox, results, say=_say, **options)
        while True:
            _, refused = watch.round()
            if once:
                return refused
            time.sleep(interval)


def _locked(ledger: Path):
    """A lock that ends with the process, however that ends."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{ledger}.lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"Another watch uses {ledger.name}; end it, or choose another --ledger.") from None


def _say(line: str) -> None:
    print(line, flush=True)
