"""What a training step takes, estimated from shapes: bytes per device and floating-point operations. Nothing is run."""

import os
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from otdrg_hf.modeling.losses_otdrg import CHUNK_LOGITS
from otdrg_hf.training.stages import transformer_blocks

# Bytes of activations in fp32 that a layer keeps per token and unit of width, attention by sdpa or flash, measured on a
# ViT and on a Llama whose MLP is 2.7 times as wide; adapters keep the input of each layer once more where they drop.
KEPT_BY_VISION = 68
KEPT_BY_LLM = {"full": 89.5, "adapters": 82, "adapters with dropout": 133}
HALF_PRECISION = 2 / 3  # of that under autocast: norms and residuals stay in fp32
QUANTIZED = {4: 0.53, 8: 1.03}  # bytes per weight, with the scales
OVERHEAD = 1.5 * 2**30  # CUDA context, workspaces, fragmentation


@dataclass
class Step:
    """Shapes of one forward and backward pass on one device: studies, their views and the tokens of each."""

    studies: int
    views: float
    tokens: int
    supervised: float
    half_precision: bool
    checkpointing: bool
    runs_llm: bool
    llm: str = "full"  # a key of KEPT_BY_LLM
    quantized_bits: int | None = None


def sharding() -> tuple[str, tuple[str, ...]]:
    """How the launcher shares a model between devices: its name and which of weights, gradients, states it cuts up."""
    stage = int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", 0))
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true" and stage:
        shared = ("gradients", "optimizer") if stage < 3 else ("weights", "gradients", "optimizer")
        return f"DeepSpeed ZeRO-{stage}", shared
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        return "FSDP", ("weights", "gradients", "optimizer")
    return "one copy per device", ()


def memory(model: nn.Module, step: Step, devices: int) -> dict[str, float]:
    """Bytes on a device, by what they hold."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    states = sum(2 * 4 * parameter.numel() for parameter in trained)  # the two moments of Adam, fp32
    parts = {
        "weights": sum(_bytes(name, value, step.quantized_bits) for name, value in model.named_parameters()),
        "gradients": sum(parameter.numel() * parameter.element_size() for parameter in trained),
        "optimizer": float(states),
    }
    for name in sharding()[1]:
        parts[name] /= devices
    parts["activations"] = _activations(model, step)
    parts["half-precision copies"] = _copies(model, step)
    parts["vocabulary logits"] = _logits(model, step)
    parts["overhead"] = OVERHEAD
    return parts


def _bytes(name: str, value: torch.Tensor, bits: int | None) -> float:
    packed = bits and ".language_model." in name and ".lora_" not in name and value.dim() == 2
    return value.numel() * (QUANTIZED[bits] if packed and "embed" not in name else value.element_size())


def _backbones(model: nn.Module) -> tuple[PreTrainedModel, PreTrainedModel]:
    towers = dict(model.named_modules())
    vision, language = (
        next(module for name, module in towers.items() if name.split(".")[-1] == part)
        for part in ("vision_tower", "language_model")
    )
    return vision, language


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _trained_share(tower: nn.Module) -> float:
    """Share of the blocks of an encoder that keep activations, which are those that are trained."""
    try:
        _, blocks = transformer_blocks(tower)
    except ValueError:
        return 1.0
    return sum(map(_is_trained, blocks)) / len(blocks)


def _activations(model: nn.Module, step: Step) -> float:
    vision, _ = _backbones(model)
    config = model.config
    rows, columns = config.image_grid
    kept = 0.0
    if _is_trained(vision):
        layers = getattr(vision.config, "num_hidden_layers", None) or sum(getattr(vision.config, "depths", [12]))
        layers = round(layers * _trained_share(vision))
        width = step.studies * step.views * rows * columns * config.vision_feature_size
        kept += width * _kept_by_layers(layers, KEPT_BY_VISION, step)
    if step.runs_llm:
        text = config.text_config
        width = step.studies * step.tokens * text.hidden_size
        kept += width * _kept_by_layers(text.num_hidden_layers, KEPT_BY_LLM[step.llm], step)
    return kept


def _kept_by_layers(layers: int, kept: float, step: Step) -> float:
    """Bytes per token and unit of width."""
    kept = kept * HALF_PRECISION if step.half_precision else kept
    # The input of each layer, and one layer made again.
    return 4 * layers + kept if step.checkpointing else kept * layers


def _copies(model: nn.Module, step: Step) -> float:
    """Of fp32 weights that autocast computes with, and that the backward pass needs again."""
    if not step.half_precision or step.checkpointing:
        return 0.0
    vision, language = _backbones(model)
    llm_in_fp32 = step.runs_llm and not step.quantized_bits
    parts = ([vision] if _is_trained(vision) else []) + ([language] if llm_in_fp32 else [])
    weights = [value for part in parts for name, value in part.named_parameters() if "embed" not in name]
    return 2.0 * sum(value.numel() for value in weights if value.dim() >= 2 and value.element_size() == 4)


def _logits(model: nn.Module, step: Step) -> float:
    """
    Of the supervised positions: as they are, as fp32, and their gradient; or, where the loss takes them in chunks, of a
    chunk, and the gradient of the projection until it is added up.
    """
    if not step.runs_llm:
        return 0.0
    logits = step.studies * step.supervised * model.config.text_config.vocab_size
    head = next(module for name, module in model.named_modules() if name.split(".")[-1] == "lm_head")
    if logits <= CHUNK_LOGITS or type(head) is not nn.Linear or sharding()[1]:
        return logits * 12
    of_weight = head.weight.numel() * head.weight.element_size() if head.weight.requires_grad else 0
    return CHUNK_LOGITS * 12 + of_weight


def operations(model: nn.Module, step: Step) -> float:
    """Floating-point operations of a forward and backward pass on one device, without those of attention scores."""
    vision, language = _backbones(model)
    rows, columns = model.config.image_grid
    total = _passes(vision, step, frozen=1) * 2 * _linear_size(vision) * step.studies * step.views * rows * columns
    if step.runs_llm:
        # Projectors come before the LLM: gradients pass through it even where it is frozen.
        total += _passes(language, step, frozen=2) * 2 * _linear_size(language) * step.studies * step.tokens
        vocabulary = model.config.text_config.vocab_size * model.config.text_config.hidden_size
        total += 3 * 2 * vocabulary * step.studies * step.supervised
    return total


def _linear_size(module: nn.Module) -> int:
    weights = [value for name, value in module.named_parameters() if value.dim() >= 2 and "embed_tokens" not in name]
    return sum(value.numel() for value in weights)


def _passes(module: nn.Module, step: Step, frozen: int) -> int:
    """Forward passes that the work is worth: a backward pass is two, or one without gradients of the weights."""
    weights = [value for value in module.parameters() if value.dim() >= 2]
    trained = sum(value.numel() for value in weights if value.requires_grad)
    if trained == 0:
        return frozen
    return (3 if trained > 0.5 * sum(value.numel() for value in weights) else 2) + step.checkpointing
