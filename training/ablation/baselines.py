"""Reports without a language model, that any trained system has to beat: constant, shuffled and nearest-neighbour."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from otdrg_hf import OTDRGForConditionalGeneration, OTDRGProcessor
from otdrg_hf.labeling import LABELS, label_reports
from otdrg_hf.labeling.labels import POSITIVE
from otdrg_hf.metrics.bleu import bleu_from_totals, bleu_statistics
from otdrg_hf.metrics.ngrams import pair_ngrams
from otdrg_hf.metrics.protocols import apply_protocol
from otdrg_hf.reporting.predictions import open_predictions
from otdrg_hf.training.feature_cache import FeatureCache, encoder_checksum, undecoded

BASELINES = ("constant", "shuffled", "nearest")
SCORES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "ce13_micro_f1", "ce14_micro_f1")
NO_FINDING = LABELS.index("No Finding")


def best_constant(candidates: Sequence[str], references: Sequence[str], by: str, protocol: str = "raw") -> str:
    """
    The text that scores best as the report of every study.

    Args:
        candidates (`Sequence[str]`): Texts to choose from; of equal ones the first.
        references (`Sequence[str]`): Of the validation studies: a choice on the test studies would be unfair.
        by (`str`): One of `SCORES`.
        protocol (`str`): As in `evaluate_reports`, for BLEU.
    """
    candidates = list(dict.fromkeys(candidates))
    scores = _ce_scores(candidates, references, by) if by.startswith("ce") else None
    if scores is None:
        order = int(by.removeprefix("bleu_"))
        scores = [_bleu(text, references, order, protocol) for text in tqdm(candidates, desc="Constant", unit="text")]
    return candidates[int(np.argmax(scores))]


def _ce_scores(candidates: Sequence[str], references: Sequence[str], by: str) -> np.ndarray:
    """Micro-F1 of each candidate, `[K]`."""
    stated, true = (np.asarray(label_reports(list(texts))) == POSITIVE for texts in (candidates, references))
    if by == "ce13_micro_f1":
        stated, true = (np.delete(states, NO_FINDING, axis=1) for states in (stated, true))
    hits = stated @ true.sum(0)  # [K]
    return 2 * hits / np.maximum(len(true) * stated.sum(1) + true.sum(), 1)


def _bleu(text: str, references: Sequence[str], order: int, protocol: str) -> float:
    prepared, of_references, _ = apply_protocol(protocol, [text] * len(references), [[each] for each in references])
    totals = bleu_statistics(pair_ngrams(prepared, of_references)).sum(axis=0)
    return float(bleu_from_totals(totals)[order - 1])


def shuffled(reports: Sequence[str], seed: int) -> list[str]:
    """To each study the report of another one, each report once."""
    order = np.random.default_rng(seed).permutation(len(reports))
    given = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    return [reports[given[index]] for index in range(len(reports))]


def nearest(features: torch.Tensor, others: torch.Tensor, reports: Sequence[str]) -> list[str]:
    """
    To each study the report of the most similar other study.

    Args:
        features (`torch.Tensor` of shape `[N, c]`): Of the studies.
        others (`torch.Tensor` of shape `[M, c]`), reports (`Sequence[str]`): Of those whose reports are given.
    """
    mean = others.mean(0)  # shared by all radiographs, and larger than what tells them apart
    unit, of_others = (torch.nn.functional.normalize(each - mean, dim=-1) for each in (features, others))
    return [reports[index] for index in (unit @ of_others.T).argmax(-1).tolist()]


class EncoderFeatures:
    """
    Mean patch features of studies by the vision encoder of a model.

    Args:
        model_dir (`Path`): The model.
        cache (`Path`): Folder of a [`FeatureCache`], of the runs that trained the model or another.
        dtype (`str`, *optional*): That the encoder was frozen in, `frozen_dtype`.
    """

    def __init__(self, model_dir: Path, cache: Path, dtype: str | None = None):
        self.model = OTDRGForConditionalGeneration.from_pretrained(model_dir, dtype="float32")
        self.processor = OTDRGProcessor.from_pretrained(model_dir)
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        if dtype is not None:
            self.model.model.vision_tower.to(getattr(torch, dtype))
        self.cache = FeatureCache(cache, encoder_checksum(self.model, self.processor))

    def __call__(self, studies) -> torch.Tensor:
        """`[N, c]`, fp32."""
        self.cache.fill(self.model, self.processor, studies)
        return torch.stack([self.cache.read(study).float().mean((0, 1, 2)) for study in undecoded(studies)])


def write_baseline(folder: Path, name: str, studies, section: str, reports: Sequence[str]) -> Path:
    """Writes the reports of studies, in their order, to the file that `otdrg evaluate` reads."""
    file = open_predictions(folder, {"model": f"{name} baseline", "section": section})
    rows = zip(studies["id"], reports, studies[section], strict=True)
    file.append(
        *(
            {"id": key, "generated_text": report, "reference": reference, "section": section}
            for key, report, reference in rows
            if key not in file.finished
        )
    )
    file.close()
    return file.path
