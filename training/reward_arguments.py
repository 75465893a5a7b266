"""The arguments of clinical-reward training, besides TRL's `GRPOConfig` and `ModelConfig`, and what is refused."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from trl import GRPOConfig, ModelConfig

from otdrg_hf.training.arguments import StudyArguments
from otdrg_hf.training.checkpoints import is_complete
from otdrg_hf.training.memory_estimate import sharding
from otdrg_hf.training.options import check_choices

DEFAULT_REWARDS = {"clinical": 1.0, "rouge_l": 0.5, "length": 0.1, "no_repetition": 0.1}
# Options of TRL's trainer that this training does not use: the value that says what is done anyway, and why.
ONLY = {
    "use_vllm": (False, "vLLM does not run OTDRG"),
    "use_transformers_continuous_batching": (False, "it takes no images"),
    "top_p": (1.0, "samples come from the whole distribution, which the loss is about"),
    "top_k": (0, "samples come from the whole distribution, which the loss is about"),
    "min_p": (None, "samples come from the whole distribution, which the loss is about"),
    "repetition_penalty": (1.0, "samples come from the distribution that the loss is about; see no_repetition"),
    "generation_kwargs": (None, "see temperature and max_completion_length"),
    "reward_weights": (None, "weights are those of rewards"),
    "multi_objective_aggregation": ("sum_then_normalize", "each reward is normalised over its group, then weighted"),
    "scale_rewards": ("group", "each reward is normalised over its group, then weighted"),
    "sync_ref_model": (False, "the reference is the checkpoint that the run started from"),
    "entropy_coef": (0.0, "beta keeps the policy near the reference"),
    "use_adaptive_entropy": (False, "beta keeps the policy near the reference"),
    "cast_lm_head_to_fp32": (False, "log-probabilities are computed in fp32 anyway"),
    "log_completions": (False, "reports of training studies are not written to files"),
    "push_to_hub": (False, "use otdrg push after training, which checks what the data allow"),
    "load_best_model_at_end": (False, "see watch for what a checkpoint is worth"),
    "fsdp": (None, "a policy that is spread over devices cannot write reports here"),
    "deepspeed": (None, "a policy that is spread over devices cannot write reports here"),
    "use_liger_kernel": (False, "Liger has no kernels for OTDRG"),
    "trust_remote_code": (False, "backbones are those that transformers knows"),
}


@dataclass
class RewardArguments(StudyArguments):
    """The studies, the rewards and what is watched meanwhile; see training/recipes/*_grpo.yaml for complete files."""

    stage: Literal["reward"] = field(default="reward", metadata={"help": "Always 'reward'."})
    rewards: dict[str, Any] | str | None = field(
        default_factory=lambda: dict(DEFAULT_REWARDS),
        metadata={
            "help": "Weight of each reward: clinical, head_agreement, laterality, rouge_l, bleu_2, length, "
            "no_repetition, or module:function of one of your own."
        },
    )
    reward: list[str] = field(
        default_factory=list, metadata={"help": "module:function of further rewards, each of weight 1."}
    )
    recall_emphasis: float = field(
        default=1.0,
        metadata={"help": "Beta of the F-beta of the reward 'clinical': above 1 for recall, below for precision."},
    )
    rare_label_power: float = field(
        default=0.5,
        metadata={"help": "The reward 'clinical' weights a finding by its prevalence to the power of minus this."},
    )
    watch: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Datasets to score before, during and after, besides the validation studies: DATASET, "
            "DATASET:SPLIT or DATASET:SPLIT:SECTION (split: test; section: target)."
        },
    )
    watch_studies: int = field(default=300, metadata={"help": "How many studies to watch of each dataset."})
    min_distinct_share: float = field(
        default=0.1, metadata={"help": "Stop where fewer of the sampled reports than this share are distinct."}
    )
    min_entropy_share: float = field(
        default=0.1, metadata={"help": "Stop where the entropy falls below this share of what it started from."}
    )

    def __post_init__(self):
        if isinstance(self.rewards, str):
            try:
                self.rewards = json.loads(self.rewards)
            except json.JSONDecodeError as error:
                raise ValueError(f"--rewards must be JSON, such as '{{\"clinical\": 1}}': {error}.") from None
        super().__post_init__()
        if not isinstance(self.rewards, (dict, type(None))):
            raise ValueError(f"--rewards must be a mapping of names to weights, got {self.rewards!r}.")
        self.rewards = {**(self.rewards or {}), **dict.fromkeys(self.reward, 1.0)}
        for name, weight in self.rewards.items():
            if isinstance(weight, bool) or not isinstance(weight, (int, float)):
                raise ValueError(f"The weight of the reward {name!r} is {weight!r}: give a number.")
        if not any(self.rewards.values()):
            raise ValueError("rewards names none with a weight other than 0: there is nothing to learn from.")
        if not self.recall_emphasis > 0:
            raise ValueError(f"--recall_emphasis is {self.recall_emphasis}: give a number above 0.")
        if self.watch_studies < 1:
            raise ValueError(f"--watch_studies is {self.watch_studies}: give 1 or more.")
        for name in ("min_distinct_share", "min_entropy_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name} is {getattr(self, name)}: give a share from 0 to 1.")


def check_reward_options(args: RewardArguments, training_args: GRPOConfig, model_args: ModelConfig) -> None:
    """
    Refuses options that would be dropped or would stop a run after its start.

    Raises:
        ValueError: in one line that names the option.
    """
    for holder in (args, training_args, model_args):
        check_choices(holder)
    if not model_args.model_name_or_path:
        raise ValueError("model_name_or_path is missing: rewards train a model that already writes reports.")
    for name, (value, reason) in ONLY.items():
        given = getattr(training_args if hasattr(training_args, name) else model_args, name, value)
        if given != value and (given or value):
            raise ValueError(f"{name} {given!r} is not done here: {reason}.")
    if training_args.eval_strategy != IntervalStrategy.NO or training_args.eval_on_start:
        raise ValueError("eval_strategy is not used here: the studies of watch are scored at each save.")
    if not training_args.temperature > 0:
        raise ValueError(f"temperature is {training_args.temperature}: samples are drawn at one above 0.")
    if training_args.beta < 0:
        raise ValueError(f"beta is {training_args.beta}: give 0, or the weight of the distance to the reference.")
    if (training_args.max_completion_length or 0) < 1:
        raise ValueError(f"max_completion_length is {training_args.max_completion_length}: give 1 or more tokens.")
    per_process = training_args.per_device_train_batch_size * training_args.steps_per_generation
    if per_process % training_args.num_generations:
        raise ValueError(
            f"per_device_train_batch_size x steps_per_generation is {per_process}, which is not a multiple of "
            f"num_generations, {training_args.num_generations}: the samples of a study stay in one process."
        )
    how, shared = sharding()
    if shared:
        raise ValueError(f"{how} spreads a policy over devices, which then cannot write reports: use multi_gpu.yaml.")
    _check_saves(training_args)
    checkpoint = training_args.resume_from_checkpoint
    if checkpoint is not None and not is_complete(checkpoint):
        raise ValueError(f"resume_from_checkpoint {checkpoint!r} is not a complete checkpoint: give the folder of one.")


def _check_saves(training_args: GRPOConfig) -> None:
    """A run resumes where it was interrupted only if the samples of a rollout were all used by then."""
    used_in = training_args.steps_per_generation * training_args.num_iterations
    steps = used_in / training_args.gradient_accumulation_steps
    if training_args.save_strategy != SaveStrategy.STEPS or steps <= 1:
        return
    if training_args.save_steps <= 0 or training_args.save_steps % steps:
        raise ValueError(
            f"save_steps is {training_args.save_steps}: give a multiple of {steps:g}, the steps that use a rollout, so "
            "that an interrupted run can be resumed."
        )
