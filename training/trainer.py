"""TRL's `SFTTrainer` with OTDRG's three losses, each logged apart, and labels predicted in evaluation."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate.utils import is_peft_model
from datasets import Dataset
from torch.utils.data import Sampler, SequentialSampler
from transformers import TrainerCallback
from trl import SFTTrainer

from otdrg_hf.data.schema import STUDY_COLUMNS
from otdrg_hf.modeling.losses_otdrg import weighted_sum
from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration, OTDRGStudyFeatures
from otdrg_hf.modeling.vision_otdrg import POSITION_SIZE
from otdrg_hf.training.adapters import train_in_fp32
from otdrg_hf.training.report_metrics import ReportMetrics

# Batches that are sorted together: enough for little padding, few enough for batches that differ from epoch to epoch.
BATCHES_PER_BUCKET = 50
CHARACTERS_PER_TOKEN = 4


class StudyTrainerMixin:
    """What trainers of studies share, whatever they optimise: what is loaded, and what is never sent or written."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        train_in_fp32(self.model)

    def create_model_card(self, *args, **kwargs):
        """Nothing: the card is written at the end, of what the run records, and not at each checkpoint."""

    def _send_telemetry(self):
        """Nothing: a run on patients' images is not reported to anybody."""

    def _run_epoch(self, *args, **kwargs):
        # The trainer asks whether it is done after a step: a finished run, started again, would take one more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return None
        return super()._run_epoch(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None):
        model = self.model if model is None else model
        if not isinstance(model, OTDRGForConditionalGeneration):
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        # Some backbones are saved under older names than their layers have. from_pretrained knows both, the trainer
        # would leave such layers as they are with no more than a warning.
        loaded = type(model).from_pretrained(resume_from_checkpoint, dtype=model.dtype)
        model.load_state_dict(loaded.state_dict())


class OTDRGTrainer(StudyTrainerMixin, SFTTrainer):
    """
    Args:
        stage (`str`):
            `"warmup"`, `"align"`, `"finetune"` or `"joint"`; in `"warmup"` nothing but the LLM and the label tokens is
            run, in `"align"` all but these.
        frozen_modules (`list[nn.Module]`): Kept in evaluation mode, batch-norm statistics and all.
        report_metrics ([`ReportMetrics`], *optional*): Metrics of generated reports to add to each evaluation.
        train_collator (*optional*): Of training batches alone. Default: `data_collator`.
        learning_rates (`dict[str, float | None]`, *optional*):
            Of the parameters whose name holds a key; `None` is `args.learning_rate`.
        args, kwargs: Of [`~trl.SFTTrainer`].
    """

    _tag_names = ["otdrg", "trl", "sft"]

    def __init__(
        self,
        *args,
        stage: str,
        frozen_modules: list,
        report_metrics: ReportMetrics | None = None,
        train_collator=None,
        learning_rates: dict[str, float | None] | None = None,
        **kwargs,
    ):
        self.stage, self.frozen_modules, self.report_metrics = stage, frozen_modules, report_metrics
        self.train_collator = train_collator
        self.learning_rates = {part: rate for part, rate in (learning_rates or {}).items() if rate is not None}
        super().__init__(*args, **kwargs)
        for draws in [] if train_collator is None else train_collator.draws:
            self.add_callback(draws)
        if is_peft_model(self.model):
            # peft's own card names the base by a path of this machine.
            self.model.create_or_update_model_card = lambda output_dir: None
        if self.args.torch_compile:
            # The LM loss uses supervised positions alone, whose number differs from batch to batch.
            torch._dynamo.config.capture_dynamic_output_shape_ops = True

    def _set_signature_columns_if_needed(self):
        # TRL keeps only the columns that its own collator reads, which drops the disease labels.
        self._signature_columns = list(STUDY_COLUMNS)

    def get_train_dataloader(self):
        evaluating = self.data_collator
        self.data_collator = self.train_collator or evaluating
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = evaluating

    def create_optimizer(self, model=None):
        """That of the trainer, with its groups divided by learning rate."""
        optimizer = super().create_optimizer(model)
        names = {parameter: name for name, parameter in (model or self.model).named_parameters()}
        for group in list(optimizer.param_groups):
            for part, rate in self.learning_rates.items():
                apart = [parameter for parameter in group["params"] if part in names[parameter]]
                kept = [parameter for parameter in group["params"] if part not in names[parameter]]
                if apart and kept:
                    group["params"] = kept
                    optimizer.add_param_group({**group, "params": apart, "lr": rate})
                elif apart:
                    group["lr"] = rate
        return optimizer

    def _get_train_sampler(self, train_dataset=None):
        studies = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        # The trainer's own counts `input_ids`, which are not there before a batch is collated.
        lengths = study_lengths(studies, self.data_collator.target, self.processing_class.num_image_tokens)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        buckets = LengthBuckets(lengths, self.args.train_batch_size * self.args.world_size, seed)
        self.add_callback(buckets)
        return buckets

    def _get_eval_sampler(self, eval_dataset):
        # Whatever the order of training: the trainer's own would count `input_ids` here, too.
        if self.args.train_sampling_strategy == "group_by_length":
            return SequentialSampler(eval_dataset)
        return super()._get_eval_sampler(eval_dataset)

    def _load_best_model(self):
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        if sharded or not isinstance(self.model, OTDRGForConditionalGeneration):
            return super()._load_best_model()
        # For the same reason as above: those layers would keep what the last step left in them.
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def evaluation_loop(self, dataloader, *args, metric_key_prefix: str = "eval", **kwargs):
        """That of the trainer, with metrics of the reports, by which the best checkpoint can be chosen."""
        if not metric_key_prefix.startswith("eval"):
            kwargs["prediction_loss_only"] = False  # `predict` is asked for logits, whatever is evaluated
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        # `predict` comes here as well, to choose the thresholds: for that no report has to be written.
        if self.report_metrics is not None and metric_key_prefix.startswith("eval"):
            metrics = self.report_metrics(self, dataloader.dataset)
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """LM, OT and disease loss of a batch. In evaluation the prompt holds predicted labels, as at test time."""
        training = self.model.training
        if training:
            for module in self.frozen_modules:
                module.eval()
                for name, part in module.named_modules():
                    part.training = "lora_dropout" in name  # of an adapter, which is trained
        # TRL's own compute_loss calls the language model directly; the forward of the whole model is meant here.
        options = {"skip_logits": True, "use_cache": False, "num_items_in_batch": num_items_in_batch}
        outputs_of = self._outputs_of_texts if self.stage == "warmup" else self._outputs_of_studies
        with self._frozen_blocks_skipped(inputs):
            outputs = outputs_of(model, inputs, options)
        terms = self._global_terms(outputs, num_items_in_batch)
        for name, term in terms.items():
            mean = self.accelerator.gather_for_metrics(term.detach()).mean()
            self._metrics["train" if training else "eval"][name].append(mean.item())
        loss = self._combine(terms, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _frozen_blocks_skipped(self, inputs: dict):
        """A context in which the encoder starts where its frozen blocks have come to, where a cache holds that."""
        if "block_inputs" not in inputs:
            return nullcontext()
        hidden = inputs["block_inputs"][inputs["view_mask"].bool()]  # [real views, tokens, c]
        return self.data_collator.features.blocks.skipped(hidden)

    def _outputs_of_studies(self, model, inputs: dict, options: dict):
        keys = ("pixel_values", "vision_features", "view_mask", "disease_labels", "other_labels")
        study = {key: inputs[key] for key in keys if key in inputs}
        inputs = study if self.stage == "align" else dict(inputs)
        if self.model.training:
            return model(**inputs, **options)
        # Without input_ids the LLM is left out: true labels reach the losses that need them, not the report.
        outputs = model(**study, **options)
        if self.stage != "align":
            del inputs["disease_labels"]
            outputs.lm_loss = model(**inputs, **options).lm_loss
        return outputs

    def _outputs_of_texts(self, model, inputs: dict, options: dict):
        """Of reports that are written from their labels alone."""
        kept = ("input_ids", "attention_mask", "labels", "label_weights")
        features = label_features(self.model, inputs.get("shown_labels", inputs["disease_labels"]))
        texts = {key: inputs[key] for key in kept if key in inputs}
        return model(**texts, mm_encoder_outputs={"image": features}, **options)

    def _global_terms(self, outputs, num_items_in_batch) -> dict[str, torch.Tensor]:
        """The losses, each such that its mean over steps of accumulation and devices is that of the whole batch."""
        terms = {name: getattr(outputs, name) for name in ("lm_loss", "ot_loss", "disease_loss")}
        terms = {name: term for name, term in terms.items() if term is not None}
        # OT and disease loss are means over the studies of this step. The LM loss is a sum over them, divided by the
        # tokens of all steps and, where they are counted together, of all devices.
        if num_items_in_batch is not None and "lm_loss" in terms:
            devices = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
            terms["lm_loss"] = terms["lm_loss"] * (self.current_gradient_accumulation_steps * devices)
        return terms

    def _combine(self, terms: dict[str, torch.Tensor], num_items_in_batch) -> torch.Tensor:
        loss = weighted_sum(self.model.config, **terms)
        # Given the number of items, the trainer leaves the mean over the steps of accumulation to the loss.
        return loss if num_items_in_batch is None else loss / self.current_gradient_accumulation_steps

    def prediction_step(self, model, inputs, prediction_loss_only: bool, ignore_keys: list[str] | None = None):
        """Gives `compute_metrics` the disease logits and labels instead of token logits."""
        inputs: dict[str, Any] = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss, None, None
        return loss, outputs.disease_logits, inputs["disease_labels"]


def label_features(model: OTDRGForConditionalGeneration, states: torch.Tensor) -> OTDRGStudyFeatures:
    """
    What the LLM is shown of studies without images: their labels in words, and label tokens that say nothing of what
    was seen, as those of labels that are overridden.

    Args:
        states (`torch.Tensor` of shape `[B, m]`): State codes of all labels.
    """
    body, (batch, m) = model.model, states.shape
    _, phrases = body.encode_labels()  # [m, states, d]
    embeds = body.finding_embeds(
        phrases,
        states,
        overridden=torch.ones_like(states, dtype=torch.bool),
        label_patches=phrases.new_zeros(batch, m, phrases.shape[-1]),
        positions=phrases.new_zeros(batch, m, POSITION_SIZE),
    )
    # No image: a single view, which is padding.
    return OTDRGStudyFeatures(
        image_embeds=embeds.new_zeros(batch, 1, 1, embeds.shape[-1]),
        view_mask=states.new_zeros(batch, 1, dtype=torch.bool),
        finding_embeds=embeds,
    )


def study_lengths(studies: Dataset, target: str, tokens_per_view: int) -> list[int]:
    """Tokens of each study, roughly, from the number of its views and the characters of its texts; no image is read."""
    texts = studies.select_columns(["views", "indication", "comparison", target]).with_format(None)
    lengths = []
    for row in texts:
        characters = sum(len(row[name] or "") for name in {"indication", "comparison", target})
        lengths.append(len(row["views"]) * tokens_per_view + characters // CHARACTERS_PER_TOKEN)
    return lengths


class LengthBuckets(Sampler[int], TrainerCallback):
    """
    All studies in an order in which those of a batch are of similar length; batches come in random order.

    The order depends on the seed and the epoch alone, so that an interrupted run resumes exactly in the middle of
    an epoch, with any number of processes.

    Args:
        lengths (`Sequence[int]`): Of each study.
        batch_size (`int`): Of the batches of all processes together.
        seed (`int`): Of the orders.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int):
        self.lengths, self.batch_size, self.seed = torch.tensor(lengths), batch_size, seed
        self.epoch = 0

    def on_epoch_begin(self, args, state, control, **kwargs):
        # Not `set_epoch`: a resumed epoch of several processes has more wrappers than accelerate looks into.
        self.epoch = int(state.epoch or 0)

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self), generator=generator)
        buckets = order.split(self.batch_size * BATCHES_PER_BUCKET)
        ordered = torch.cat([bucket[self.lengths[bucket].argsort(descending=True, stable=True)] for bucket in buckets])
        batches = list(ordered.split(self.batch_size))
        # The one that is not full comes last, or the others would be cut differently.
        last = batches.pop() if len(batches[-1]) < self.batch_size else None
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[index].tolist()
        if last is not None:
            yield from last.tolist()
