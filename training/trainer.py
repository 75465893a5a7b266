"""TRL's `SFTTrainer` with OTDRG's three losses, each logged apart, and labels predicted in evaluation."""

from typing import Any

import torch
from trl import SFTTrainer

from otdrg_hf.data.schema import STUDY_COLUMNS
from otdrg_hf.modeling.alignment_otdrg import disease_loss


class OTDRGTrainer(SFTTrainer):
    """
    Args:
        stage (`str`): `"align"`, `"finetune"` or `"joint"`; in `"align"` the LLM is not even run.
        frozen_modules (`list[nn.Module]`): Kept in evaluation mode, batch-norm statistics and all.
        args, kwargs: Of [`~trl.SFTTrainer`].
    """

    _tag_names = ["otdrg", "trl", "sft"]

    def __init__(self, *args, stage: str, frozen_modules: list, **kwargs):
        self.stage, self.frozen_modules = stage, frozen_modules
        super().__init__(*args, **kwargs)

    def _set_signature_columns_if_needed(self):
        # TRL keeps only the columns that its own collator reads, which drops the disease labels.
        self._signature_columns = list(STUDY_COLUMNS)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """LM, OT and disease loss of a batch. In evaluation the prompt holds predicted labels, as at test time."""
        training = self.model.training
        inputs = dict(inputs)
        if self.stage == "align":
            inputs = {key: inputs[key] for key in ("pixel_values", "view_mask", "disease_labels")}
        if training:
            for module in self.frozen_modules:
                module.eval()
        known = inputs["disease_labels"] if training else inputs.pop("disease_labels")
        # TRL's own compute_loss calls the language model directly; the forward of the whole model is meant here.
        outputs = model(**inputs, skip_logits=True, use_cache=False, num_items_in_batch=num_items_in_batch)
        if not training:
            outputs.disease_loss = disease_loss(outputs.disease_logits, known).mean()
        self._log_terms(outputs, "train" if training else "eval", num_items_in_batch)
        loss = self._combine(outputs, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _combine(self, outputs, num_items_in_batch) -> torch.Tensor:
        config = self.model.config
        # The LM loss is a sum over this device divided by the tokens of all devices and steps, the others are means
        # over the studies of this step: each is brought to the mean that DDP and the accumulation then take.
        steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
        loss = config.disease_loss_weight * outputs.disease_loss / steps
        if outputs.ot_loss is not None:
            loss = loss + config.ot_loss_weight * outputs.ot_loss / steps
        if outputs.lm_loss is not None:
            share_tokens = self.args.average_tokens_across_devices and num_items_in_batch is not None
            loss = loss + outputs.lm_loss * (self.accelerator.num_processes if share_tokens else 1)
        return loss

    def _log_terms(self, outputs, mode: str, num_items_in_batch):
        scale = {"lm_loss": self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1}
        for name in ("lm_loss", "ot_loss", "disease_loss"):
            term = getattr(outputs, name)
            if term is not None:
                mean = self.accelerator.gather_for_metrics(term.detach() * scale.get(name, 1)).mean()
                self._metrics[mode][name].append(mean.item())

    def prediction_step(self, model, inputs, prediction_loss_only: bool, ignore_keys: list[str] | None = None):
        """Gives `compute_metrics` the disease logits and labels instead of token logits."""
        inputs: dict[str, Any] = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss, None, None
        return loss, outputs.disease_logits, inputs["disease_labels"]
