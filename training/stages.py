"""What each training stage trains and what it freezes."""

import torch
from torch import nn

from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration

FROZEN = {
    "align": ("model.language_model", "lm_head", "model.fusion"),
    "finetune": ("model.vision_tower",),
    "joint": (),
}
BRIDGES = ("patch_projection", "label_encoder", "alignment", "disease_head", "fusion")


def apply_stage(model: OTDRGForConditionalGeneration, stage: str) -> list[nn.Module]:
    """
    Freezes what the stage does not train, and what of the vision encoder cannot be trained because no output depends
    on it (poolers and the like, which would stall distributed training).

    Returns:
        `list[nn.Module]`: The frozen modules, to be kept in evaluation mode.
    """
    model.requires_grad_(True)
    frozen = [model.get_submodule(name) for name in FROZEN[stage]]
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


def adapter_config(model: OTDRGForConditionalGeneration, model_args):
    """LoRA on the linear layers of the language model alone; the bridges and the disease head are trained in full."""
    from peft import LoraConfig

    prefix = "model.language_model."
    targets = [
        name
        for name, module in model.named_modules()
        if name.startswith(prefix) and isinstance(module, nn.Linear)
    ]
    wanted = model_args.lora_target_modules
    if wanted is not None:
        wanted = [wanted] if isinstance(wanted, str) else wanted
        targets = [name for name in targets if name.split(".")[-1] in wanted]
        if not targets:
            raise ValueError(f"`lora_target_modules` {wanted} names no linear layer of the language model.")
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=model_args.lora_r,
        lora_alpha=model_args.lora_alpha,
        lora_dropout=model_args.lora_dropout,
        target_modules=targets,
        modules_to_save=list(BRIDGES),
    )
