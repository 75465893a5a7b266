"""LoRA, DoRA and QLoRA: which layers get an adapter, what is trained in full, and the base that it belongs to."""

import os
from collections.abc import Iterable
from dataclasses import replace

import torch
from accelerate import PartialState
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D
from trl import ModelConfig, get_peft_config

from otdrg_hf.modeling.backbones_otdrg import PROJECTORS
from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration
from otdrg_hf.modeling.processing_otdrg import OTDRGProcessor
from otdrg_hf.training.stages import reached_parameters

LANGUAGE, VISION = "model.language_model.", "model.vision_tower."


def adapter_config(
    model: OTDRGForConditionalGeneration,
    model_args: ModelConfig,
    stage: str,
    vision: bool = False,
    image_size: tuple[int, int] | None = None,
):
    """
    LoRA (DoRA with `use_dora`) on the linear layers of the language model; projectors, disease head and the layers of
    `lora_modules_to_save` trained in full.

    Args:
        vision (`bool`, *optional*, defaults to `False`): Adapt the linear layers of the vision encoder as well.
        image_size (`tuple[int, int]`, *optional*): Of the images, for encoders whose configuration does not say it.

    Returns:
        `peft.LoraConfig`, or `None` without `use_peft`.

    Raises:
        ValueError: for another stage than `"finetune"`, names of layers that the language model has not or that cannot
            be trained apart, or an encoder without linear layers.
    """
    if not model_args.use_peft:
        if vision or is_quantized(model_args):
            raise ValueError(
                "lora_vision, load_in_4bit and load_in_8bit go with use_peft: the weights stay as they are."
            )
        return None
    if stage != "finetune":
        raise ValueError(f"use_peft adapts the LLM in the stage 'finetune': leave it out of the stage {stage!r}.")
    # By full names: "q_proj" or "all-linear" would also hit what is trained in full. Conv1D is GPT-2's linear layer.
    linear = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    targets = [name for name in linear if name.startswith(LANGUAGE)]
    wanted = model_args.lora_target_modules
    if wanted not in (None, "all-linear"):
        wanted = [wanted] if isinstance(wanted, str) else wanted
        targets = [name for name in targets if name.split(".")[-1] in wanted]
        if not targets:
            raise ValueError(f"lora_target_modules {wanted} names no linear layer of the language model.")
    if vision:
        targets += _vision_targets(model, linear, image_size)
    layers = {name: module for name, module in model.named_modules() if name.startswith(LANGUAGE) or name == "lm_head"}
    full = _named("lora_modules_to_save", model_args.lora_modules_to_save, layers)
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if model.config.tie_word_embeddings and any(layers[name] in ends for name in full):
        raise ValueError(
            "lora_modules_to_save: the LLM's lm_head is its embeddings, and a copy of one would differ from the other. "
            "Leave both out, or train without use_peft."
        )
    weights = [name for name, _ in model.named_parameters() if name.startswith(LANGUAGE)]
    parameters = _named("lora_target_parameters", model_args.lora_target_parameters, weights) or None
    full += [f"model.{name}" for name in PROJECTORS]
    return get_peft_config(
        replace(model_args, lora_target_modules=targets, lora_target_parameters=parameters, lora_modules_to_save=full)
    )


def policy_adapter_config(model: OTDRGForConditionalGeneration, model_args: ModelConfig):
    """
    As [`adapter_config`], of a policy: nothing but the layers of the language model, all of which an adapter that is
    switched off gives back as they were.

    Raises:
        ValueError: as `adapter_config`, and for layers to train in full.
    """
    if model_args.use_peft and model_args.lora_modules_to_save:
        raise ValueError("lora_modules_to_save: a policy is its adapter alone, and no layer is trained in full.")
    config = adapter_config(model, model_args, "finetune")
    if config is not None:
        config.modules_to_save = None
    return config


def _named(option: str, wanted: str | list[str] | None, names: Iterable[str]) -> list[str]:
    """Those of `names` that are asked for by their ends, as peft does it, but of the language model alone."""
    found = []
    for end in [wanted] if isinstance(wanted, str) else wanted or []:
        if end in PROJECTORS:
            continue  # trained in full anyway
        named = [name for name in names if name == end or name.endswith(f".{end}")]
        if not named:
            raise ValueError(f"{option} {end!r} is nothing in the language model.")
        found += named
    return found


def _vision_targets(model: OTDRGForConditionalGeneration, linear: list[str], image_size) -> list[str]:
    tower = model.model.vision_tower
    frozen = [parameter for parameter in tower.parameters() if not parameter.requires_grad]
    tower.requires_grad_(True)
    reached = reached_parameters(model, image_size)
    for parameter in frozen:
        parameter.requires_grad_(False)
    names = [name for name in linear if name.startswith(VISION)]
    # An adapter on a pooler would never get a gradient and stall distributed training.
    names = [name for name in names if f"{name.removeprefix(VISION)}.weight" in reached]
    if not names:
        raise ValueError(f"lora_vision finds no linear layer in a {type(tower).__name__}: leave it out.")
    return names


def is_quantized(model_args: ModelConfig) -> bool:
    return bool(model_args.load_in_4bit or model_args.load_in_8bit)


def put_on_base(
    model: OTDRGForConditionalGeneration, processor: OTDRGProcessor, output_dir: str, model_args: ModelConfig
) -> OTDRGForConditionalGeneration:
    """
    Saves the model that an adapter will belong to as `output_dir/base`, and gives it back, quantised if asked for.

    The base is saved as it is: an adapter that was trained on a quantised model can be loaded, and merged, without
    bitsandbytes, and be loaded on it again with `quantization_config`.
    """
    # An adapter names its base by path, so the base has to be somewhere.
    base = os.path.join(output_dir, "base")
    state = PartialState()
    if state.is_main_process:
        model.save_pretrained(base)
        processor.save_pretrained(base)
    state.wait_for_everyone()
    if is_quantized(model_args):
        model = _quantized(base, model, model_args)
    model.name_or_path = base
    return model


def _quantized(base: str, model: OTDRGForConditionalGeneration, model_args: ModelConfig):
    """The language model in 4 or 8 bits, all else as it was: the projectors are trained, the head is sensitive."""
    keep = [f"model.{name}" for name in ("vision_tower", *PROJECTORS)]
    config = BitsAndBytesConfig(
        load_in_4bit=model_args.load_in_4bit,
        load_in_8bit=model_args.load_in_8bit,
        bnb_4bit_compute_dtype=torch.bfloat16 if torch.cuda.is_available() else model.dtype,
        bnb_4bit_quant_type=model_args.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=model_args.use_bnb_nested_quant,
        bnb_4bit_quant_storage=model_args.bnb_4bit_quant_storage,
        llm_int8_skip_modules=[*keep, "lm_head"],
    )
    attention = model.config._attn_implementation
    quantized = OTDRGForConditionalGeneration.from_pretrained(
        base,
        config=model.config,
        dtype=model.model.patch_projection.norm.weight.dtype,
        quantization_config=config,
        attn_implementation=attention,
        device_map={"": PartialState().device},
    )
    # One dtype is loaded, and frozen backbones may have another. What is packed has another shape.
    before = dict(model.named_parameters())
    for name, parameter in quantized.named_parameters():
        if parameter.shape == before[name].shape and parameter.is_floating_point():
            parameter.data = parameter.data.to(before[name].dtype)
    return quantized


def train_in_fp32(model: nn.Module) -> None:
    """
    Undoes what TRL does to a quantised model, which is to cast all that is trained to bf16: there a gain near 1 could
    not move at a learning rate of 1e-4. What is trained in full starts from its original again, which was not rounded.
    """
    if not (getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False)):
        return
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            for copy in module.modules_to_save.values():
                copy.load_state_dict(module.original_module.state_dict())
