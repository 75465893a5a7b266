"""`--dry_run true`: what a run would train, in how many steps and at what cost, without reading a weight."""

import math
import os
from statistics import mean

from trl import GRPOConfig, ModelConfig, SFTConfig

from otdrg_hf.training.adapters import adapter_config, policy_adapter_config
from otdrg_hf.training.arguments import StudyArguments
from otdrg_hf.training.memory_estimate import Step, memory, operations, sharding
from otdrg_hf.training.model_setup import apply_text_options, empty_model_and_processor
from otdrg_hf.training.stages import apply_stage, cast_backbones
from otdrg_hf.training.studies import check_context, sample_studies, study_tokens

# Of an A100's 312 TFLOP/s in bf16, what well-tuned training of this kind reaches.
REACHED = 0.4 * 312e12


def dry_run(args: StudyArguments, training_args: SFTConfig | GRPOConfig, model_args: ModelConfig) -> str:
    """
    The plan of a run, of either script, as lines of text.

    Raises:
        ValueError, OSError: as the run itself would, for a dataset, a backbone or a field that is not there.
    """
    num_studies, rows = sample_studies(args)
    if args.stage == "warmup":
        rows = [{**row, "views": []} for row in rows]
    model, processor = empty_model_and_processor(args, model_args, [row[args.target] for row in rows])
    apply_text_options(args, training_args, model, processor)
    size = processor.image_processor.size
    image_size = (size["height"], size["width"])
    apply_stage(model, args.stage, processor.label_prompt, image_size, args.freeze_vision, args.train_vision_blocks)
    if isinstance(training_args, GRPOConfig):
        config = policy_adapter_config(model, model_args)
    else:
        config = adapter_config(model, model_args, args.stage, args.lora_vision, image_size)
    cast_backbones(model, args.frozen_dtype, adapted=config is not None)
    if config is not None:
        from peft import get_peft_model

        model = get_peft_model(model, config)
    devices = int(os.environ.get("WORLD_SIZE", 1))
    lines = [
        "dry run: nothing is trained, and memory and time are estimates from shapes, not measurements",
        f"stage                 {args.stage}, {_family(model)}",
        *_parameter_lines(model),
    ]
    check_context(rows, processor, args.target)
    prompts, reports = zip(*(study_tokens(row, processor, args.target) for row in rows), strict=True)
    lines += _token_lines(prompts, reports, rows, model.config)
    steps, step_lines = _step_lines(training_args, num_studies, devices)
    step = _step(args, training_args, model_args, rows, prompts, reports)
    return "\n".join([*lines, *step_lines, *_cost_lines(model, step, training_args, steps, devices)])


def _family(model) -> str:
    config = model.config
    return f"{config.vision_config.model_type} + {config.text_config.model_type}"


def _parameter_lines(model) -> list[str]:
    sizes = {"trained": 0, "frozen": 0}
    for parameter in model.parameters():
        sizes["trained" if parameter.requires_grad else "frozen"] += parameter.numel()
    return [f"parameters {name:10} {size:,}" for name, size in sizes.items()]


def _token_lines(prompts, reports, rows, config) -> list[str]:
    views = mean(len(row["views"]) for row in rows)
    height, width = config.image_grid
    together = [prompt + report for prompt, report in zip(prompts, reports, strict=True)]
    return [
        f"tokens per study      {mean(together):.0f} (prompt {mean(prompts):.0f}, report {mean(reports):.0f}; longest "
        f"{max(together)}), in the first {len(rows)} studies",
        f"LLM's context         {f'{config.context_length:,}' if config.context_length else 'any number of'} tokens",
        f"patches per study     {views * height * width:.0f} ({views:.2f} views of {height} x {width}), "
        f"{config.image_seq_length} visual tokens per view",
    ]


def _step_lines(training_args, num_studies: int, devices: int) -> tuple[int, list[str]]:
    batch, accumulation = training_args.per_device_train_batch_size, training_args.gradient_accumulation_steps
    samples, uses, unit = 1, 1, "studies"
    if isinstance(training_args, GRPOConfig):
        samples, uses, unit = training_args.num_generations, training_args.num_iterations, "samples"
    per_epoch = math.ceil(math.ceil(num_studies * samples / (batch * devices)) / accumulation) * uses
    steps = (
        training_args.max_steps
        if training_args.max_steps > 0
        else math.ceil(training_args.num_train_epochs * per_epoch)
    )
    together = batch * devices * accumulation
    return steps, [
        f"studies               {num_studies:,}; {together} {unit} per step ({batch} x {devices} devices x "
        f"{accumulation})".replace(" studies per step", " per step"),
        f"steps                 {steps:,} ({per_epoch:,} per epoch)",
    ]


def _step(args, training_args, model_args, rows, prompts, reports) -> Step:
    bits = 4 if model_args.load_in_4bit else 8 if model_args.load_in_8bit else None
    return Step(
        studies=training_args.per_device_train_batch_size,
        views=mean(len(row["views"]) for row in rows),
        tokens=max(map(sum, zip(prompts, reports, strict=True))),  # a batch is as long as its longest study
        supervised=mean(reports),
        half_precision=bool(training_args.bf16 or training_args.fp16),
        checkpointing=bool(training_args.gradient_checkpointing),
        runs_llm=args.stage != "align",
        llm="full" if not model_args.use_peft else f"adapters{' with dropout' * (model_args.lora_dropout > 0)}",
        quantized_bits=bits,
    )


def _rollout_memory(model, step: Step, training_args) -> dict[str, float]:
    """Bytes of the reference and of the keys and values of the reports that are sampled together."""
    if not isinstance(training_args, GRPOConfig):
        return {}
    text = model.config.text_config
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    tokens = step.tokens - step.supervised + training_args.max_completion_length
    samples = training_args.per_device_train_batch_size * training_args.steps_per_generation
    per_value = 2 if step.half_precision else 4
    parts = {"rollout": 2 * text.num_hidden_layers * width * tokens * samples * per_value}
    if training_args.beta and step.llm == "full":
        trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
        parts["reference"] = sum(parameter.numel() * parameter.element_size() for parameter in trained)
    return parts


def _cost_lines(model, step: Step, training_args: SFTConfig, steps: int, devices: int) -> list[str]:
    parts = memory(model, step, devices) | _rollout_memory(model, step, training_args)
    listed = ", ".join(f"{name} {value / 2**30:.1f}" for name, value in parts.items())
    work = operations(model, step) * training_args.gradient_accumulation_steps
    hours = work * steps / REACHED / 3600
    return [
        f"memory per device     {sum(parts.values()) / 2**30:.1f} GiB, estimated, {sharding()[0]}: {listed}",
        f"work per step         {work / 1e12:.1f} TFLOP per device; {hours:.1f} h in all at {REACHED / 1e12:.0f} "
        "TFLOP/s (40 % of an A100), without evaluation",
    ]
