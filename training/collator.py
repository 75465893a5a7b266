"""Batches of studies for the trainer: prompt and report as TRL does it, and the disease labels beside them."""

from typing import Any

import torch
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from otdrg_hf.modeling.processing_otdrg import OTDRGProcessor


class StudyCollator(DataCollatorForVisionLanguageModeling):
    """
    Collates rows of `load_study_dataset` into model inputs with `labels` on the report alone.

    Args:
        processor ([`OTDRGProcessor`]): Builds prompts and pixels.
        target (`str`): The column that is the report.
    """

    def __init__(self, processor: OTDRGProcessor, target: str = "report"):
        super().__init__(processor=processor, completion_only_loss=True)
        self.target = target

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        build = self.processor.build_prompt
        rows = [
            {
                "images": study["images"],
                "prompt": build(len(study["images"]), study["views"], study["indication"], study["comparison"]),
                "completion": self.processor.build_completion(study[self.target]),
            }
            for study in examples
        ]
        batch = super().torch_call(rows)
        batch["disease_labels"] = self.processor.encode_labels([study["disease_labels"] for study in examples])
        return batch
