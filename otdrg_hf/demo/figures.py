"""Figures of a model on synthetic phantoms, whose findings, sides and places are known."""

from collections.abc import Iterator

import numpy as np
from tqdm.auto import tqdm

from otdrg_hf.data.phantom import phantom_dataset
from otdrg_hf.data.schema import INPUT_COLUMNS
from otdrg_hf.labeling import label_reports
from otdrg_hf.metrics import evaluate_reports
from otdrg_hf.metrics.laterality import finding_sides

POSITIVE = 1
NLG = ("bleu_1", "bleu_4", "rouge_l", "cider")


def phantom_figures(report, num_studies: int, image_size: int = 128, batch_size: int = 32) -> dict[str, float]:
    """
    Reports `num_studies` phantoms of the test split, which no training sees, and scores them against what was drawn.

    Args:
        report ([`RadiologyReportPipeline`]): The model.

    Returns:
        `dict[str, float]`: `disease_micro_f1`, `disease_macro_f1` of the predicted labels, `report_micro_f1`,
        `report_macro_f1` of the labels that the written reports state, `laterality`, the share of the true positives
        with a side whose report names that side, and NLG figures (protocol `raw`).
    """
    studies = phantom_dataset("test", num_studies=num_studies, image_size=image_size)
    progress = tqdm(total=num_studies, desc="Reporting phantoms", unit="study")
    answers = []
    for answer in report(_inputs(studies), batch_size=batch_size):
        answers.append(answer)
        progress.update()
    progress.close()
    texts = [answer["generated_text"] for answer in answers]
    actual = np.array(studies["disease_labels"]) == POSITIVE  # [N, 14]
    predicted = np.array([[f["state"] == "positive" for f in answer["findings"]] for answer in answers])
    stated = np.asarray(label_reports(texts)) == POSITIVE
    nlg = evaluate_reports(texts, list(studies["report"]), meteor=False)
    return {
        "disease_micro_f1": _f1(predicted, actual),
        "disease_macro_f1": _macro_f1(predicted, actual),
        "report_micro_f1": _f1(stated, actual),
        "report_macro_f1": _macro_f1(stated, actual),
        "laterality": _laterality(texts, list(studies["report"]), stated & actual),
        **{name: float(nlg[name]) for name in NLG},
    }


def _inputs(studies) -> Iterator[dict]:
    for study in studies:
        yield {key: study[key] for key in INPUT_COLUMNS}


def _f1(predicted: np.ndarray, actual: np.ndarray) -> float:
    return float(2 * (predicted & actual).sum() / max(predicted.sum() + actual.sum(), 1))


def _macro_f1(predicted: np.ndarray, actual: np.ndarray) -> float:
    return float(np.mean([_f1(predicted[:, j], actual[:, j]) for j in range(actual.shape[1])]))


def _laterality(texts: list[str], references: list[str], correct: np.ndarray) -> float:
    """Of the labels that text and reference both state, and the reference with a side: how many with the same side."""
    written, actual = finding_sides(texts), finding_sides(references)  # [N, 14]
    sided = correct & (actual > 0)
    return float((written == actual)[sided].mean()) if sided.any() else float("nan")


def figures_table(figures: dict[str, float], num_studies: int) -> str:
    """The figures as lines of text."""
    names = {
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
    lines = [f"{num_studies} unseen synthetic phantoms (test split)"]
    return "\n".join([*lines, *(f"  {names[name]:<44}{value:>6.3f}" for name, value in figures.items())])
