"""Any vision backbone as the sequence of patch tokens that transformers' LLaVA expects, convolutional ones included."""

import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_outputs import BaseModelOutput

from otdrg_hf.modeling.configuration_otdrg import OTDRGConfig
from otdrg_hf.modeling.vision_otdrg import encode_images, patch_features


class PatchEncoderConfig(PreTrainedConfig):
    r"""
    Args:
        backbone_config (`PreTrainedConfig` or `dict`): Of the encoder.
        hidden_size (`int`): Width of its patches.
        pooling (`int`, *optional*, defaults to 1): Side of the square of patches averaged into one token.
    """

    model_type = "otdrg_patch_encoder"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(config_class=AutoConfig, model_type="resnet")}

    backbone_config: dict | PreTrainedConfig | None = None
    hidden_size: int = 64
    pooling: int = 1


class PatchEncoder(PreTrainedModel):
    """The encoder of an OTDRG model with the same patches, averaged as its visual tokens are."""

    config_class = PatchEncoderConfig
    main_input_name = "pixel_values"

    def __init__(self, config: PatchEncoderConfig):
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.backbone_config)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutput:
        config = self.config
        hidden = encode_images(self.backbone, pixel_values)
        maps = patch_features(hidden, pixel_values, config.backbone_config, config.hidden_size)  # [B, h, w, c]
        maps = F.avg_pool2d(maps.permute(0, 3, 1, 2), config.pooling, ceil_mode=True)
        tokens = maps.flatten(2).mT  # [B, tokens, c]
        return BaseModelOutput(last_hidden_state=tokens, hidden_states=(tokens,))


def patch_encoder_config(config: OTDRGConfig) -> PatchEncoderConfig:
    """The configuration of the encoder of an OTDRG model as one for LLaVA."""
    return PatchEncoderConfig(
        backbone_config=config.vision_config,
        hidden_size=config.vision_feature_size,
        pooling=config.image_token_pooling,
    )


AutoConfig.register(PatchEncoderConfig.model_type, PatchEncoderConfig)
AutoModel.register(PatchEncoderConfig, PatchEncoder)
