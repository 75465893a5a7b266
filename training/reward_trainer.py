"""TRL's `GRPOTrainer` for studies: they are encoded once, shared by the samples of a group and by the loss."""

import copy
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object, is_peft_model
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from otdrg_hf.files import write_json
from otdrg_hf.labeling import label_reports
from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration, OTDRGStudyFeatures
from otdrg_hf.modeling.processing_otdrg import OTDRGProcessor
from otdrg_hf.training.feature_cache import FeatureCache, generation_inputs
from otdrg_hf.training.rewards import Reward, call_reward, group_advantages, varying_groups
from otdrg_hf.training.rollout import Rollout, sample_reports, study_generators, token_log_probs
from otdrg_hf.training.trainer import StudyTrainerMixin

LEFT_OUT_FILE = "left_out.json"  # in each checkpoint
READERS = 8  # threads that read the images of a batch of studies


class OTDRGRewardTrainer(StudyTrainerMixin, GRPOTrainer):
    """
    TRL's losses, sampler, buffers and metrics, around a rollout and log-probabilities of its own: TRL's would encode
    the images of a study for each sample, and once more for each loss, without its view mask, and would let
    `<finding>` be sampled.

    Args:
        model ([`OTDRGForConditionalGeneration`]): The policy, frozen but for the language model.
        args ([`~trl.GRPOConfig`]): `reward_weights` are those of `rewards`.
        train_dataset (`Dataset`): Studies, with decoded images, or undecoded ones with `features`.
        rewards (`dict[str, Reward]`): See [`~training.rewards`].
        target (`str`): The column that is the reference.
        features ([`FeatureCache`], *optional*): Of the vision encoder, instead of images.
        peft_config (`PeftConfig`, *optional*): Of an adapter that is trained instead.
        kwargs: Of [`~trl.GRPOTrainer`].
    """

    _tag_names = ["otdrg", "trl", "grpo"]

    def __init__(
        self,
        model,
        args: GRPOConfig,
        train_dataset: Dataset,
        processing_class: OTDRGProcessor,
        rewards: dict[str, Reward],
        target: str = "report",
        features: FeatureCache | None = None,
        peft_config=None,
        **kwargs,
    ):
        self.rewards, self.target, self.features = rewards, target, features
        self.left_out = {"without variation": 0, "without reward": 0}
        # Before TRL changes the forward of the model; frozen weights are shared. TRL's own reference would be read once
        # more from where the policy came from, by a class that transformers does not have.
        beta, args.beta = args.beta, 0.0
        # Without its adapter, a model is its own reference.
        reference = None if not beta or peft_config is not None else _frozen_copy(model)
        super().__init__(
            model=model,
            args=args,
            reward_funcs=list(rewards.values()),
            train_dataset=train_dataset,
            processing_class=processing_class,
            peft_config=peft_config,
            **kwargs,
        )
        self.beta = self.args.beta = beta
        self.ref_model = None if reference is None else reference.to(self.accelerator.device)
        # A row of the dataset stands for it: TRL repeats rows for each sample, and images would be read as often.
        self._rows = Dataset.from_dict({"prompt": range(len(train_dataset))})
        self._rollout: Rollout | None = None
        self._study_rows: torch.Tensor | None = None  # of the samples of a step, in the features of the rollout
        if is_peft_model(self.model):
            self.model.create_or_update_model_card = lambda output_dir: None

    @property
    def body(self) -> OTDRGForConditionalGeneration:
        """The model itself, with whatever adapters it has."""
        return self.model.get_base_model() if is_peft_model(self.model) else self.model

    def get_train_dataloader(self):
        studies, self.train_dataset = self.train_dataset, self._rows
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset = studies

    def _generate_and_score_completions(self, inputs: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        """A rollout of the studies that TRL's sampler gives, each of which it repeats `num_generations` times."""
        group = self.num_generations
        numbers = [row["prompt"] for row in inputs]
        assert numbers == [number for number in numbers[::group] for _ in range(group)], "a group over two processes"
        with ThreadPoolExecutor(READERS) as readers:
            studies = list(readers.map(self.train_dataset.__getitem__, numbers[::group]))
        rollout = self._rollout = self._sample(studies)
        texts = self.processing_class.batch_decode(rollout.completion_ids, skip_special_tokens=True)
        completions = [text.strip() for text in texts]
        rewards = self._score(studies, completions, rollout)
        advantages, kept = self._advantages(rewards, rollout)
        mask = rollout.completion_mask * kept.unsqueeze(1)
        self._log_rollout(rollout, completions, rewards, kept)
        batch = {
            "prompt_ids": rollout.prompt_ids,
            "prompt_mask": rollout.prompt_mask,
            "completion_ids": rollout.completion_ids,
            "completion_mask": mask,
            "advantages": advantages,
            "old_per_token_logps": rollout.log_probs,
            "study": rollout.study,
            "num_items_in_batch": self.accelerator.gather(mask.sum()).sum(),
        }
        if self.beta:
            batch["ref_per_token_logps"] = self._reference_log_probs(rollout, mask)
        return batch

    def _sample(self, studies: Sequence[dict[str, Any]]) -> Rollout:
        inputs = generation_inputs(self.processing_class, studies, self.features)
        inputs = {name: value.to(self.accelerator.device) for name, value in inputs.items()}
        ids = [study["id"] for study in studies]
        generators = study_generators(ids, self.args.seed, self.state.global_step, self.accelerator.device)
        context = self.processing_class.context_length
        longest = int(inputs["attention_mask"].sum(-1).max())
        room = self.max_completion_length
        room = room if context is None else min(room, context - longest)
        self.model.eval()  # a model in training has no cache with gradient checkpointing
        try:
            with self.accelerator.autocast():
                return sample_reports(self.body, inputs, generators, self.num_generations, room, self.temperature)
        finally:
            self.model.train()

    def _score(self, studies, completions: list[str], rollout: Rollout) -> torch.Tensor:
        """`[N, k]`"""
        columns = reward_columns(studies, self.target, completions, self.num_generations)
        columns["shown"] = rollout.features.disease_states[rollout.study].cpu().numpy()
        columns["trainer_state"] = self.state
        rewards = [call_reward(name, reward, columns) for name, reward in self.rewards.items()]
        return torch.stack(rewards, 1).to(self.accelerator.device)

    def _advantages(self, rewards: torch.Tensor, rollout: Rollout) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each sample, and whether it has a part in the step."""
        weights = self.reward_weights.to(rewards.device)
        advantages, scored, varies = group_advantages(rewards, weights, self.num_generations)
        kept = scored & varies
        if self.mask_truncated_completions:
            kept = kept & rollout.ended
        counts = torch.stack([(scored & ~varies).sum(), (~scored).sum()])
        counts = self.accelerator.reduce(counts, "sum").tolist()
        for name, count in zip(self.left_out, counts, strict=True):
            self.left_out[name] += count
        return advantages, kept

    def _reference_log_probs(self, rollout: Rollout, mask: torch.Tensor) -> torch.Tensor:
        model = self.ref_model or self.model
        without_adapter = nullcontext() if self.ref_model is not None else self.model.disable_adapter()
        parts = []
        with torch.no_grad(), without_adapter:
            for rows in torch.arange(len(mask), device=mask.device).split(self.args.per_device_train_batch_size):
                self._study_rows = rollout.study[rows]
                parts.append(
                    self._get_per_token_logps_and_entropies(
                        model,
                        torch.cat([rollout.prompt_ids[rows], rollout.completion_ids[rows]], 1),
                        torch.cat([rollout.prompt_mask[rows], mask[rows]], 1),
                        mask.shape[1],
                    )[0]
                )
        return torch.cat(parts)

    def _compute_loss(self, model, inputs):
        self._study_rows = inputs["study"]
        loss = super()._compute_loss(model, inputs)
        if not self.accelerator.gather(inputs["completion_mask"].sum()).any():
            self._forget_unmeasured("train" if self.model.training else "eval")
        return loss

    def _forget_unmeasured(self, mode: str) -> None:
        """Where no sample has a part, TRL logs 0, which would pass for a policy that has no entropy left."""
        for name in ("entropy", "kl"):
            values = self._metrics[mode].pop(name, [])[:-1]
            if values:
                self._metrics[mode][name] = values

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, **unused
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """As TRL's, `[N, T]` each; samples that have no part in the step cost nothing, and have 0."""
        kept = attention_mask[:, -logits_to_keep:].any(1)
        # A step without any sample takes one, which its mask leaves out: every process has to go back through it.
        rows = kept.nonzero().squeeze(1) if kept.any() else torch.zeros_like(input_ids[:1, 0])
        features: OTDRGStudyFeatures = self._rollout.features.of_studies(self._study_rows[rows])
        body = self.body if model is not self.ref_model else self.ref_model
        with self.accelerator.autocast():
            of_rows = token_log_probs(
                model, body, input_ids[rows], attention_mask[rows], logits_to_keep, features, self.temperature
            )
        shape = (len(input_ids), logits_to_keep)
        log_probs, entropies = (values.new_zeros(shape).index_copy(0, rows, values) for values in of_rows)
        return log_probs, entropies, None

    def _save_checkpoint(self, model, trial):
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial), f"checkpoint-{self.state.global_step}")
            write_json(folder / LEFT_OUT_FILE, self.left_out)

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and Path(checkpoint, LEFT_OUT_FILE).is_file():
            self.left_out = json.loads(Path(checkpoint, LEFT_OUT_FILE).read_text(encoding="utf-8"))

    def _log_rollout(self, rollout: Rollout, completions: list[str], rewards: torch.Tensor, kept: torch.Tensor) -> None:
        gathered = self.accelerator.gather(rewards)  # [N, k]
        values = {f"rewards/{name}": column.nanmean() for name, column in zip(self.rewards, gathered.T, strict=True)}
        shares = varying_groups(gathered, self.num_generations).float().mean(0)  # [k]
        values |= {f"rewards/{name}/varies": share for name, share in zip(self.rewards, shares, strict=True)}
        values["reward"] = (gathered.nanmean(0) * self.reward_weights.to(gathered.device)).nansum()
        lengths = self.accelerator.gather(rollout.completion_mask.sum(1).float())
        values["completions/mean_length"] = lengths.mean()
        values["completions/truncated"] = self.accelerator.gather((~rollout.ended).float()).mean()
        values["left_out"] = self.accelerator.gather((~kept).float()).mean()
        texts = gather_object(completions)
        values["distinct"] = torch.tensor(len(set(texts)) / len(texts))
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name, value in values.items():
            metrics[name].append(value.item())


class CollapseStop(TrainerCallback):
    """
    Stops a policy that has collapsed: one report for all studies, or no entropy left to sample from.

    Args:
        min_distinct_share (`float`): Stop where fewer of the sampled reports than this share are distinct.
        min_entropy_share (`float`): Stop where the entropy falls below this share of the first that was logged.

    Attributes:
        reason (`str`, *optional*): Why the run was stopped.
    """

    def __init__(self, min_distinct_share: float, min_entropy_share: float):
        self.min_distinct_share, self.min_entropy_share = min_distinct_share, min_entropy_share
        self.reason: str | None = None

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or "distinct" not in logs or "entropy" not in logs:
            return
        first = next(entry["entropy"] for entry in state.log_history if "entropy" in entry)
        if logs["distinct"] < self.min_distinct_share:
            self.reason = f"only {logs['distinct']:.1%} of the sampled reports are distinct"
        elif logs["entropy"] < self.min_entropy_share * first:
            self.reason = f"the entropy fell from {first:.3f} to {logs['entropy']:.3f}"
        if self.reason:
            control.should_training_stop, control.should_save = True, False


def reward_columns(
    studies: Sequence[dict[str, Any]], target: str, completions: Sequence[str], group: int = 1
) -> dict[str, Any]:
    """
    What rewards are called with, of N completions, `group` for each study; `shown` and `trainer_state` come on top.

    Returns:
        `dict`: `prompts` (empty), `completions`, `references` (also as `ground_truth`), and `written` and `labels`, the
        states `[N, 14]` that the rules read off completions and references.
    """
    references = [study[target] for study in studies for _ in range(group)]
    labels = label_reports([study[target] for study in studies])
    return {
        "prompts": [""] * len(completions),
        "completions": list(completions),
        "references": references,
        "ground_truth": references,
        "written": np.asarray(label_reports(list(completions))),
        "labels": np.repeat(np.asarray(labels), group, axis=0),
    }


def _frozen_copy(model: OTDRGForConditionalGeneration) -> OTDRGForConditionalGeneration:
    """The reference: a copy that shares all that is not trained."""
    shared = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    return copy.deepcopy(model, shared).requires_grad_(False).eval()
