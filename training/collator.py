"""Batches of studies for the trainer: prompt and report as in TRL, and the disease labels."""

import zlib
from typing import Any

import numpy as np
import torch
from PIL import Image
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from otdrg_hf.modeling.processing_otdrg import OTDRGProcessor
from otdrg_hf.modeling.prompt_otdrg import FINDING_TOKEN
from otdrg_hf.training.augmentation import Augmentation
from otdrg_hf.training.draws import StudyDraws
from otdrg_hf.training.feature_cache import FeatureCache, blank_image
from otdrg_hf.training.shown_labels import Shown, ShownLabels, finding_weights
from otdrg_hf.training.studies import check_context, too_long_studies

OTHERS = 4  # studies from whose labels the transport loss tells those of a study
TRIES = 8


class OtherStates:
    """
    Gives each study the labels of some others, always the same: they come from its id and not from its batch, so that
    the loss is that of any batch size and number of processes.

    Args:
        labels (`np.ndarray` of shape `[N, m]`): State codes of the training studies.
    """

    def __init__(self, labels: np.ndarray):
        self.labels = labels

    def of(self, study: dict[str, Any]) -> np.ndarray:
        """State codes `[4, m]` of studies whose labels are other ones; the study's own where none was met."""
        own = np.asarray(study["disease_labels"])
        generator = np.random.default_rng(zlib.crc32(study["id"].encode()))
        met = self.labels[generator.integers(len(self.labels), size=OTHERS * TRIES)]
        others = met[(met != own).any(-1)][:OTHERS]
        return np.concatenate([others, np.tile(own, (OTHERS - len(others), 1))])


class IndicationDropout(StudyDraws):
    """
    Draws whether the prompt of a study leaves out its indication and comparison.

    Args:
        rate (`float`): Probability that it does.
        seed (`int`): Of all draws.
    """

    def __init__(self, rate: float, seed: int = 0):
        super().__init__(seed, stream=2)
        self.rate = rate

    def __call__(self, study: dict[str, Any]) -> dict[str, Any]:
        """The study, or a copy without those texts."""
        if self.generator(study).random() >= self.rate:
            return study
        return {**study, "indication": "", "comparison": ""}


class StudyCollator(DataCollatorForVisionLanguageModeling):
    """
    Collates rows of `load_study_dataset` into model inputs with `labels` on the report alone.

    Args:
        processor ([`OTDRGProcessor`]): Builds prompts and pixels.
        target (`str`): The column that is the report.
        features ([`FeatureCache`], *optional*):
            Features of the vision encoder to pass instead of pixels; the images of the rows are not decoded then. Those
            of its frozen blocks are passed as `block_inputs`, with blank pixels.
        others ([`OtherStates`], *optional*):
            Gives each study the labels of others, from which the transport loss tells its own.
        shown ([`ShownLabels`], *optional*):
            Draws what the LLM is shown of the labels. Default: the labels of the study.
        finding_weight (`float`): Weight in the loss of the tokens of sentences that state a finding.
        augmentation ([`Augmentation`], *optional*): Changes the images.
        indication_dropout ([`IndicationDropout`], *optional*): Leaves texts out of prompts.
        text_only (`bool`): Leave images and their tokens out, so that a prompt shows nothing but labels and texts.

    Raises:
        ValueError: for a study that is longer than the LLM's context, naming it.
    """

    def __init__(
        self,
        processor: OTDRGProcessor,
        target: str = "report",
        features: FeatureCache | None = None,
        others: OtherStates | None = None,
        shown: ShownLabels | None = None,
        finding_weight: float = 1.0,
        augmentation: Augmentation | None = None,
        indication_dropout: IndicationDropout | None = None,
        text_only: bool = False,
    ):
        super().__init__(processor=processor, completion_only_loss=True)
        self.target, self.features, self.others, self.shown = target, features, others, shown
        self.finding_weight, self.augmentation, self.text_only = finding_weight, augmentation, text_only
        self.indication_dropout = indication_dropout

    @property
    def draws(self) -> list[StudyDraws]:
        """What draws differently in each epoch."""
        return [each for each in (self.shown, self.augmentation, self.indication_dropout) if each is not None]

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        if self.indication_dropout is not None:
            examples = [self.indication_dropout(study) for study in examples]
        if self.text_only:
            examples = [{**study, "images": [], "views": []} for study in examples]
        if self.shown is None:
            check_context(examples, self.processor, self.target)
        shown = None if self.shown is None else self._draw(examples)
        reports = [study[self.target] for study in examples] if shown is None else [each.report for each in shown]
        rows = [
            {
                "images": self._images(study),
                "prompt": self._prompt(study),
                "completion": self.processor.build_completion(report),
            }
            for study, report in zip(examples, reports, strict=True)
        ]
        completions = [row["completion"] for row in rows]
        batch = super().torch_call(rows)
        if self.finding_weight != 1:
            batch["label_weights"] = self._weights(completions, batch["labels"])
        batch["disease_labels"] = self.processor.encode_labels([study["disease_labels"] for study in examples])
        if self.others is not None:
            others = np.stack([self.others.of(study) for study in examples])
            batch["other_labels"] = torch.from_numpy(others).long()  # [B, k, m]
        if shown is not None:
            batch["shown_labels"] = self.processor.encode_labels(np.stack([each.labels for each in shown]))
            batch["overridden_labels"] = torch.from_numpy(np.stack([each.overridden for each in shown]))
        if self.features is not None:
            features = self.features.read_batch(examples)
            if self.features.blocks is not None:
                batch["block_inputs"] = features
            else:
                del batch["pixel_values"]
                batch["vision_features"] = features
        return batch

    def _draw(self, examples: list[dict[str, Any]]) -> list[Shown]:
        """What studies show: their own labels, where a sentence put into the report takes it past the LLM's context."""
        drawn = [self.shown.draw(study, self.target) for study in examples]
        changed = [{**study, self.target: each.report} for study, each in zip(examples, drawn, strict=True)]
        too_long = too_long_studies(changed, self.processor, self.target)
        if not too_long:
            return drawn
        check_context([study for study in examples if study["id"] in too_long], self.processor, self.target)
        return [
            Shown.unchanged(study, self.target) if study["id"] in too_long else each
            for study, each in zip(examples, drawn, strict=True)
        ]

    def _prompt(self, study: dict[str, Any]) -> str:
        views = study["views"]
        prompt = self.processor.build_prompt(len(views), views, study["indication"], study["comparison"], fit=False)
        if self.text_only:  # without images, the processor leaves placeholders as they are
            prompt = prompt.replace(FINDING_TOKEN, FINDING_TOKEN * self.processor.num_finding_tokens)
        return prompt

    def _images(self, study: dict[str, Any]) -> list[Image.Image]:
        if self.features is not None:
            return [blank_image(self.processor)] * len(study["images"])
        return study["images"] if self.augmentation is None else self.augmentation(study)

    def _weights(self, completions: list[str], labels: torch.Tensor) -> torch.Tensor:
        """`[B, T]`, of use where `labels` are not -100."""
        weights = torch.ones(labels.shape)
        for row, completion in enumerate(completions):
            weights[row, labels[row] != -100] = finding_weights(
                completion, self.processor.tokenizer, self.finding_weight
            )
        return weights
