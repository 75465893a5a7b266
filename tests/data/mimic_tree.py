"""Writes made-up data in the exact layout of MIMIC-CXR-JPG and MIMIC-CXR reports; nothing in it is of a patient."""

import csv
import gzip
import io
import random
from pathlib import Path

from PIL import Image

LABELS_AS_IN_CSV = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
METADATA_COLUMNS = (
    "dicom_id",
    "subject_id",
    "study_id",
    "PerformedProcedureStepDescription",
    "ViewPosition",
    "Rows",
    "Columns",
    "StudyDate",
    "StudyTime",
    "ProcedureCodeSequence_CodeMeaning",
    "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)
# Every line of the dataset's reports starts with a space, also the empty ones.
REPORT = "\n ".join(
    (
        "                                 FINAL REPORT",
        "EXAMINATION:  CHEST (PA AND LAT)",
        "",
        "INDICATION:  ___F with cough  // eval for pneumonia",
        "",
        "TECHNIQUE:  Chest PA and lateral",
        "",
        "COMPARISON:  ___",
        "",
        "FINDINGS: ",
        "",
        "{findings}",
        "",
        "IMPRESSION: ",
        "",
        "{impression}\n",
    )
)
_FINDINGS = (
    "The lungs are clear without focal consolidation.  No pleural effusion or\n pneumothorax is seen.",
    "There is a small left pleural effusion.  Heart size is mildly enlarged.",
    "Patchy opacity in the right lower lobe may represent pneumonia.",
)
_IMPRESSIONS = ("No acute cardiopulmonary process.", "Small left pleural effusion.", "Possible pneumonia.")
_VIEWS = ("PA", "LATERAL", "AP", "LL", "")


def report_text(findings: str, impression: str) -> str:
    return REPORT.format(findings=findings, impression=impression)


def jpeg_bytes(shade: int = 128, size: tuple[int, int] = (40, 48)) -> bytes:
    content = io.BytesIO()
    Image.linear_gradient("L").resize(size).point(lambda value: (value + shade) % 256).save(content, "JPEG")
    return content.getvalue()


def write_table(path: Path, columns: tuple[str, ...], rows: list[dict]) -> None:
    with gzip.open(path, "wt", newline="") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)


def write_mimic_tree(root: Path, num_studies: int, images_per_study: int = 2, seed: int = 0) -> None:
    """A tree of `num_studies` studies of patients with one to four studies each, the official tables and all files."""
    rng = random.Random(seed)
    split_rows, metadata_rows, chexpert_rows = [], [], []
    patient, left, split = 10000031, 0, "train"
    pictures = [jpeg_bytes(shade) for shade in range(0, 256, 32)]
    for number in range(num_studies):
        if not left:
            patient, left = patient + rng.randint(1, 400), rng.randint(1, 4)
            split = rng.choices(("train", "validate", "test"), (0.8, 0.1, 0.1))[0]
        left -= 1
        study = 50000000 + rng.randrange(10) * 1000000 + number
        folder = root / "files" / f"p{str(patient)[:2]}" / f"p{patient}"
        (folder / f"s{study}").mkdir(parents=True)
        pick = rng.randrange(len(_FINDINGS))
        (folder / f"s{study}.txt").write_text(report_text(_FINDINGS[pick], _IMPRESSIONS[pick]))
        date, time = rng.randint(21100101, 21991231), f"{rng.randint(0, 235959)}.{rng.randrange(1000)}"
        for view in rng.choices(_VIEWS, k=images_per_study):
            dicom = "-".join(f"{rng.getrandbits(32):08x}" for _ in range(5))
            (folder / f"s{study}" / f"{dicom}.jpg").write_bytes(rng.choice(pictures))
            ids = {"dicom_id": dicom, "study_id": study, "subject_id": patient}
            split_rows.append({**ids, "split": split})
            metadata_rows.append({**ids, "ViewPosition": view, "StudyDate": date, "StudyTime": time})
        if rng.random() < 0.9:
            states = {label: rng.choice(("", "1.0", "0.0", "-1.0")) for label in LABELS_AS_IN_CSV}
            chexpert_rows.append({"subject_id": patient, "study_id": study, **states})
    write_table(root / "mimic-cxr-2.0.0-split.csv.gz", ("dicom_id", "study_id", "subject_id", "split"), split_rows)
    write_table(root / "mimic-cxr-2.0.0-metadata.csv.gz", METADATA_COLUMNS, metadata_rows)
    write_table(root / "mimic-cxr-2.0.0-chexpert.csv.gz", ("subject_id", "study_id", *LABELS_AS_IN_CSV), chexpert_rows)
