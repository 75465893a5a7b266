"""PyTorch OTDRG model: vision encoder, optimal-transport alignment with disease labels, and an LLM that they prompt."""

from contextlib import suppress

import torch
from torch import nn
from torch.compiler import is_compiling
from torch.nn import functional as F
from transformers import AutoModel, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils.generic import can_return_tuple

from .alignment_otdrg import PatchProjection, TransportAlignment
from .configuration_otdrg import OTDRGConfig
from .disease_head_otdrg import DiseaseHead, disease_loss
from .disease_states import POSITIVE, predict_states, resolve_states, shown_states
from .dora_weights_otdrg import load_magnitudes
from .fusion_otdrg import Fusion, LabelTokens, LabelWords, label_places
from .label_encoder_otdrg import LabelEncoder
from .language_loss_otdrg import chunked_cross_entropy
from .outputs_otdrg import OTDRGCausalLMOutputWithPast, OTDRGModelOutputWithPast, OTDRGStudyFeatures
from .processing_otdrg import OTDRGProcessor
from .study_inputs_otdrg import (
    check_counts,
    check_labels,
    check_other_labels,
    check_views,
    fill_placeholders,
    real_views_first,
)
from .transport_loss_otdrg import transport_loss
from .vision_otdrg import encode_images, patch_features


class OTDRGPreTrainedModel(PreTrainedModel):
    """Weight initialisation and capabilities shared by the OTDRG models."""

    config: OTDRGConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @property
    def dtype(self) -> torch.dtype:
        """
        That of the bridges, which is at least as precise as that of either backbone: what a model is saved as, and
        loaded again by default.
        """
        body = getattr(self, self.base_model_prefix, self)
        return body.alignment.background.dtype

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
            # Bridges between spaces of any width: keep the variance, whatever `initializer_range` of the backbones.
            for layer in module.children():
                if isinstance(layer, nn.Linear):
                    init.xavier_uniform_(layer.weight)

    def load_adapter(self, peft_model_id: str | None = None, adapter_name: str | None = None, **kwargs):
        """As in transformers, and with the magnitudes of DoRA."""
        info = super().load_adapter(peft_model_id, adapter_name, **kwargs)
        load_config = kwargs.get("load_config")
        adapter_id = peft_model_id or getattr(load_config, "pretrained_model_name_or_path", None)
        if adapter_id is not None and kwargs.get("adapter_state_dict") is None:
            load_magnitudes(self, adapter_id, adapter_name or "default", **getattr(load_config, "download_kwargs", {}))
        return info

    def enable_input_require_grads(self):
        """
        As in transformers, and for encoders whose embedding returns a tuple (Swin) too. A backbone of which nothing is
        trained is left alone: gradients would pass through it for nothing, and keep its activations.
        """

        def require_gradient(module, inputs, output):
            (output[0] if isinstance(output, tuple) else output).requires_grad_(True)

        embeddings = {}
        for module in self.modules():
            backbone = isinstance(module, PreTrainedModel) and not isinstance(module, OTDRGPreTrainedModel)
            if backbone and any(parameter.requires_grad for parameter in module.parameters()):
                with suppress(NotImplementedError):
                    embeddings[module.get_input_embeddings()] = None
        self._require_grads_hooks = [
            each.register_forward_hook(require_gradient) for each in embeddings if each is not None
        ]


class OTDRGModel(OTDRGPreTrainedModel):
    """OTDRG without the language-model head: studies and prompts in, hidden states of the LLM out."""

    def __init__(self, config: OTDRGConfig):
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
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

    def encode_views(self, pixel_values: torch.Tensor, view_mask: torch.Tensor) -> torch.Tensor:
        """Patches of every view, `[B, V, 3, H, W]` -> `[B, V, rows, columns, d]`; padded views are never encoded."""
        config = self.config
        # In a compiled graph no shape can depend on the mask: padded views are encoded, and left out afterwards.
        padded = is_compiling()
        views = pixel_values.flatten(0, 1) if padded else pixel_values[view_mask]  # [real views, 3, H, W]
        views = views.to(self.vision_tower.dtype)
        hidden = encode_images(self.vision_tower, views)
        maps = patch_features(hidden, views, config.vision_config, config.vision_feature_size)
        maps = self.patch_projection(maps)  # [real views, rows, columns, d]
        if list(maps.shape[1:3]) != config.image_grid:
            raise ValueError(
                f"The encoder gave {maps.shape[1]} x {maps.shape[2]} patches for images of {tuple(views.shape[-2:])} "
                f"pixels, but `image_grid` is {config.image_grid}: use the image size that the model was built with."
            )
        if padded:
            return maps.unflatten(0, view_mask.shape) * view_mask[..., None, None, None]
        patches = maps.new_zeros(*view_mask.shape, *maps.shape[1:])
        patches[view_mask] = maps
        return patches

    def project_features(self, vision_features: torch.Tensor, view_mask: torch.Tensor) -> torch.Tensor:
        """As `encode_views`, of what the vision encoder gave before: `[B, V, rows, columns, c]`."""
        maps = self.patch_projection(vision_features.flatten(0, 1)).unflatten(0, view_mask.shape)
        return maps * view_mask[..., None, None, None]

    def get_image_features(
        self,
        pixel_values: torch.FloatTensor | None = None,
        view_mask: torch.Tensor | None = None,
        disease_labels: torch.LongTensor | None = None,
        vision_features: torch.FloatTensor | None = None,
        other_labels: torch.LongTensor | None = None,
        shown_labels: torch.LongTensor | None = None,
        told_labels: torch.Tensor | None = None,
        **kwargs,
    ) -> OTDRGStudyFeatures:
        r"""
        Encodes studies, predicts their diseases and transports patches to labels.

        Args:
            pixel_values (`torch.FloatTensor` of shape `[B, V, 3, H, W]` or `[B, 3, H, W]`): The views.
            view_mask (`torch.Tensor` of shape `[B, V]`, *optional*): 0 or False for padded views.
            disease_labels (`torch.LongTensor` of shape `[B, m]`, *optional*):
                Known states (0 blank, 1 positive, 2 negative, 3 uncertain); -100 is predicted.
            vision_features (`torch.FloatTensor` of shape `[B, V, rows, columns, c]`, *optional*):
                What the vision encoder, which then is not run, gave for the views: instead of `pixel_values`.
            other_labels (`torch.LongTensor` of shape `[B, k, m]`, *optional*):
                States of other studies, from which the transport loss tells `disease_labels`. Default: of the batch.
            shown_labels (`torch.LongTensor` of shape `[B, m]`, *optional*):
                In training, states that the LLM is shown; -100 is predicted. Default: `disease_labels`.
            told_labels (`torch.BoolTensor` of shape `[B, m]`, *optional*):
                In training, labels shown as overrides though they may be as predicted. Default: none.

        Raises:
            ValueError: if a shape is wrong or a study has no view.
        """
        given = pixel_values if vision_features is None else vision_features
        given, view_mask = check_views(given, view_mask)
        disease_labels = check_labels(disease_labels, given, self.config)
        other_labels = check_other_labels(other_labels, given, self.config)
        shown_labels = check_labels(disease_labels if shown_labels is None else shown_labels, given, self.config)
        encode = self.encode_views if vision_features is None else self.project_features
        maps = encode(given, view_mask)  # [B, V, rows, columns, d]
        patches = maps.flatten(1, 3)  # [B, V * n, d]
        patch_mask = view_mask.repeat_interleave(maps.shape[2] * maps.shape[3], dim=1)  # [B, V * n]
        names, phrases = self.label_encoder(self.get_input_embeddings())  # [m, d], [m, states, d]
        phrases, names = phrases.to(patches.dtype), names.to(patches.dtype)

        batch = patches.shape[0]
        # Each label is looked for by the phrase of its presence, whatever its state: what is seen of one label does not
        # change with what is said of another.
        present = phrases[:, POSITIVE]  # [m, d]
        equal = torch.ones(batch, len(present), device=patches.device)
        seen = self.alignment(patches, patch_mask, present.expand(batch, -1, -1), equal)
        disease_logits = self.disease_head(seen.label_patches, names, present)
        places = label_places(seen.evidence, *maps.shape[2:4]).to(patches.dtype)  # [B, m, p]

        predicted = predict_states(disease_logits.detach(), self.config)  # [B, m]
        states = resolve_states(shown_labels, predicted, self.config)
        # What contradicts the prediction was told, not seen.
        told = states != predicted if told_labels is None else (states != predicted) | told_labels.to(states.device)
        shown = shown_states(states, self.config)  # [B, m]
        stated = phrases[torch.arange(len(present), device=shown.device), shown]  # [B, m, d]
        masses = torch.tensor(self.config.state_masses, device=patches.device)[shown]  # [B, m]
        aligned = self.alignment(patches, patch_mask, stated, masses)

        finding_embeds = self.fusion.label_tokens(stated, seen.label_patches, places, told)
        if self.fusion.label_words is not None:
            words = self.fusion.label_words(shown, self.get_input_embeddings())
            finding_embeds = torch.cat([words.to(finding_embeds), finding_embeds], dim=1)

        features = OTDRGStudyFeatures(
            image_embeds=self.fusion.visual_tokens(maps),
            view_mask=view_mask,
            finding_embeds=finding_embeds,
            disease_logits=disease_logits,
            disease_states=states,
            transport_plan=aligned.plan,
            transport_cost=aligned.cost,
            evidence=aligned.evidence,
            patches=patches,
            label_phrases=phrases,
        )
        if disease_labels is not None:
            features.ot_loss = transport_loss(
                patches, patch_mask, phrases, seen.background_cost, disease_labels, other_labels, self.config
            )
            features.disease_loss = disease_loss(disease_logits, disease_labels)
        return features

    def merge_features(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor, features: OTDRGStudyFeatures
    ) -> torch.Tensor:
        """Puts visual and label tokens at their placeholders. `ValueError` if the counts differ."""
        image_embeds, finding_embeds = features.image_embeds, features.finding_embeds
        view_mask = features.view_mask.bool()
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
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        view_mask: torch.Tensor | None = None,
        disease_labels: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        mm_encoder_outputs: dict[str, OTDRGStudyFeatures] | None = None,
        vision_features: torch.FloatTensor | None = None,
        other_labels: torch.LongTensor | None = None,
        shown_labels: torch.LongTensor | None = None,
        told_labels: torch.Tensor | None = None,
        **kwargs,
    ) -> OTDRGModelOutputWithPast:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `[B, T]`, *optional*): Prompt (and report) with placeholders.
            pixel_values, view_mask, disease_labels, vision_features, other_labels, shown_labels, told_labels:
                See [`OTDRGModel.get_image_features`].
            mm_encoder_outputs (`dict`, *optional*): `{"image": features}`, computed before; excludes `pixel_values`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        given = (vision_features, other_labels, shown_labels, told_labels)
        features = self._study_features(pixel_values, view_mask, disease_labels, mm_encoder_outputs, *given)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if features is not None:
            inputs_embeds = self.merge_features(input_ids, inputs_embeds, features)
        elif input_ids is not None and (past_key_values is None or past_key_values.get_seq_length() == 0):
            places = input_ids == self.config.image_token_id
            check_counts("Image", places, places.new_zeros(len(places), dtype=torch.long))
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
        )

    def _study_features(
        self, pixel_values, view_mask, disease_labels, mm_encoder_outputs, vision_features=None, *labels
    ) -> OTDRGStudyFeatures | None:
        features = (mm_encoder_outputs or {}).get("image")
        if pixel_values is None and vision_features is None:
            if disease_labels is not None:
                raise ValueError("`disease_labels` need `pixel_values`: features that are computed have their labels.")
            return features
        if features is not None:
            raise ValueError("You cannot specify both pixel_values and mm_encoder_outputs at the same time")
        return self.get_image_features(pixel_values, view_mask, disease_labels, vision_features, *labels)


class OTDRGForConditionalGeneration(OTDRGPreTrainedModel, GenerationMixin):
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

    def __init__(self, config: OTDRGConfig):
        super().__init__(config)
        self.model = OTDRGModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, config.lm_head_bias)
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
        Joins a pretrained vision encoder and a pretrained causal language model by newly initialised bridges.

        Args:
            vision_id (`str`): Folder or Hub id of any vision encoder (or of a model that has one, such as CLIP).
            text_id (`str`): Folder or Hub id of any decoder-only language model with a tokenizer.
            config:
                Fields of [`OTDRGConfig`], `image_size` (pixels, defaults to the encoder's own), `dtype` (of all parts;
                by default the backbones keep theirs and the bridges are fp32), `attn_implementation` and
                `label_encoder`: folder or Hub id of a text encoder, such as a BERT, whose features the label phrases
                get instead of the LLM's embeddings. Only its features are kept.

        The matching processor is `OTDRGProcessor.from_backbones(vision_id, text_id, **config)`.
        """
        from .backbones_otdrg import model_from_backbones

        return model_from_backbones(cls, vision_id, text_id, **config)

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module):
        self.lm_head = value

    def get_image_features(self, *args, **kwargs) -> OTDRGStudyFeatures:
        """See [`OTDRGModel.get_image_features`]."""
        return self.model.get_image_features(*args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        view_mask: torch.Tensor | None = None,
        disease_labels: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        label_weights: torch.FloatTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        skip_logits: bool = False,
        num_items_in_batch: int | torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, OTDRGStudyFeatures] | None = None,
        vision_features: torch.FloatTensor | None = None,
        other_labels: torch.LongTensor | None = None,
        shown_labels: torch.LongTensor | None = None,
        told_labels: torch.Tensor | None = None,
        **kwargs,
    ) -> OTDRGCausalLMOutputWithPast:
        r"""
        Without `input_ids` (and `inputs_embeds`) the LLM is left out: logits of the diseases, plan and their losses.

        Args:
            labels (`torch.LongTensor` of shape `[B, T]`, *optional*): `input_ids` to predict, -100 elsewhere.
            label_weights (`torch.FloatTensor` of shape `[B, T]`, *optional*): Of each of `labels` in the loss.
            skip_logits (`bool`, *optional*, defaults to `False`):
                Leave out `logits`. The loss then projects only the supervised positions onto the vocabulary.
            num_items_in_batch (`int`, *optional*): Divisor of the summed LM loss, for gradient accumulation.
        """
        if input_ids is None and inputs_embeds is None:
            given = (vision_features, other_labels, shown_labels, told_labels)
            features = self.model._study_features(pixel_values, view_mask, disease_labels, mm_encoder_outputs, *given)
            if features is None:
                raise ValueError("You must specify input_ids, inputs_embeds or pixel_values")
            return self._output(features)
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            view_mask=view_mask,
            disease_labels=disease_labels,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            mm_encoder_outputs=mm_encoder_outputs,
            vision_features=vision_features,
            other_labels=other_labels,
            shown_labels=shown_labels,
            told_labels=told_labels,
            **kwargs,
        )
        hidden = outputs.last_hidden_state  # [B, T, hidden]
        return self._output(
            outputs.study_features,
            lm_loss=None if labels is None else self._language_loss(hidden, labels, label_weights, num_items_in_batch),
            logits=None if skip_logits else self._project(slice_logits_to_keep(hidden, logits_to_keep)),
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    @property
    def _logit_cap(self) -> float | None:
        return getattr(self.config.text_config, "final_logit_softcapping", None)  # Gemma's

    def _project(self, hidden: torch.Tensor) -> torch.Tensor:
        logits, cap = self.lm_head(hidden), self._logit_cap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _language_loss(self, hidden, labels, label_weights, num_items_in_batch) -> torch.Tensor:
        targets = labels[:, 1:]
        supervised = targets != -100  # [B, T - 1]
        hidden, targets = hidden[:, :-1][supervised], targets[supervised].to(hidden.device)
        weights = None if label_weights is None else label_weights[:, 1:][supervised].to(hidden.device)
        loss = chunked_cross_entropy(hidden, self.lm_head, targets, self._logit_cap, weights)
        if loss is None:
            logits = self._project(hidden).float()  # [supervised, vocab]
            losses = F.cross_entropy(logits, targets.to(logits.device), reduction="none")
            loss = (losses if weights is None else losses * weights.to(losses)).sum()
        items = supervised.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        return loss / items.to(loss.device).clamp(min=1)

    def _output(self, features: OTDRGStudyFeatures | None, lm_loss=None, **outputs) -> OTDRGCausalLMOutputWithPast:
        terms, ot_loss, of_diseases = [] if lm_loss is None else [lm_loss], None, None
        if features is not None:
            outputs |= {key: features[key] for key in ("disease_logits", "disease_states", "transport_plan")}
            if features.ot_loss is not None:
                ot_loss, of_diseases = features.ot_loss.mean(), features.disease_loss.mean()
                terms += [self.config.ot_loss_weight * ot_loss, self.config.disease_loss_weight * of_diseases]
        # All at once: a field that is set later comes last, and the first one has to be the loss.
        loss = sum(terms) if terms else None
        return OTDRGCausalLMOutputWithPast(
            loss=loss, lm_loss=lm_loss, ot_loss=ot_loss, disease_loss=of_diseases, **outputs
        )

    def save_pretrained(self, save_directory, **kwargs):
        """Saves the model with the code to run it by `trust_remote_code=True` where otdrg_hf is not installed."""
        # Imported here for its name to be found by the search for files that travel along.
        from .pipeline_otdrg import CUSTOM_PIPELINES

        classes = {"AutoModel": type(self), "AutoProcessor": OTDRGProcessor}
        self.config.auto_map = {k: f"{c.__module__.split('.')[-1]}.{c.__name__}" for k, c in classes.items()}
        self.config.custom_pipelines = CUSTOM_PIPELINES
        try:
            super().save_pretrained(save_directory, **kwargs)
        finally:
            del self.config.custom_pipelines

    def _expand_inputs_for_generation(self, expand_size: int = 1, **kwargs):
        """Beams and samples share the features of their study, computed before they are expanded."""
        encoded = kwargs.pop("mm_encoder_outputs", None) or {}
        input_ids, model_kwargs = super()._expand_inputs_for_generation(expand_size=expand_size, **kwargs)
        features = encoded.get("image")
        if features is not None and expand_size > 1:
            # The phrases belong to the model, everything else has one row per study.
            rows = {k: v.repeat_interleave(expand_size, 0) for k, v in features.items() if k != "label_phrases"}
            encoded = {"image": OTDRGStudyFeatures(**rows, label_phrases=features.label_phrases)}
        return input_ids, {**model_kwargs, "mm_encoder_outputs": encoded}


OTDRGConfig.register_for_auto_class()
OTDRGForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["OTDRGForConditionalGeneration", "OTDRGModel", "OTDRGPreTrainedModel"]
