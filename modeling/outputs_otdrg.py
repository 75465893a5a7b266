"""What the OTDRG models return, and the features of a study that generation computes once."""

from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils import ModelOutput


@dataclass
class OTDRGStudyFeatures(ModelOutput):
    """
    All that the LLM and the losses need of a batch of studies, computed once per study.

    Args:
        image_embeds (`torch.FloatTensor` of shape `[B, V, tokens, hidden]`): Visual tokens of each view.
        view_mask (`torch.BoolTensor` of shape `[B, V]`): False where a view is padding.
        finding_embeds (`torch.FloatTensor` of shape `[B, label_words + m, hidden]`):
            The labels in words, where the model shows them, and one token per label.
        disease_logits (`torch.FloatTensor` of shape `[B, m, states]`): fp32, from a transport that knows no states.
        disease_states (`torch.LongTensor` of shape `[B, m]`): The states that the label tokens speak of.
        transport_plan (`torch.FloatTensor` of shape `[B, V * n, m + 1]`): fp32; the background comes last.
        transport_cost (`torch.FloatTensor` of shape `[B]`): Cross-modal distance `<T, C>`.
        evidence (`torch.FloatTensor` of shape `[B, V * n, m]`): fp32; how much of each label was seen in each patch.
        ot_loss, disease_loss (`torch.FloatTensor` of shape `[B]`, *optional*): With `disease_labels` only.
        patches (`torch.FloatTensor` of shape `[B, V * n, d]`): Patch features in the alignment space.
        label_phrases (`torch.FloatTensor` of shape `[m, states, d]`): Phrase features in the alignment space.
    """

    image_embeds: torch.FloatTensor | None = None
    view_mask: torch.BoolTensor | None = None
    finding_embeds: torch.FloatTensor | None = None
    disease_logits: torch.FloatTensor | None = None
    disease_states: torch.LongTensor | None = None
    transport_plan: torch.FloatTensor | None = None
    transport_cost: torch.FloatTensor | None = None
    evidence: torch.FloatTensor | None = None
    ot_loss: torch.FloatTensor | None = None
    disease_loss: torch.FloatTensor | None = None
    patches: torch.FloatTensor | None = None
    label_phrases: torch.FloatTensor | None = None


@dataclass
class OTDRGModelOutputWithPast(BaseModelOutputWithPast):
    """`BaseModelOutputWithPast` with `study_features`, `None` where no image was given (as in cached decoding)."""

    study_features: OTDRGStudyFeatures | None = None


@dataclass
class OTDRGCausalLMOutputWithPast(ModelOutput):
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

    loss: torch.FloatTensor | None = None
    lm_loss: torch.FloatTensor | None = None
    ot_loss: torch.FloatTensor | None = None
    disease_loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    disease_logits: torch.FloatTensor | None = None
    disease_states: torch.LongTensor | None = None
    transport_plan: torch.FloatTensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.FloatTensor] | None = None
    attentions: tuple[torch.FloatTensor] | None = None
