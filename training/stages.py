"""What each training stage trains and what it freezes."""

from dataclasses import replace

import torch
from torch import nn
from trl import ModelConfig, get_peft_config

from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration

FROZEN = {
    "align": ("model.language_model", "lm_head", "model.fusion"),
    "finetune": ("model.vision_tower",),
    "joint": (),
}
BRIDGES = ("patch_projection", "label_encoder", "alignment", "disease_head", "fusion")


def apply_stage(model: OTDRGForConditionalGeneration, stage: str, label_prompt: bool = True) -> list[nn.Module]:
    """
    Freezes what the stage does not train, and what cannot be trained because no output depends on it and which would
    stall distributed training: poolers and the like of the vision encoder, label tokens that no prompt shows.

    Returns:
        `list[nn.Module]`: The frozen modules, to be kept in evaluation mode.
    """
    model.requires_grad_(True)
    unprompted = () if label_prompt else ("model.fusion.finding_dense", "model.fusion.finding_output")
    frozen = [model.get_submodule(name) for name in (*FROZEN[stage], *unprompted)]
    for module in frozen:
        module.requires_grad_(False)
    if stage != "finetune":
        _freeze_unreached(model)
    return frozen


def _freeze_unreached(model: OTDRGForConditionalGeneration):
    tower = model.model.vision_tower
    # Any input reaches all that can be reached; the size is the one the encoder was configured for.
    size = _pixel_size(model)
    was_training = tower.training
    pixels = torch.zeros(1, 3, *size, dtype=model.dtype, device=model.device)
    features = tower.eval()(pixel_values=pixels).last_hidden_state
    parameters = list(tower.parameters())
    gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            parameter.requires_grad_(False)
    tower.train(was_training)


def _pixel_size(model: OTDRGForConditionalGeneration) -> tuple[int, int]:
    size = getattr(model.config.vision_config, "image_size", None) or 64
    return tuple(size) if isinstance(size, (list, tuple)) else (size, size)


def adapter_config(model: OTDRGForConditionalGeneration, model_args: ModelConfig, stage: str):
    """
    LoRA on the linear layers of the language model alone; the bridges and the disease head are trained in full.

    Returns:
        `peft.LoraConfig`, or `None` without `use_peft`.

    Raises:
        ValueError: for another stage than `"finetune"`, or `lora_target_modules` that name no layer of the LLM.
    """
    if not model_args.use_peft:
        return None
    if stage != "finetune":
        raise ValueError(f"use_peft adapts the LLM in the stage 'finetune': leave it out of the stage {stage!r}.")
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    # By full names: "q_proj" or "all-linear" would also hit the vision encoder.
    targets = [name for name in linear if name.startswith("model.language_model.")]
    wanted = model_args.lora_target_modules
    if wanted not in (None, "all-linear"):
        wanted = [wanted] if isinstance(wanted, str) else wanted
        targets = [name for name in targets if name.split(".")[-1] in wanted]
        if not targets:
            raise ValueError(f"lora_target_modules {wanted} names no linear layer of the language model.")
    bridges = [f"model.{name}" for name in BRIDGES]
    return get_peft_config(replace(model_args, lora_target_modules=targets, lora_modules_to_save=bridges))
