"""Rebuilds IU X-Ray in Kaggle's layout from the parts that tests have: reports as XML, images, a list of projections.

python tests/data/kaggle_iu.py ../shared/data/iu_xray downloads/kaggle
"""

import argparse
import csv
from pathlib import Path

from otdrg_hf.data.iu_reports import IUReport, iter_iu_reports

REPORT_COLUMNS = ("uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression")
PROJECTION_COLUMNS = ("uid", "filename", "projection")


def rebuild_kaggle(source: Path, folder: Path) -> None:
    """
    Write indiana_reports.csv, indiana_projections.csv and images_normalized/ (links to the images) to `folder`.

    Args:
        source (`Path`):
            A folder with NLMCXR_reports.tgz, images_256/ and films_256.csv (uid, filename, projection).
        folder (`Path`):
            Where to write; made if need be.
    """
    (folder / "images_normalized").mkdir(parents=True, exist_ok=True)
    reports = [report for report in iter_iu_reports(str(source / "NLMCXR_reports.tgz")) if report.images]
    reports.sort(key=lambda report: int(report.id.removeprefix("CXR")))
    write_table(folder / "indiana_reports.csv", REPORT_COLUMNS, map(report_row, reports))
    with open(source / "films_256.csv", encoding="utf-8", newline="") as file:
        rows = [{name: row[name] for name in PROJECTION_COLUMNS} for row in csv.DictReader(file)]
    write_table(folder / "indiana_projections.csv", PROJECTION_COLUMNS, rows)
    for image in (source / "images_256").iterdir():
        link = folder / "images_normalized" / image.name
        if not link.is_symlink():
            link.symlink_to(image.resolve())


def report_row(report: IUReport) -> dict[str, str]:
    """A report as a row of indiana_reports.csv."""
    return {
        "uid": report.id.removeprefix("CXR"),
        "MeSH": ";".join(report.mesh),
        "Problems": ";".join(dict.fromkeys(term.split("/")[0] for term in report.mesh)),
        "image": report.caption,
        "indication": report.indication,
        "comparison": report.comparison,
        "findings": report.findings,
        "impression": report.impression,
    }


def write_table(path: Path, columns: tuple[str, ...], rows) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="Folder of NLMCXR_reports.tgz, images_256/ and films_256.csv.")
    parser.add_argument("folder", type=Path, help="Where to write the layout.")
    arguments = parser.parse_args()
    rebuild_kaggle(arguments.source, arguments.folder)
