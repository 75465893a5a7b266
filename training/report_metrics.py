"""Metrics of generated validation reports, by which the best checkpoint can be chosen."""

from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import Trainer

from otdrg_hf.metrics import evaluate_reports
from otdrg_hf.modeling.processing_otdrg import OTDRGProcessor
from otdrg_hf.training.feature_cache import FeatureCache, generation_inputs

LOGGED = (
    "bleu_1",
    "bleu_4",
    "rouge_l",
    "cider",
    "ce14_micro_f1",
    "ce14_macro_f1",
    "ce14_example_f1",
    "ce13_micro_f1",
    "ce13_macro_f1",
    "ce5_micro_f1",
    "ce5_macro_f1",
)


class ReportMetrics:
    """
    Writes the reports of validation studies as at test time, with predicted labels and without sampling, and scores
    them as `otdrg evaluate` does (protocol `raw`, labels by the rules).

    Args:
        processor ([`OTDRGProcessor`]): Of the model that is trained.
        target (`str`): The column that is the reference.
        num_studies (`int`): How many of the first studies.
        max_new_tokens (`int`, *optional*, defaults to 256): Bound on a report's length.
        features ([`FeatureCache`], *optional*): Of the vision encoder, instead of images.
    """

    def __init__(
        self,
        processor: OTDRGProcessor,
        target: str,
        num_studies: int,
        max_new_tokens: int = 256,
        features: FeatureCache | None = None,
    ):
        self.processor, self.target, self.features = processor, target, features
        self.num_studies, self.max_new_tokens = num_studies, max_new_tokens

    def __call__(self, trainer: Trainer, studies) -> dict[str, float]:
        """The metrics of `LOGGED`, the same in every process; each writes its share of the reports."""
        studies = studies.select(range(min(self.num_studies, len(studies))))
        reports = self.write_reports(trainer, studies)
        metrics = evaluate_reports(reports, list(studies[self.target]), meteor=False)
        return {name: metrics[name] for name in LOGGED}

    @torch.no_grad()
    def write_reports(self, trainer: Trainer, studies) -> list[str]:
        """A report of each study, in their order."""
        accelerator, size = trainer.accelerator, trainer.args.per_device_eval_batch_size
        world, rank = accelerator.num_processes, accelerator.process_index
        # Every process gets as many studies as the others; those that make up the number are written twice.
        share = [position % len(studies) for position in range(rank, len(studies) + -len(studies) % world, world)]
        batches = [share[start : start + size] for start in range(0, len(share), size)]
        hidden = trainer.args.disable_tqdm or not trainer.is_world_process_zero()
        parts = []
        for batch in tqdm(batches, desc="Writing reports", unit="batch", leave=False, disable=hidden):
            parts.append(self._generate(trainer, [studies[index] for index in batch]))
        longest = max(part.shape[1] for part in parts)
        padding = self.processor.tokenizer.pad_token_id
        tokens = torch.cat([F.pad(part, (0, longest - part.shape[1]), value=padding) for part in parts])  # [share, T]
        tokens = accelerator.pad_across_processes(tokens, dim=1, pad_index=padding)
        positions = accelerator.gather(torch.tensor(share, device=tokens.device)).tolist()
        texts = self.processor.batch_decode(accelerator.gather(tokens), skip_special_tokens=True)
        written = dict(zip(positions, texts, strict=True))
        return [written[index].strip() for index in range(len(studies))]

    def _generate(self, trainer: Trainer, batch: list[dict[str, Any]]) -> torch.Tensor:
        """New tokens `[B, T]` of a batch of studies."""
        inputs = generation_inputs(self.processor, batch, self.features)
        inputs = {name: value.to(trainer.args.device) for name, value in inputs.items()}
        # The model itself: a wrapper for distributed training cannot generate.
        model = trainer.model.eval()
        options = {"do_sample": False, "use_cache": True, "max_new_tokens": self._room(inputs["attention_mask"])}
        if isinstance(model, FSDPModule):
            # generate encodes images outside of the forward that FSDP2 gathers weights for, and adapters pass it by.
            # What is gathered at each layer is gathered by all: transformers sees to that (synced_gpus).
            model.unshard()
        with trainer.compute_loss_context_manager():
            sequences = model.generate(**inputs, **options)
        if isinstance(model, FSDPModule):
            model.reshard()
        return sequences[:, inputs["input_ids"].shape[1] :]

    def _room(self, attention_mask: torch.Tensor) -> int:
        """Tokens that reports may have: prompts `[B, T]` and reports have to fit in the LLM's context."""
        context = self.processor.context_length
        longest = int(attention_mask.sum(-1).max())
        return self.max_new_tokens if context is None else min(self.max_new_tokens, context - longest)
