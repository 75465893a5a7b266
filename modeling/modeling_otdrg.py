# Copyright 2026 The otdrg-hf authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""PyTorch OTDRG model: vision encoder, optimal-transport alignment with disease labels, and an LLM that they prompt."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.compiler import is_compiling
from torch.nn import functional as F
from transformers import AutoModel, GenerationMixin, LogitsProcessorList, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling
from transformers.modeling_utils import slice_logits_to_keep
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .backbones_otdrg import build_tower, load_magnitudes, model_from_backbones, spare_projectors, warn_of_attention
from .configuration_otdrg import OTDRGConfig
from .disease_states_otdrg import (
    POSITIVE,
    check_labels,
    check_other_labels,
    predict_states,
    resolve_states,
    shown_states,
)
from .layers_otdrg import (
    Alignment,
    DiseaseHead,
    Fusion,
    LabelEncoder,
    LabelTokens,
    LabelWords,
    PatchProjection,
    TransportAlignment,
    check_counts,
    fill_placeholders,
    label_positions,
    real_views_first,
)
from .losses_otdrg import CONTRAST_TEMPERATURE, chunked_cross_entropy, disease_loss, transport_loss, weighted_sum
from .pipeline_otdrg import CUSTOM_PIPELINES
from .processing_otdrg import OTDRGProcessor
from .revision_otdrg import keep_drafts
from .vision_otdrg import check_views, encoder_outputs, patch_features

# TRF057 asks for `auto_docstring`, which knows the models within transformers only: of these it would replace the
# docstrings by those of a model named None.

# Fields of `OTDRGStudyFeatures` that have an entry per view or layer; all others have one per study.
ENCODER_FIELDS = ("last_hidden_state", "pooler_output", "hidden_states", "attentions")


@dataclass
class OTDRGStudyFeatures(BaseModelOutputWithPooling):  # trf-ignore: TRF057
    """
    What the LLM and its user need of a batch of studies, computed once per study.

    Args:
        last_hidden_state, hidden_states, attentions:
            As the vision encoder gave them, of the real views of all studies one after another; `hidden_states` and
            `attentions` where they are asked for. `None` for studies given as `vision_features`.
        pooler_output (`list[torch.FloatTensor]` of shape `[tokens, hidden]`, *optional*):
            `image_embeds` of the real views, one after another; `None` in a compiled graph.
        image_embeds (`torch.FloatTensor` of shape `[B, V, tokens, hidden]`): Visual tokens of each view.
        view_mask (`torch.BoolTensor` of shape `[B, V]`): False where a view is padding.
        finding_embeds (`torch.FloatTensor` of shape `[B, label_words + m, hidden]`):
            The findings in words, where the model shows them, and one token per label.
        disease_logits (`torch.FloatTensor` of shape `[B, m, states]`): fp32, from a transport that knows no states.
        disease_states (`torch.LongTensor` of shape `[B, m]`): The states that prompt the LLM.
        transport_plan (`torch.FloatTensor` of shape `[B, V * n, m + 1]`): fp32; the background comes last.
        evidence (`torch.FloatTensor` of shape `[B, V * n, m]`): fp32; how much of each label was seen in each patch.
        predicted_finding_embeds (`torch.FloatTensor` of shape `[B, label_words + m, hidden]`, *optional*):
            As `finding_embeds`, of the predicted states, where a label overrides the prediction.
        is_revision (`torch.BoolTensor` of shape `[B]`, *optional*):
            With `predicted_finding_embeds`: whether some labels of the study are overridden or in another state than
            predicted, but not all of them given, so that its report is a revision of the one that would be written
            without.
        overridden (`torch.BoolTensor` of shape `[B, m]`, *optional*):
            With `predicted_finding_embeds`: the labels that are shown as overrides.
        drafts (`torch.LongTensor` of shape `[B, T]`, *optional*):
            What `generate` wrote of the predicted states, where that is known already: a revision need not write it.
    """

    # `ModelOutput` asks for defaults; these three are always there.
    image_embeds: torch.Tensor = None  # type: ignore[assignment]
    view_mask: torch.Tensor = None  # type: ignore[assignment]
    finding_embeds: torch.Tensor = None  # type: ignore[assignment]
    disease_logits: torch.Tensor | None = None
    disease_states: torch.Tensor | None = None
    transport_plan: torch.Tensor | None = None
    evidence: torch.Tensor | None = None
    predicted_finding_embeds: torch.Tensor | None = None
    is_revision: torch.Tensor | None = None
    overridden: torch.Tensor | None = None
    drafts: torch.Tensor | None = None

    def of_studies(self, rows: torch.Tensor) -> "OTDRGStudyFeatures":
        """Those of some studies, in any order and number, without what the vision encoder gave."""
        return type(self)(**{name: value[rows] for name, value in self.items() if name not in ENCODER_FIELDS})

    def as_predicted(self) -> "OTDRGStudyFeatures":
        """Those that a draft is written from: all labels are shown as they were predicted."""
        fields = {name: value for name, value in self.items() if name not in ("is_revision", "overridden", "drafts")}
        predicted = fields.pop("predicted_finding_embeds", None)
        return type(self)(**fields if predicted is None else {**fields, "finding_embeds": predicted})


@dataclass
class OTDRGModelOutputWithPast(BaseModelOutputWithPast):  # trf-ignore: TRF057
    """
    `BaseModelOutputWithPast` with what was computed of the studies; `None` where no image was given.

    Args:
        study_features ([`OTDRGStudyFeatures`], *optional*): With images or features of images.
        ot_loss, disease_loss (`torch.FloatTensor` of shape `[]`, *optional*): With images and `disease_labels`.
    """

    study_features: OTDRGStudyFeatures | None = None
    ot_loss: torch.Tensor | None = None
    disease_loss: torch.Tensor | None = None


@dataclass
class OTDRGCausalLMOutputWithPast(ModelOutput):  # trf-ignore: TRF057
    """
    Args:
        loss (`torch.FloatTensor` of shape `[]`, *optional*):
            `lm_loss + ot_loss_weight * ot_loss + disease_loss_weight * disease_loss`, of those terms that there are.
        lm_loss (`torch.FloatTensor` of shape `[]`, *optional*): With `labels`.
        ot_loss, disease_loss (`torch.FloatTensor` of shape `[]`, *optional*): With `disease_labels` and images.
        logits (`torch.FloatTensor` of shape `[B, T, vocab]`, *optional*): Without `skip_logits`.
        disease_logits (`torch.FloatTensor` of shape `[B, m, states]`, *optional*): With images.
        disease_states (`torch.LongTensor` of shape `[B, m]`, *optional*): States that the report is prompted with.
        transport_plan (`torch.FloatTensor` of shape `[B, V * n, m + 1]`, *optional*): With images; background last.
        past_key_values, hidden_states, attentions: As of the language model.
    """

    loss: torch.Tensor | None = None
    lm_loss: torch.Tensor | None = None
    ot_loss: torch.Tensor | None = None
    disease_loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    disease_logits: torch.Tensor | None = None
    disease_states: torch.Tensor | None = None
    transport_plan: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor] | None = None
    attentions: tuple[torch.Tensor] | None = None


class Seen(NamedTuple):
    """
    What is seen of a batch of studies before anything is decided.

    Attributes:
        maps (`torch.Tensor` of shape `[B, V, rows, columns, d]`): Patches of each view.
        patch_mask (`torch.Tensor` of shape `[B, V * n]`): False where the view is padding.
        phrases (`torch.Tensor` of shape `[m, states, d]`): Features of the (label, state) phrases.
        alignment ([`Alignment`]): Of the patches with the phrases of presence.
        disease_logits (`torch.Tensor` of shape `[B, m, states]`): fp32.
        encoded ([`ModelOutput`], *optional*): What the vision encoder gave, where it was run.
    """

    maps: torch.Tensor
    patch_mask: torch.Tensor
    phrases: torch.Tensor
    alignment: Alignment
    disease_logits: torch.Tensor
    encoded: ModelOutput | None

    @property
    def patches(self) -> torch.Tensor:
        """`[B, V * n, d]`"""
        return self.maps.flatten(1, 3)

    @property
    def view_mask(self) -> torch.Tensor:
        """`[B, V]`"""
        return self.patch_mask.unflatten(1, (self.maps.shape[1], -1))[..., 0]


class OTDRGPreTrainedModel(PreTrainedModel):  # trf-ignore: TRF057
    """Weight initialisation and capabilities shared by the OTDRG models."""

    config: OTDRGConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _can_compile_fullgraph = True
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["PatchProjection", "LabelEncoder", "TransportAlignment", "DiseaseHead", "LabelTokens"]

    @property
    def dtype(self) -> torch.dtype:
        """
        That of the projectors, which is at least as precise as that of either backbone: what a model is saved as, and
        loaded again by default.
        """
        body: Any = getattr(self, self.base_model_prefix, self)
        return body.alignment.background.dtype

    def is_custom_code(self) -> bool:
        """
        Whether a backbone is custom code. Of such, transformers does not initialise modules without parameters of their
        own, `Fusion` or the attention of a CLIP, as it might overwrite loaded weights; that of OTDRG leaves them alone.
        """
        backbones = (each for each in self.modules() if isinstance(each, PreTrainedModel))
        return any(each.is_custom_code() for each in backbones if not isinstance(each, OTDRGPreTrainedModel))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, LabelEncoder):
            init.copy_(module.phrase_ids, module.padded_phrase_ids())
        elif isinstance(module, LabelWords):
            init.copy_(module.word_ids, module.padded_word_ids())
        if isinstance(module, TransportAlignment):
            init.normal_(module.background, std=1.0)
        elif isinstance(module, DiseaseHead):
            init.zeros_(module.classifier_weight)
            init.zeros_(module.classifier_bias)
            init.zeros_(module.presence_log_scale)
            init.zeros_(module.presence_offset)
        elif isinstance(module, LabelTokens):
            init.zeros_(module.told)
        if isinstance(module, (PatchProjection, LabelEncoder, Fusion, LabelTokens)):
            # Projectors between spaces of any width: keep the variance, whatever `initializer_range` of the backbones.
            for layer in module.children():
                if isinstance(layer, nn.Linear):
                    init.xavier_uniform_(layer.weight)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, quantization_config=None, **kwargs):
        """As in transformers; a `quantization_config` leaves the projectors as they are unless it names others."""
        if quantization_config is not None:
            prefix = f"{cls.base_model_prefix}." if issubclass(cls, GenerationMixin) else ""
            kwargs["quantization_config"] = spare_projectors(quantization_config, prefix)
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

    def load_adapter(self, peft_model_id: str | None = None, adapter_name: str | None = None, **kwargs):
        """As in transformers, and with the magnitudes of DoRA."""
        info = super().load_adapter(peft_model_id, adapter_name, **kwargs)
        load_config = kwargs.get("load_config")
        adapter_id = peft_model_id or getattr(load_config, "pretrained_model_name_or_path", None)
        if adapter_id is not None and kwargs.get("adapter_state_dict") is None:
            of_config, given = getattr(load_config, "download_kwargs", {}), kwargs.get("download_kwargs") or {}
            download = {**of_config, **given, **(kwargs.get("adapter_kwargs") or {})}
            load_magnitudes(self, adapter_id, adapter_name or "default", **download)
        return info

    def set_attn_implementation(self, attn_implementation: str | dict, **kwargs):
        """As in transformers; a vision encoder that does not know it keeps its own, as when the model is loaded."""
        if isinstance(attn_implementation, dict):
            return super().set_attn_implementation(attn_implementation, **kwargs)
        body: Any = getattr(self, self.base_model_prefix, self)
        tower, own = body.vision_tower, body.vision_tower.config._attn_implementation
        of_parts = {"": attn_implementation, "text_config": attn_implementation, "vision_config": own}
        super().set_attn_implementation(of_parts, **kwargs)
        try:
            tower.set_attn_implementation(attn_implementation, **kwargs)
        except ValueError:
            warn_of_attention(tower)

    def enable_input_require_grads(self):
        """
        As in transformers, and for encoders whose embedding returns a tuple (Swin) too. A backbone of which nothing is
        trained is left alone: gradients would pass through it for nothing, and keep its activations.
        """

        def require_gradient(module, inputs, output):
            (output[0] if isinstance(output, tuple) else output).requires_grad_(True)

        embeddings: dict[nn.Module | None, None] = {}
        for module in self.modules():
            backbone = isinstance(module, PreTrainedModel) and not isinstance(module, OTDRGPreTrainedModel)
            if backbone and any(parameter.requires_grad for parameter in module.parameters()):
                with suppress(NotImplementedError):
                    embeddings[module.get_input_embeddings()] = None
        self._require_grads_hooks = [
            each.register_forward_hook(require_gradient) for each in embeddings if each is not None
        ]


class OTDRGModel(OTDRGPreTrainedModel):  # trf-ignore: TRF057
    """OTDRG without the language-model head: studies and prompts in, hidden states of the LLM out."""

    def __init__(self, config: OTDRGConfig):
        super().__init__(config)
        self.vision_tower = build_tower(partial(AutoModel.from_config, config.vision_config))
        self.patch_projection = PatchProjection(config)
        self.label_encoder = LabelEncoder(config)
        self.alignment = TransportAlignment(config)
        self.disease_head = DiseaseHead(config)
        self.fusion = Fusion(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.language_model.set_input_embeddings(value)

    def encode_views(self, pixel_values: torch.Tensor, view_mask: torch.Tensor, **kwargs) -> ModelOutput:
        """What the vision encoder gives for the real views among `[B, V, 3, H, W]`: padded ones are never encoded."""
        # In a compiled graph no shape can depend on the mask: padded views are encoded, and left out afterwards.
        views = pixel_values.flatten(0, 1) if is_compiling() else pixel_values[view_mask]  # [real views, 3, H, W]
        return encoder_outputs(self.vision_tower, views.to(self.vision_tower.dtype), **kwargs)

    def get_vision_features(self, pixel_values: torch.Tensor, view_mask: torch.Tensor | None = None) -> torch.Tensor:
        """What `vision_features` of a study is: patch features of the vision encoder, `[B, V, rows, columns, c]`."""
        pixel_values, view_mask = check_views(pixel_values, view_mask)
        hidden = self.encode_views(pixel_values, view_mask).last_hidden_state
        return _by_study(self._patch_features(hidden, pixel_values), view_mask)

    def project_views(self, hidden: torch.Tensor, pixel_values: torch.Tensor, view_mask: torch.Tensor) -> torch.Tensor:
        """Patches of every view, `[B, V, rows, columns, d]`, of the last hidden state of `encode_views`."""
        return _by_study(self.patch_projection(self._patch_features(hidden, pixel_values)), view_mask)

    def _patch_features(self, hidden: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        """Patches of the real views, `[real views, rows, columns, c]`, of the last hidden state of `encode_views`."""
        config = self.config
        maps = patch_features(hidden, pixel_values.flatten(0, 1), config.vision_config, config.vision_feature_size)
        if list(maps.shape[1:3]) != config.image_grid:
            raise ValueError(
                f"The encoder gave {maps.shape[1]} x {maps.shape[2]} patches for images of "
                f"{tuple(pixel_values.shape[-2:])} pixels, but `image_grid` is {config.image_grid}: use the image size "
                "that the model was built with."
            )
        return maps

    def project_features(self, vision_features: torch.Tensor, view_mask: torch.Tensor) -> torch.Tensor:
        """As `project_views`, of what the vision encoder gave before: `[B, V, rows, columns, c]`."""
        maps = self.patch_projection(vision_features.flatten(0, 1)).unflatten(0, view_mask.shape)
        return maps * view_mask[..., None, None, None].to(maps.device)

    def encode_labels(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of the names `[m, d]` and of the (label, state) phrases `[m, states, d]`."""
        ids = self.label_encoder.token_ids()
        return self.label_encoder(None if ids is None else self.get_input_embeddings()(ids))

    @can_return_tuple
    def get_image_features(  # trf-ignore: TRF057
        self,
        pixel_values: torch.Tensor | None = None,
        view_mask: torch.Tensor | None = None,
        disease_labels: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        positive_thresholds: Sequence[float] | None = None,
        overridden: torch.Tensor | None = None,
        **kwargs,
    ) -> OTDRGStudyFeatures:
        r"""
        Encodes studies, predicts their diseases and makes the tokens that prompt the LLM; computes no loss.

        Args:
            pixel_values (`torch.FloatTensor` of shape `[B, V, 3, H, W]` or `[B, 3, H, W]`): The views.
            view_mask (`torch.Tensor` of shape `[B, V]`, *optional*): 0 or False for padded views.
            disease_labels (`torch.LongTensor` of shape `[B, m]`, *optional*):
                States that override the prediction (0 blank, 1 positive, 2 negative, 3 uncertain); -100 is predicted.
            vision_features (`torch.FloatTensor` of shape `[B, V, rows, columns, c]`, *optional*):
                Features of the vision encoder, which then is not run: instead of `pixel_values`.
            positive_thresholds (`Sequence[float]`, *optional*):
                Of an operating point (see [`thresholds_at`]): the states follow from these thresholds instead of those
                of the configuration; what they change counts as an override.
            overridden (`torch.BoolTensor` of shape `[B, m]`, *optional*):
                Labels that count as overrides at the operating point, instead of all that it changes.
            kwargs: Of the vision encoder, such as `output_hidden_states` and `output_attentions`.

        Raises:
            ValueError: if a shape is wrong or a study has no view.
        """
        seen = self.see(pixel_values, view_mask, vision_features, **kwargs)
        disease_labels = check_labels(disease_labels, seen.maps, self.config)
        states, overridden = self.decide(seen, disease_labels, overridden, positive_thresholds)
        features = self.fuse(seen, states, overridden)
        if (disease_labels is not None or positive_thresholds is not None) and not is_compiling():
            predicted, as_predicted = self.decide(seen)
            is_revision = (overridden | (states != predicted)).any(-1)  # [B]
            if is_revision.any():
                features.predicted_finding_embeds = self._seen_findings(seen, predicted, as_predicted)
                features.overridden = overridden
                features.is_revision = is_revision
                if disease_labels is not None:
                    features.is_revision &= (disease_labels < 0).any(-1)
        image_embeds = features.image_embeds
        tokens = None if is_compiling() else list(image_embeds[features.view_mask.to(image_embeds.device)])
        of_encoder: dict[str, Any] = {name: getattr(seen.encoded, name, None) for name in ENCODER_FIELDS}
        return OTDRGStudyFeatures(**{**of_encoder, "pooler_output": tokens, **features})

    def see(
        self,
        pixel_values: torch.Tensor | None,
        view_mask: torch.Tensor | None,
        vision_features: torch.Tensor | None = None,
        **kwargs,
    ) -> Seen:
        """
        Patches of the views, how they align with the presence of each label, and the disease logits.

        Args:
            kwargs: Of the vision encoder.
        """
        given = pixel_values if vision_features is None else vision_features
        given, view_mask = check_views(given, view_mask)
        encoded = None
        if vision_features is not None:
            maps = self.project_features(given, view_mask)  # [B, V, rows, columns, d]
        else:
            encoded = self.encode_views(given, view_mask, **kwargs)
            maps = self.project_views(encoded.last_hidden_state, given, view_mask)
        patch_mask = view_mask.to(maps.device).repeat_interleave(maps.shape[2] * maps.shape[3], dim=1)  # [B, V * n]
        # The layers may be on several devices: what they are combined with is brought to that of the patches.
        names, phrases = (each.to(maps) for each in self.encode_labels())  # [m, d], [m, states, d]
        # Each label is looked for by the phrase of its presence, whatever its state: what is seen of one label does not
        # depend on the states of the others.
        present = phrases[:, POSITIVE].expand(len(maps), -1, -1)  # [B, m, d]
        equal = torch.ones(present.shape[:2], device=maps.device)
        alignment = self.alignment(maps.flatten(1, 3), patch_mask, present, equal)
        alignment = Alignment(*(each.to(maps.device) for each in alignment))
        disease_logits = self.disease_head(alignment.label_patches, names, phrases[:, POSITIVE])
        return Seen(maps, patch_mask, phrases, alignment, disease_logits.to(maps.device), encoded)

    def decide(
        self,
        seen: Seen,
        disease_labels: torch.Tensor | None = None,
        overridden: torch.Tensor | None = None,
        positive_thresholds: Sequence[float] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The states that prompt the LLM, predicted unless given, and which of them override the prediction.

        Args:
            disease_labels (`torch.LongTensor` of shape `[B, m]`, *optional*): Given states, -100 where predicted.
            overridden (`torch.BoolTensor` of shape `[B, m]`, *optional*):
                Labels to show as overrides even where they agree with the prediction. At an operating point, those
                that only the point changes are then not.
            positive_thresholds (`Sequence[float]`, *optional*): As of [`get_image_features`].

        Returns:
            `tuple[torch.LongTensor, torch.BoolTensor]`, both of shape `[B, m]`.
        """
        logits = seen.disease_logits.detach()
        predicted = predict_states(logits, self.config)  # [B, m]
        at_point = (
            predicted if positive_thresholds is None else predict_states(logits, self.config, positive_thresholds)
        )
        states = resolve_states(disease_labels, at_point, self.config)
        # Only what differs: an override shows nothing of the image, so that the LLM would have to guess the side.
        if overridden is None:
            return states, states != predicted
        return states, (states != at_point) | overridden.to(states.device)

    def fuse(self, seen: Seen, states: torch.Tensor, overridden: torch.Tensor) -> OTDRGStudyFeatures:
        """The tokens that prompt the LLM, and the transport plan between the patches and the decided states."""
        shown = shown_states(states, self.config)  # [B, m]
        masses = torch.tensor(self.config.state_masses, device=shown.device)[shown]  # [B, m]
        aligned = self.alignment(seen.patches, seen.patch_mask, _phrases_of(seen.phrases, shown), masses)
        return OTDRGStudyFeatures(
            image_embeds=self.fusion.visual_tokens(seen.maps),
            view_mask=seen.view_mask,
            finding_embeds=self._seen_findings(seen, states, overridden),
            disease_logits=seen.disease_logits,
            disease_states=states,
            transport_plan=aligned.plan,
            evidence=aligned.evidence,
        )

    def _seen_findings(self, seen: Seen, states: torch.Tensor, overridden: torch.Tensor) -> torch.Tensor:
        """[`OTDRGModel.finding_embeds`] of what was seen."""
        positions = label_positions(seen.alignment.evidence, seen.view_mask, *seen.maps.shape[2:4])  # [B, m, p]
        positions = positions.to(seen.maps.dtype)
        return self.finding_embeds(seen.phrases, states, overridden, seen.alignment.label_patches, positions)

    def finding_embeds(
        self,
        phrases: torch.Tensor,
        states: torch.Tensor,
        overridden: torch.Tensor,
        label_patches: torch.Tensor,
        positions: torch.Tensor,
    ) -> torch.Tensor:
        """
        What the LLM is shown of the labels: the findings in words, and one token per label.

        Args:
            phrases (`torch.Tensor` of shape `[m, states, d]`): Of the label encoder.
            states (`torch.LongTensor` of shape `[B, m]`): State codes.
            overridden, label_patches, positions: Of [`LabelTokens`].

        Returns:
            `torch.Tensor` of shape `[B, label_words + m, hidden]`.
        """
        shown = shown_states(states, self.config)  # [B, m]
        tokens = self.fusion.label_tokens(_phrases_of(phrases, shown), label_patches, positions, overridden)
        if self.fusion.label_words is None:
            return tokens
        ids = self.fusion.label_words(shown)  # [B, label_words]
        words = self.get_input_embeddings()(ids.clamp(min=0)).to(tokens) * (ids >= 0).unsqueeze(-1).to(tokens.device)
        return torch.cat([words, tokens], dim=1)

    def study_losses(
        self,
        seen: Seen,
        disease_labels: torch.Tensor,
        other_labels: torch.Tensor | None = None,
        contrast_temperature: float = CONTRAST_TEMPERATURE,
    ) -> dict[str, torch.Tensor]:
        """`ot_loss` and `disease_loss`, means over the studies, of the labels of their reports `[B, m]`."""
        of_transport = transport_loss(
            seen.patches,
            seen.patch_mask,
            seen.phrases,
            seen.alignment.cost[..., -1],
            disease_labels,
            other_labels,
            self.config,
            contrast_temperature,
        )
        of_diseases = disease_loss(seen.disease_logits, disease_labels)
        return {"ot_loss": of_transport.mean(), "disease_loss": of_diseases.mean()}

    def merge_features(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor, features: OTDRGStudyFeatures
    ) -> torch.Tensor:
        """Puts visual and label tokens at their placeholders. `ValueError` if the counts differ."""
        image_embeds, finding_embeds = features.image_embeds, features.finding_embeds
        view_mask = features.view_mask.to(image_embeds.device).bool()
        if view_mask.shape[0] != inputs_embeds.shape[0]:
            raise ValueError(f"{inputs_embeds.shape[0]} prompts for {view_mask.shape[0]} studies.")
        places = self._placeholders(input_ids, inputs_embeds, self.config.image_token_id)  # [B, T]
        check_counts("Image", places, view_mask.sum(-1) * image_embeds.shape[2])
        inputs_embeds = fill_placeholders(inputs_embeds, places, real_views_first(image_embeds, view_mask))
        places = self._placeholders(input_ids, inputs_embeds, self.config.finding_token_id)
        prompted = places.any(-1)  # [B]; a prompt may do without the findings
        check_counts("Finding", places, prompted * finding_embeds.shape[1])
        return fill_placeholders(inputs_embeds, places, finding_embeds)

    def _placeholders(self, input_ids, inputs_embeds, token_id: int) -> torch.Tensor:
        if input_ids is not None:
            return input_ids == token_id
        token = torch.tensor(token_id, dtype=torch.long, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(token)).all(-1)

    @can_return_tuple
    def forward(  # trf-ignore: TRF057
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        view_mask: torch.Tensor | None = None,
        disease_labels: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, OTDRGStudyFeatures] | None = None,
        vision_features: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        shown_labels: torch.Tensor | None = None,
        overridden_labels: torch.Tensor | None = None,
        other_labels: torch.Tensor | None = None,
        contrast_temperature: float = CONTRAST_TEMPERATURE,
        **kwargs: Unpack[TransformersKwargs],
    ) -> OTDRGModelOutputWithPast:
        r"""
        Without `input_ids` and `inputs_embeds` the LLM is left out, and only the studies are encoded.

        Args:
            input_ids (`torch.LongTensor` of shape `[B, T]`, *optional*): Prompt (and report) with placeholders.
            pixel_values, view_mask, vision_features: See [`OTDRGModel.get_image_features`].
            disease_labels (`torch.LongTensor` of shape `[B, m]`, *optional*):
                The labels of the studies: they prompt the LLM where known, and give `ot_loss` and `disease_loss`.
            mm_encoder_outputs (`dict`, *optional*): `{"image": features}`, computed before; excludes `pixel_values`.
            prompt_embeds (`torch.FloatTensor` of shape `[B, T, hidden]`, *optional*):
                Embeddings of a whole prompt, with its study, of which `input_ids` are the chunk that follows the cache.
            shown_labels (`torch.LongTensor` of shape `[B, m]`, *optional*):
                In training, the states that prompt the LLM instead; -100 is predicted. Default: `disease_labels`.
            overridden_labels (`torch.BoolTensor` of shape `[B, m]`, *optional*):
                In training, labels to show as overrides even where they agree with the prediction.
            other_labels (`torch.LongTensor` of shape `[B, k, m]`, *optional*):
                States of other studies for the transport loss. Default: those of the next studies of the batch.
            contrast_temperature (`float`, *optional*, defaults to 0.15): Of the transport loss.
        """
        if input_ids is not None and inputs_embeds is not None:
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        features, losses = (mm_encoder_outputs or {}).get("image"), {}
        if pixel_values is not None or vision_features is not None:
            if features is not None:
                raise ValueError("You cannot specify both pixel_values and mm_encoder_outputs at the same time")
            seen = self.see(pixel_values, view_mask, vision_features)
            disease_labels = check_labels(disease_labels, seen.maps, self.config)
            shown = disease_labels if shown_labels is None else check_labels(shown_labels, seen.maps, self.config)
            features = self.fuse(seen, *self.decide(seen, shown, overridden_labels))
            if disease_labels is not None:
                other_labels = check_other_labels(other_labels, seen.maps, self.config)
                losses = self.study_losses(seen, disease_labels, other_labels, contrast_temperature)
        elif disease_labels is not None:
            raise ValueError("`disease_labels` need `pixel_values`: features that are computed have their labels.")
        if input_ids is None and inputs_embeds is None:
            if features is None:
                raise ValueError("You must specify input_ids, inputs_embeds or pixel_values")
            return OTDRGModelOutputWithPast(study_features=features, **losses)
        if prompt_embeds is not None and input_ids is not None and past_key_values is not None:
            start = past_key_values.get_seq_length()
            inputs_embeds = prompt_embeds[:, start : start + input_ids.shape[1]]
        else:
            inputs_embeds = self._prompt_embeds(input_ids, inputs_embeds, features, past_key_values)
        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        return OTDRGModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            study_features=features,
            **losses,
        )

    def _prompt_embeds(self, input_ids, inputs_embeds, features, past_key_values) -> torch.Tensor:
        """Embeddings of the prompt `[B, T, hidden]` with the tokens of the studies at their placeholders."""
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if features is not None:
            return self.merge_features(input_ids, inputs_embeds, features)
        if input_ids is None or is_compiling():
            return inputs_embeds
        # A step of one token is of a report: asking a static cache for its length would wait for the accelerator.
        is_step = past_key_values is not None and input_ids.shape[1] == 1
        if not is_step and (past_key_values is None or past_key_values.get_seq_length() == 0):
            places = input_ids == self.config.image_token_id
            check_counts("Image", places, places.new_zeros(len(places), dtype=torch.long))
        return inputs_embeds


def _by_study(maps: torch.Tensor, view_mask: torch.Tensor) -> torch.Tensor:
    """Maps of the real views `[real views, ...]`, in a compiled graph of all, as `[B, V, ...]`, zero where padded."""
    view_mask = view_mask.to(maps.device)
    if is_compiling():
        return maps.unflatten(0, view_mask.shape) * view_mask[..., None, None, None]
    by_study = maps.new_zeros(*view_mask.shape, *maps.shape[1:])
    by_study[view_mask] = maps
    return by_study


def _shares(
    losses: dict[str, torch.Tensor | None], targets: torch.Tensor | None, num_items_in_batch: int | torch.Tensor | None
) -> dict[str, torch.Tensor | None]:
    """
    Losses of the studies of one step, by its share of the tokens of all steps and devices where these are counted: the
    trainer then adds steps up without dividing.
    """
    if targets is None or num_items_in_batch is None:
        return losses
    share = (targets != -100).sum() / torch.as_tensor(num_items_in_batch, device=targets.device).clamp(min=1)
    return {name: None if loss is None else loss * share.to(loss.device) for name, loss in losses.items()}


def _phrases_of(phrases: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Features `[B, m, d]` of the phrases, among `[m, states, d]`, of `states` `[B, m]`."""
    return phrases[torch.arange(states.shape[1], device=states.device), states]


class OTDRGForConditionalGeneration(OTDRGPreTrainedModel, GenerationMixin):  # trf-ignore: TRF057
    """
    OTDRG: a study goes in, a report comes out, with the disease states behind it and where each was seen.

    Example:

    ```python
    >>> from otdrg_hf import OTDRGForConditionalGeneration, OTDRGProcessor

    >>> model = OTDRGForConditionalGeneration.from_pretrained("org/otdrg")
    >>> processor = OTDRGProcessor.from_pretrained("org/otdrg")
    >>> inputs = processor(images=image)
    >>> ids = model.generate(**inputs, max_new_tokens=200)  # prompt and report
    >>> processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    ```
    """

    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: OTDRGConfig):
        super().__init__(config)
        self.model = OTDRGModel(config)
        self.lm_head: nn.Module = nn.Linear(
            config.text_config.hidden_size, config.text_config.vocab_size, config.lm_head_bias
        )
        # The embedding has another name in every language model, so the tie is looked up.
        embedding = self.model.get_input_embeddings()
        name = next(name for name, module in self.model.named_modules() if module is embedding)
        self._tied_weights_keys = {"lm_head.weight": f"model.{name}.weight"}
        self.post_init()
        self.suppress_placeholders()

    def suppress_placeholders(self):
        """Keeps the LLM from writing `<image>` or `<finding>`, which it is never trained not to."""
        self.generation_config.suppress_tokens = [self.config.image_token_id, self.config.finding_token_id]

    @classmethod
    def from_backbones(cls, vision_id: str, text_id: str, **config) -> "OTDRGForConditionalGeneration":
        r"""
        Joins a pretrained vision encoder and a pretrained causal language model by newly initialised projectors.

        Args:
            vision_id (`str`): Folder or Hub id of any vision encoder (or of a model that has one, such as CLIP).
            text_id (`str`): Folder or Hub id of any decoder-only language model with a tokenizer.
            config:
                Fields of [`OTDRGConfig`], `image_size` (pixels, defaults to the encoder's own), `dtype` (of all parts;
                by default the backbones keep theirs and the projectors are fp32), `attn_implementation` and
                `label_encoder`: folder or Hub id of a text encoder, such as a BERT, whose features the label phrases
                get instead of the LLM's embeddings. Only its features are kept.

        The matching processor is `OTDRGProcessor.from_model(model)`.
        """
        return model_from_backbones(cls, vision_id, text_id, **config)

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module):
        self.lm_head = value

    def get_vision_features(self, pixel_values: torch.Tensor, view_mask: torch.Tensor | None = None) -> torch.Tensor:
        """As of [`OTDRGModel`]."""
        return self.model.get_vision_features(pixel_values, view_mask)

    def get_image_features(self, *args, **kwargs) -> OTDRGStudyFeatures:  # trf-ignore: TRF057
        """See [`OTDRGModel.get_image_features`]."""
        return self.model.get_image_features(*args, **kwargs)

    @can_return_tuple
    def forward(  # trf-ignore: TRF057
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        view_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        skip_logits: bool = False,
        num_items_in_batch: int | torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, OTDRGStudyFeatures] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> OTDRGCausalLMOutputWithPast:
        r"""
        Without `input_ids` and `inputs_embeds` the LLM is left out: disease logits, transport plan and their losses.

        The stock `Trainer` takes every argument of this signature whose name contains "label" for one that each batch
        has, so that `labels` alone is among them; `disease_labels`, `shift_labels` and `label_weights` are keywords.

        Args:
            labels (`torch.LongTensor` of shape `[B, T]`, *optional*): `input_ids` to predict, -100 elsewhere.
            skip_logits (`bool`, *optional*, defaults to `False`):
                Leave out `logits`. The loss then projects only the supervised positions onto the vocabulary.
            num_items_in_batch (`int`, *optional*): Divisor of the summed LM loss, for gradient accumulation.
            disease_labels (`torch.LongTensor` of shape `[B, m]`, *optional*):
                The labels of the studies: they prompt the LLM where known, and give `ot_loss` and `disease_loss`.
            shift_labels (`torch.LongTensor` of shape `[B, T]`, *optional*):
                The token to predict from each position, -100 elsewhere, instead of `labels` shifted by one: where
                sequences are split over devices, they are shifted before.
            label_weights (`torch.FloatTensor` of shape `[B, T]`, *optional*): Of each of `labels` in the loss.
            kwargs: Of [`OTDRGModel.forward`], such as `vision_features` and `shown_labels`, and of the LLM.
        """
        shift_labels, label_weights = kwargs.pop("shift_labels", None), kwargs.pop("label_weights", None)
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            view_mask=view_mask,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            mm_encoder_outputs=mm_encoder_outputs,
            return_dict=True,
            **kwargs,
        )
        hidden, logits, lm_loss = outputs.last_hidden_state, None, None  # [B, T, hidden]; `None` without a prompt
        if shift_labels is not None and label_weights is not None:
            raise ValueError("`label_weights` belong to `labels`: with `shift_labels` give none.")
        targets = F.pad(labels[:, 1:], (0, 1), value=-100) if labels is not None else None
        targets = targets if shift_labels is None else shift_labels  # [B, T]
        if hidden is not None and targets is not None:
            lm_loss = self._language_loss(hidden, targets, label_weights, num_items_in_batch)
        if hidden is not None and not skip_logits:
            logits = self._project(slice_logits_to_keep(hidden, logits_to_keep))
        features = outputs.study_features
        of_studies = {"ot_loss": outputs.ot_loss, "disease_loss": outputs.disease_loss}
        return OTDRGCausalLMOutputWithPast(
            loss=weighted_sum(self.config, lm_loss, **_shares(of_studies, targets, num_items_in_batch)),
            lm_loss=lm_loss,
            **of_studies,
            logits=logits,
            disease_logits=None if features is None else features.disease_logits,
            disease_states=None if features is None else features.disease_states,
            transport_plan=None if features is None else features.transport_plan,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    @torch.no_grad()
    def generate(
        self, inputs: torch.Tensor | None = None, generation_config=None, logits_processor=None, **kwargs
    ) -> torch.Tensor | ModelOutput:
        """
        As in transformers; `vision_features` may stand for `pixel_values`. With `disease_labels` that override
        predictions, the report is written without them first, and then revised: it keeps the words of the first one
        where the labels leave it (see [`KeepDraft`]). Samples (`do_sample`), and what is written after `inputs_embeds`,
        are not revised.
        """
        is_assistant = getattr(generation_config, "is_assistant", False)
        encoded = self._encode_once(kwargs, is_assistant)
        if encoded:
            kwargs["mm_encoder_outputs"] = encoded
        features = encoded.get("image")
        input_ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        kwargs["generation_config"] = generation_config
        is_revision = features is not None and features.is_revision is not None and not is_assistant
        if input_ids is not None and is_revision:
            write = partial(super().generate, logits_processor=logits_processor)
            drafts = keep_drafts(self, write, input_ids, features, kwargs)
            if drafts is not None:
                logits_processor = LogitsProcessorList([*(logits_processor or []), drafts])
        return super().generate(input_ids, logits_processor=logits_processor, **kwargs)

    def _encode_once(self, kwargs: dict[str, Any], is_assistant: bool) -> dict[str, OTDRGStudyFeatures]:
        """
        Features that are needed more than once, in place of the study in `kwargs`: of a revision, and of an assistant,
        which has an encoder of its own and may be of another width. So are features that come as `vision_features`,
        which transformers does not know; images that are needed once are left to it.
        """
        encoded = kwargs.get("mm_encoder_outputs") or {}
        if is_assistant and "assistant" in encoded:
            return {"image": encoded["assistant"]}
        assistant = kwargs.get("assistant_model")
        if assistant is self or getattr(getattr(assistant, "config", None), "model_type", None) != "otdrg":
            assistant = None
        labels, vision_features = kwargs.get("disease_labels"), kwargs.get("vision_features")
        if kwargs.get("pixel_values") is None and vision_features is None:
            if labels is not None:
                raise ValueError("`disease_labels` belong to images: give `pixel_values` as well.")
            return encoded
        if assistant is None and labels is None and vision_features is None:
            return encoded
        names = ("pixel_values", "vision_features", "view_mask", "disease_labels")
        study = {name: kwargs.pop(name, None) for name in names}
        encoded = {"image": self.get_image_features(**study, return_dict=True)}
        if assistant is not None:
            study = {name: None if value is None else value.to(assistant.device) for name, value in study.items()}
            encoded["assistant"] = assistant.get_image_features(**study, return_dict=True)
        return encoded

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs,
    ) -> dict[str, Any]:
        """As in transformers, but that an assistant gets the features with its first tokens: its cache is empty."""
        if next_sequence_length != 1 and past_key_values is not None and not is_first_iteration:
            is_first_iteration = past_key_values.get_seq_length() == 0
        return super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )

    @property
    def _logit_cap(self) -> float | None:
        return getattr(self.config.text_config, "final_logit_softcapping", None)  # Gemma's

    def _project(self, hidden: torch.Tensor) -> torch.Tensor:
        logits, cap = self.lm_head(hidden), self._logit_cap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _language_loss(self, hidden, targets, label_weights, num_items_in_batch) -> torch.Tensor:
        targets = targets.to(hidden.device)
        supervised = targets != -100  # [B, T]
        hidden, targets = hidden[supervised], targets[supervised]
        weights = None if label_weights is None else F.pad(label_weights[:, 1:], (0, 1)).to(hidden.device)[supervised]
        loss = chunked_cross_entropy(hidden, self.lm_head, targets, self._logit_cap, weights)
        if loss is None:
            logits = self._project(hidden).float()  # [supervised, vocab]
            losses = F.cross_entropy(logits, targets.to(logits.device), reduction="none")
            loss = (losses if weights is None else losses * weights.to(losses)).sum()
        items = supervised.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        return loss / items.to(loss.device).clamp(min=1)

    def save_pretrained(self, save_directory, **kwargs):
        """Saves the model with the code to run it by `trust_remote_code=True` where otdrg_hf is not installed."""
        classes = {"AutoConfig": type(self.config), "AutoProcessor": OTDRGProcessor}
        # Whatever it was loaded by: transformers adds that one name alone.
        classes |= dict.fromkeys(("AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM"), type(self))
        self.config.auto_map = {k: f"{c.__module__.split('.')[-1]}.{c.__name__}" for k, c in classes.items()}
        self.config.custom_pipelines = CUSTOM_PIPELINES
        try:
            super().save_pretrained(save_directory, **kwargs)
        finally:
            del self.config.custom_pipelines

    def _prefill(self, input_ids, generation_config, model_kwargs, is_first_iteration=True):
        """Before a prompt is read in chunks (`prefill_chunk_size`), the tokens of its study are put in."""
        encoded = model_kwargs.get("mm_encoder_outputs") or {}
        if generation_config.prefill_chunk_size is None or "image" not in encoded or not is_first_iteration:
            return super()._prefill(input_ids, generation_config, model_kwargs, is_first_iteration)
        embeds = self.model.merge_features(input_ids, self.get_input_embeddings()(input_ids), encoded["image"])
        chunked = {**model_kwargs, "mm_encoder_outputs": {}, "prompt_embeds": embeds}
        return super()._prefill(input_ids, generation_config, chunked, is_first_iteration)

    def _expand_inputs_for_generation(self, expand_size: int = 1, **kwargs):
        """Beams and samples share the features of their study, computed before they are expanded."""
        encoded = kwargs.pop("mm_encoder_outputs", None) or {}
        input_ids, model_kwargs = super()._expand_inputs_for_generation(expand_size=expand_size, **kwargs)
        features = encoded.get("image")
        if features is not None and expand_size > 1:
            rows = torch.arange(len(features.view_mask), device=features.view_mask.device)
            encoded = {"image": features.of_studies(rows.repeat_interleave(expand_size))}
        return input_ids, {**model_kwargs, "mm_encoder_outputs": encoded}


OTDRGConfig.register_for_auto_class()
OTDRGForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["OTDRGForConditionalGeneration", "OTDRGModel", "OTDRGPreTrainedModel"]
