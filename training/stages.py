"""What each training stage trains and what it freezes."""

import torch
from torch import nn

from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration
from otdrg_hf.modeling.vision_otdrg import encode_images

VISION = ("model.vision_tower",)
# What no prompt without images reaches.
VISUAL_TOKENS = (
    "model.fusion.image_dense",
    "model.fusion.image_output",
    "model.fusion.label_tokens.seen_dense",
    "model.fusion.label_tokens.place_norm",
    "model.fusion.label_tokens.place_dense",
)
FROZEN = {
    # The label encoder reads the LLM's embeddings, and stays where an alignment before has left it.
    "warmup": (
        *VISION,
        "model.patch_projection",
        "model.label_encoder",
        "model.alignment",
        "model.disease_head",
        *VISUAL_TOKENS,
    ),
    "align": ("model.language_model", "lm_head", "model.fusion"),
    "finetune": VISION,
    "joint": (),
    # The language model alone is the policy: whatever is made of a study is the same for its samples and for the loss.
    "reward": (
        *VISION,
        "model.patch_projection",
        "model.label_encoder",
        "model.alignment",
        "model.disease_head",
        "model.fusion",
    ),
}
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
# What no prompt without labels reaches.
LABEL_TOKENS = ("model.fusion.label_tokens",)


def apply_stage(
    model: OTDRGForConditionalGeneration,
    stage: str,
    label_prompt: bool = True,
    image_size: tuple[int, int] | None = None,
    freeze_vision: bool = False,
    train_vision_blocks: int | None = None,
) -> list[nn.Module]:
    """
    Freezes what the stage does not train, and what cannot be trained because no output depends on it and which would
    stall distributed training: poolers and the like of the vision encoder, label tokens that no prompt shows.

    Args:
        image_size (`tuple[int, int]`, *optional*): Of the images, for encoders whose configuration does not say it.
        freeze_vision (`bool`): Whether the vision encoder is frozen in any stage.
        train_vision_blocks (`int`, *optional*): How many of its last blocks are trained. Default: all that is.

    Returns:
        `list[nn.Module]`: The frozen modules, to be kept in evaluation mode.

    Raises:
        ValueError: if the vision encoder does not have that many blocks.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())  # packed 4-bit weights cannot be
    names = {*FROZEN[stage], *(() if label_prompt else LABEL_TOKENS), *(VISION if freeze_vision else ())}
    frozen = [model.get_submodule(name) for name in sorted(names)]
    if stage == "reward":
        # The label encoder, and with it the disease head, reads the LLM's embeddings: they have to stay. Where the
        # output is tied to them, so does the output.
        frozen.append(model.get_input_embeddings())
    for module in frozen:
        module.requires_grad_(False)
    if not names.issuperset(VISION):
        _freeze_unreached(model, image_size)
        if train_vision_blocks is not None:
            frozen += _freeze_first_blocks(model.model.vision_tower, train_vision_blocks)
    return frozen


def _freeze_first_blocks(tower: nn.Module, count: int) -> list[nn.Module]:
    """Leaves the last `count` blocks and the norm behind them to be trained; gives the modules that it freezes."""
    name, blocks = transformer_blocks(tower)
    kind = type(tower).__name__
    if count > len(blocks):
        raise ValueError(f"train_vision_blocks is {count}, but a {kind} has {len(blocks)} blocks.")
    parameters = list(tower.named_parameters())
    last = max(index for index, (key, _) in enumerate(parameters) if key.startswith(f"{name}."))
    if any(parameter.requires_grad and parameter.dim() > 1 for _, parameter in parameters[last + 1 :]):
        raise ValueError(f"train_vision_blocks needs blocks in one row, and a {kind} has several stages of them.")
    trained = tuple(f"{name}.{index}." for index in range(len(blocks) - count, len(blocks)))
    for key, parameter in parameters[: last + 1]:
        if not key.startswith(trained):
            parameter.requires_grad_(False)
    return [module for module in tower.modules() if _is_frozen(module)]


def transformer_blocks(tower: nn.Module) -> tuple[str, nn.ModuleList]:
    """
    The blocks of a vision encoder, its longest list of modules, and their name.

    Raises:
        ValueError: if it has no list of modules.
    """
    lists = {name: module for name, module in tower.named_modules() if isinstance(module, nn.ModuleList)}
    if not lists:
        raise ValueError(f"train_vision_blocks finds no list of blocks in a {type(tower).__name__}: leave it out.")
    name = max(lists, key=lambda each: len(lists[each]))
    return name, lists[name]


def _is_frozen(module: nn.Module) -> bool:
    """Whether a module has parameters, none of which is trained."""
    requires_grad = [parameter.requires_grad for parameter in module.parameters()]
    return bool(requires_grad) and not any(requires_grad)


def batch_norms(model: OTDRGForConditionalGeneration) -> list[nn.Module]:
    """
    Batch-norm layers of the vision encoder, to be kept in evaluation mode where it was pretrained: with a momentum of
    0.1, running statistics of few images are those of the last batch. Weight and bias are trained all the same.
    """
    return [module for module in model.model.vision_tower.modules() if isinstance(module, BATCH_NORMS)]


def cast_backbones(model: OTDRGForConditionalGeneration, dtype: str | None, adapted: bool) -> None:
    """
    Casts the backbones that are frozen, or that only get adapters, to another dtype: what is not updated does not need
    fp32.

    Args:
        dtype (`str`, *optional*): `"bfloat16"` for one; `None` leaves all as it is.
        adapted (`bool`): Whether the language model gets adapters.

    Raises:
        ValueError: for a name that is not a floating-point dtype.
    """
    if dtype is None:
        return
    wanted = getattr(torch, dtype, None)
    if not isinstance(wanted, torch.dtype) or not wanted.is_floating_point:
        raise ValueError(f"frozen_dtype {dtype!r} is not a floating-point dtype, such as bfloat16.")
    body = model.model
    # The LLM's output goes with it: tied to frozen embeddings it is not trained, but computes with what is.
    for modules in ((body.vision_tower,), (body.language_model, model.lm_head)):
        frozen = not any(parameter.requires_grad for module in modules for parameter in module.parameters())
        if frozen or (adapted and modules[0] is not body.vision_tower):
            for module in modules:
                module.to(wanted)


def _freeze_unreached(model: OTDRGForConditionalGeneration, size: tuple[int, int] | None):
    reached = reached_parameters(model, size)
    for name, parameter in model.model.vision_tower.named_parameters():
        if name not in reached:
            parameter.requires_grad_(False)


def reached_parameters(model: OTDRGForConditionalGeneration, size: tuple[int, int] | None = None) -> set[str]:
    """Names of the parameters of the vision encoder, which all require gradients, that its patches depend on."""
    tower = model.model.vision_tower
    was_training = tower.training
    # Any input reaches all that can be reached.
    pixels = torch.zeros(1, 3, *(size or _pixel_size(model)), dtype=tower.dtype, device=tower.device)
    features = encode_images(tower.eval(), pixels)
    names, parameters = zip(*tower.named_parameters(), strict=True)
    gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
    tower.train(was_training)
    return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}


def _pixel_size(model: OTDRGForConditionalGeneration) -> tuple[int, int]:
    size = getattr(model.config.vision_config, "image_size", None) or 64
    return tuple(size) if isinstance(size, (list, tuple)) else (size, size)
