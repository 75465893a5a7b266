"""`otdrg report --sr --sc --fhir`: one image's report, and the documents of it; `otdrg watch`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from otdrg_hf import __version__
from otdrg_hf.extras import require
from otdrg_hf.files import atomic_path, write_json
from otdrg_hf.hospital.fhir import diagnostic_report
from otdrg_hf.hospital.secondary_capture import secondary_capture
from otdrg_hf.hospital.source import read_source
from otdrg_hf.hospital.structured_report import Algorithm, structured_report
from otdrg_hf.images.finding import FoundImage, find_images
from otdrg_hf.modeling.image_loading import is_data_url, is_url, load_radiograph
from otdrg_hf.reporting.command import print_answers
from otdrg_hf.reporting.loading import load_reporter, model_name, weights_digest
from otdrg_hf.reporting.loop import report_image_files

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
    **options,
) -> int:
    """
    Prints the report of one image, as `otdrg report` does, and writes the documents of it that are asked for.

    Args:
        images (`Sequence[str]`): One image, which is DICOM for `sr` and `sc`.
        sr, sc, fhir (`Path`, *optional*): Where the structured report, the heat maps and the FHIR report go.
        model, device, dtype: As of [`load_reporter`].
        as_json (`bool`): Print a JSON line instead of text.
        options: For [`report_image_files`].

    Returns:
        `int`: 1 if the image could not be read, when nothing is written; else 0.
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
    [answer] = report_image_files(report, found, model_name(model), evidence=True, **options)
    if "error" not in answer:
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
