"""`otdrg demo`: reports of unseen phantoms and of any image given, with evidence pictures and a table of metrics."""

import json
import os
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from otdrg_hf.data.phantom import PhantomStudy, make_phantom, phantom_dataset
from otdrg_hf.data.schema import INPUT_COLUMNS
from otdrg_hf.files import write_json
from otdrg_hf.images.overlay import save_overlay
from otdrg_hf.labeling import label_reports
from otdrg_hf.labeling.labels import POSITIVE
from otdrg_hf.metrics import evaluate_reports
from otdrg_hf.metrics.laterality import finding_sides
from otdrg_hf.reporting import load_reporter, report_studies

SHOWN_SEEDS = (1_000_001, 1_000_002, 1_000_003)
NOTE = "Synthetic-data demo; not for clinical use."
METRICS = {
    "disease_micro_f1": "predicted labels, micro-F1 of positive",
    "disease_macro_f1": "predicted labels, macro-F1 of positive",
    "report_micro_f1": "labels stated in the report, micro-F1",
    "report_macro_f1": "labels stated in the report, macro-F1",
    "laterality": "side right, of true positives with a side",
    "bleu_1": "BLEU-1",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr",
}


def run_demo(
    images: list[str],
    output_dir: str | os.PathLike,
    num_studies: int = 200,
    model: str | os.PathLike | None = None,
    as_json: bool = False,
) -> None:
    """
    Writes `demo.json` and an overlay picture per study to `output_dir`, and prints both as text.

    Args:
        images (`list[str]`): Images to report as well as the phantoms; none of it leaves the machine.
        output_dir (`str` or `os.PathLike`): Created if it is not there.
        num_studies (`int`, *optional*, defaults to 200): Phantoms behind the table; 0 leaves it out.
        model (`str` or `os.PathLike`, *optional*): Defaults to the bundled checkpoint.
        as_json (`bool`, *optional*, defaults to `False`): Print the content of `demo.json` instead of text.
    """
    from otdrg_hf.modeling.image_loading import load_radiograph

    pictures = {f"image-{index}": load_radiograph(path) for index, path in enumerate(images, start=1)}
    report = load_reporter(model)
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    studies = _report_phantoms(report, output)
    answers = report_studies(report, pictures.values(), evidence=True, description=None)
    for (name, image), answer in zip(pictures.items(), answers, strict=True):
        picture = output / f"{name}.png"
        save_overlay(picture, [image], answer, note=NOTE)
        studies.append(_record(name, answer, picture, reference=None))
    # The table's key is "figures", which earlier readers of demo.json know.
    result = {"note": NOTE, "studies": studies, "figures": {}}
    if num_studies:
        result["figures"] = phantom_metrics(report, num_studies)
    write_json(output / "demo.json", result, indent=2)
    print(json.dumps(result) if as_json else _text(result, num_studies))


def _report_phantoms(report, output: Path) -> list[dict]:
    phantoms = [make_phantom(seed, "test", image_size=448) for seed in SHOWN_SEEDS]
    studies = [{"images": each.images, "views": each.views, "indication": each.indication} for each in phantoms]
    answers = report_studies(report, studies, evidence=True, description=None)
    return [_show_phantom(phantom, answer, output) for phantom, answer in zip(phantoms, answers, strict=True)]


def _show_phantom(phantom: PhantomStudy, answer: dict, output: Path) -> dict:
    picture = output / f"{phantom.id}.png"
    save_overlay(picture, phantom.images, answer, boxes=phantom.boxes, note=f"{NOTE} Blue: where the sign was drawn.")
    return _record(phantom.id, answer, picture, reference=phantom.report)


def _record(name: str, answer: dict, picture: Path, reference: str | None) -> dict:
    return {
        "name": name,
        "generated_text": answer["generated_text"],
        "reference": reference,
        "findings": answer["findings"],
        **({"input": answer["input"]} if "input" in answer else {}),
        "picture": picture.name,
    }


def phantom_metrics(report, num_studies: int, image_size: int = 128, batch_size: int = 32) -> dict[str, float]:
    """
    Reports `num_studies` phantoms of the test split, which no training sees, and scores them against what was drawn.

    Args:
        report ([`RadiologyReportPipeline`]): The model.

    Returns:
        `dict[str, float]`: `disease_micro_f1`, `disease_macro_f1` of the predicted labels, `report_micro_f1`,
        `report_macro_f1` of the labels that the written reports state, `laterality`, the share of the true positives
        with a side whose report names that side, and NLG metrics (protocol `raw`).
    """
    studies = phantom_dataset("test", num_studies=num_studies, image_size=image_size)
    inputs = ({key: study[key] for key in INPUT_COLUMNS} for study in studies)
    options: dict[str, Any] = {"description": "Reporting phantoms", "total": num_studies}
    answers = list(report_studies(report, inputs, batch_size=batch_size, **options))
    texts, references = [answer["generated_text"] for answer in answers], list(studies["report"])
    actual = np.array(studies["disease_labels"]) == POSITIVE  # [N, 14]
    predicted = np.array([[f["state"] == "positive" for f in answer["findings"]] for answer in answers])
    stated = np.asarray(label_reports(texts)) == POSITIVE
    nlg = evaluate_reports(texts, references, meteor=False)
    return {
        "disease_micro_f1": _f1(predicted, actual),
        "disease_macro_f1": _macro_f1(predicted, actual),
        "report_micro_f1": _f1(stated, actual),
        "report_macro_f1": _macro_f1(stated, actual),
        "laterality": _laterality(texts, references, stated & actual),
        **{name: float(nlg[name]) for name in ("bleu_1", "bleu_4", "rouge_l", "cider")},
    }


def _f1(predicted: np.ndarray, actual: np.ndarray) -> float:
    return float(2 * (predicted & actual).sum() / max(predicted.sum() + actual.sum(), 1))


def _macro_f1(predicted: np.ndarray, actual: np.ndarray) -> float:
    return float(np.mean([_f1(predicted[:, j], actual[:, j]) for j in range(actual.shape[1])]))


def _laterality(texts: list[str], references: list[str], correct: np.ndarray) -> float:
    """Of the labels that text and reference both state, and the reference with a side: how many with the same side."""
    written, actual = finding_sides(texts), finding_sides(references)  # [N, 14]
    sided = correct & (actual > 0)
    return float((written == actual)[sided].mean()) if sided.any() else float("nan")


def _text(result: dict, num_studies: int) -> str:
    blocks = []
    for study in result["studies"]:
        lines = [study["name"], *_paragraph("report", study["generated_text"])]
        if study["reference"]:
            lines += _paragraph("truth", study["reference"])
        if not study.get("input", {"familiar": True})["familiar"]:
            lines += _paragraph("doubt", f"not an image that the model knows: {study['input']['why']}")
        named = [f"{f['label']} {f['state']} {f['score']:.2f}" for f in study["findings"] if f["state"] != "blank"]
        lines += _paragraph("labels", "; ".join(named))
        blocks.append("\n".join([*lines, f"  picture {study['picture']}"]))
    if result["figures"]:
        table = [f"  {METRICS[name]:<44}{value:>6.3f}" for name, value in result["figures"].items()]
        blocks.append("\n".join([f"{num_studies} unseen synthetic phantoms (test split)", *table]))
    return "\n\n".join([*blocks, result["note"]])


def _paragraph(name: str, text: str) -> list[str]:
    return textwrap.wrap(text, 108, initial_indent=f"  {name:<8}", subsequent_indent=" " * 10)
