# Copyright 2026 The otdrg-hf authors. Licensed under the Apache License, Version 2.0.
"""
The layers of OTDRG in the order of the data: patches, label encoder, transport alignment, disease head, fusion.

    maps [B, V, rows, columns, c] -> PatchProjection -> patches [B, N, d]            N = V * rows * columns
    label phrases                 -> LabelEncoder    -> names [m, d], phrases [m, states, d]
    patches, phrases              -> TransportAlignment -> plan [B, N, m + 1], label-wise features Z [B, m, d]
    Z, names, phrases             -> DiseaseHead     -> disease logits [B, m, states]
    patches, Z, states            -> Fusion          -> visual tokens, label words and label tokens of the LLM

Zhao et al., "Optimal Transport-Driven Radiology Report Generation via LLMs" (arXiv 2507.03908).
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.compiler import is_compiling
from torch.nn import functional as F

from .configuration_otdrg import NUM_STATES, OTDRGConfig
from .disease_states_otdrg import POSITIVE
from .optimal_transport import cosine_cost, sinkhorn
from .vision_otdrg import POSITION_SIZE, grid_positions

PRESENCE_SCALE = 20.0


class PatchProjection(nn.Module):
    """Patch features of the encoder and their positions in the alignment space: `[B, h, w, c]` -> `[B, h, w, d]`."""

    def __init__(self, config: OTDRGConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.vision_feature_size)
        self.features = nn.Linear(config.vision_feature_size, config.alignment_dim)
        self.position = nn.Linear(POSITION_SIZE, config.alignment_dim, bias=False)
        self.output_norm = nn.LayerNorm(config.alignment_dim)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        rows, columns = patches.shape[1:3]
        # The projectors may be trained in fp32 between frozen half-precision backbones.
        patches = patches.to(self.norm.weight.dtype)
        positions = grid_positions(rows, columns, POSITION_SIZE, patches.device, patches.dtype)
        return self.output_norm(self.features(self.norm(patches)) + self.position(positions))


class LabelEncoder(nn.Module):
    """
    Label phrases in the alignment space: from the mean of the LLM's embeddings of their tokens or, with
    `config.label_feature_size`, from the features of a text encoder.
    """

    phrase_ids: torch.Tensor
    phrase_features: torch.Tensor

    def __init__(self, config: OTDRGConfig):
        super().__init__()
        feature_size = config.label_feature_size or config.text_config.hidden_size
        self.config = config
        # Not saved: the configuration holds them, and two copies could differ.
        self.register_buffer("phrase_ids", self.padded_phrase_ids(), persistent=False)
        if config.label_feature_size:
            shape = (config.num_disease_labels, 1 + NUM_STATES, feature_size)
            self.register_buffer("phrase_features", torch.zeros(shape))  # of encode_label_phrases
        self.dense = nn.Linear(feature_size, config.alignment_dim)
        self.act = nn.GELU()
        self.output = nn.Linear(config.alignment_dim, config.alignment_dim)
        self.norm = nn.LayerNorm(config.alignment_dim)

    def padded_phrase_ids(self) -> torch.Tensor:
        """`config.label_phrase_ids` as `[m, 1 + states, tokens]`, padded with -1."""
        if self.config.label_phrase_ids is None:
            raise ValueError(
                "`label_phrase_ids` is not set: tokenize `label_phrases` with OTDRGProcessor.label_phrase_ids(config), "
                "or build the model with OTDRGForConditionalGeneration.from_backbones(vision, text)."
            )
        return _padded_table(self.config.label_phrase_ids)

    def token_ids(self) -> torch.Tensor | None:
        """Token ids `[m, 1 + states, tokens]` whose embeddings `forward` takes; `None` with `label_feature_size`."""
        return None if self.config.label_feature_size else self.phrase_ids.clamp(min=0)

    def forward(self, embeds: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            embeds (`torch.Tensor` of shape `[m, 1 + states, tokens, hidden]`, *optional*):
                The LLM's embeddings of `token_ids`; those of the padding count for nothing.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: The names `[m, d]` and the (label, state) phrases `[m, states, d]`.
        """
        given = self.phrase_features if embeds is None else self._mean_embeddings(embeds)
        # Features of different models differ in scale by orders of magnitude.
        given = F.layer_norm(given.to(self.norm.weight.dtype), given.shape[-1:])
        phrases = self.norm(self.output(self.act(self.dense(given))))  # [m, 1 + states, d]
        return phrases[:, 0], phrases[:, 1:]

    def _mean_embeddings(self, embeds: torch.Tensor) -> torch.Tensor:
        mask = (self.phrase_ids >= 0).unsqueeze(-1)
        tokens = embeds * mask  # [m, 1 + states, tokens, hidden]
        return tokens.to(self.norm.weight.dtype).sum(-2) / mask.sum(-2)


class Alignment(NamedTuple):
    """
    A coupling of patches and labels, and what follows from it.

    Attributes:
        plan (`torch.Tensor` of shape `[B, N, m + 1]`): fp32; the background comes last.
        label_patches (`torch.Tensor` of shape `[B, m, d]`): Label-wise visual features *Z*.
        evidence (`torch.Tensor` of shape `[B, N, m]`): The mass that a patch moved to a label times its fit to the
            label, `T max(cos, 0)`, fp32. A patch cannot give more than it has, so that the plan alone is flat where a
            label takes all of several patches.
        cost (`torch.Tensor` of shape `[B, N, m + 1]`): Cost of moving a patch to a label, or to the background.
    """

    plan: torch.Tensor
    label_patches: torch.Tensor
    evidence: torch.Tensor
    cost: torch.Tensor


class TransportAlignment(nn.Module):
    """
    Optimal transport between the patches of a study and a set of label features.

    Patches carry equal mass (padded views none). The background, a learned feature, takes `background_mass` of it, and
    the labels share the rest in proportion to `label_masses`. With the plan *T* of cost `1 - cos` (or another coupling,
    see [`couple`]), label *j* sees the label-wise visual feature `Z_j = sum_i T_ij X_i / sum_i T_ij`.
    """

    def __init__(self, config: OTDRGConfig):
        super().__init__()
        self.config = config
        self.background = nn.Parameter(torch.empty(config.alignment_dim))

    def forward(
        self, patches: torch.Tensor, patch_mask: torch.Tensor, labels: torch.Tensor, label_masses: torch.Tensor
    ) -> Alignment:
        """
        Args:
            patches (`torch.Tensor` of shape `[B, N, d]`): Patches of all views.
            patch_mask (`torch.Tensor` of shape `[B, N]`): 1 where the view is real, 0 where it is padding.
            labels (`torch.Tensor` of shape `[B, m, d]`): Label features.
            label_masses (`torch.Tensor` of shape `[B, m]`): Relative masses, > 0.
        """
        config, batch = self.config, patches.shape[0]
        background = self.background.to(labels.dtype).expand(batch, 1, -1)
        cost = cosine_cost(patches, torch.cat([labels, background], dim=1))  # [B, N, m + 1]
        plan = couple(cost, *marginals(patch_mask, label_masses, config.background_mass), config)
        label_plan = plan[..., :-1]
        weights = label_plan / label_plan.sum(1, keepdim=True).clamp(min=1e-12)  # [B, N, m]
        label_patches = weights.transpose(1, 2).to(patches.dtype) @ patches  # [B, m, d]
        evidence = label_plan * (1 - cost[..., :-1]).clamp(min=0)  # [B, N, m]
        return Alignment(plan, label_patches, evidence, cost)


def marginals(
    patch_mask: torch.Tensor, label_masses: torch.Tensor, background_mass: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The masses `[B, N]` of patches, and `[B, m + 1]` of labels and background, of relative ones `[B, m]`; fp32."""
    patch_mask = patch_mask.bool() | ~patch_mask.bool().any(-1, keepdim=True)  # of a study without images, all are zero
    a = patch_mask.float() / patch_mask.float().sum(-1, keepdim=True)  # [B, N]
    b = label_masses.float() / label_masses.float().sum(-1, keepdim=True) * (1 - background_mass)
    return a, F.pad(b, (0, 1), value=background_mass)


def couple(cost: torch.Tensor, a: torch.Tensor, b: torch.Tensor, config: OTDRGConfig) -> torch.Tensor:
    """
    The coupling of patches and labels that `config.coupling` names.

    - `"transport"`: the entropic plan. Both marginals are held, so labels compete for patches.
    - `"unbalanced"`: label masses are held, patch masses only drawn to by a KL term of weight `config.patch_relaxation`
      (Chizat et al., 2018), so that a patch can belong to several labels or to none.
    - `"attention"`: the same cost and temperature, normalised over the patches of each label on its own.
    - `"pooling"`: the independent coupling, in which every label sees the mean of all patches.

    Args:
        cost (`torch.Tensor` of shape `[B, N, m + 1]`): Cosine cost.
        a (`torch.Tensor` of shape `[B, N]`): Patch masses, zero where a view is padding.
        b (`torch.Tensor` of shape `[B, m + 1]`): Label masses, the background last.

    Returns:
        `torch.Tensor` of shape `[B, N, m + 1]`, fp32, with column sums `b`.
    """
    if config.coupling == "transport":
        return sinkhorn(cost, a, b, config.epsilon, config.max_iterations, config.tolerance, solver=config.solver)
    if config.coupling == "unbalanced":
        return _unbalanced(cost, a, b, config)
    if config.coupling == "attention":
        return (a.log().unsqueeze(2) - cost / config.epsilon).softmax(1) * b.unsqueeze(1)
    return a.unsqueeze(2) * b.unsqueeze(1)


def _unbalanced(cost: torch.Tensor, a: torch.Tensor, b: torch.Tensor, config: OTDRGConfig) -> torch.Tensor:
    epsilon = config.epsilon
    damping = config.patch_relaxation / (config.patch_relaxation + epsilon)
    scores, patches, labels = -cost / epsilon, a.log().unsqueeze(2), b.log().unsqueeze(1)
    rows = torch.zeros_like(patches)  # [B, N, 1], the potential of the patches in units of epsilon
    for _ in range(config.max_iterations):
        # Labels last, so that their marginal is the exact one.
        rows = damping * (patches - (scores + labels - (scores + rows).logsumexp(1, keepdim=True)).logsumexp(2, True))
        rows = rows.masked_fill(patches.isinf(), -torch.inf)
    return (scores + rows + labels - (scores + rows).logsumexp(1, keepdim=True)).exp()


class DiseaseHead(nn.Module):
    """
    The disease prediction module: state logits of each label from its label-wise visual feature.

    Whether a label is positive follows from the cosine between that feature and the phrase of the label's presence,
    `p = sigmoid(prior log-odds + scale * (cos - offset))`. A classifier of any form could as well learn that a sign is
    present where something normal is missing, and would then look there; similarity to "is present" can only rise where
    the sign is, which is what makes the plan evidence. The other states share the rest by a classifier.
    """

    def __init__(self, config: OTDRGConfig):
        super().__init__()
        m, others, d = config.num_disease_labels, NUM_STATES - 1, config.alignment_dim
        self.config = config
        self.presence_log_scale = nn.Parameter(torch.empty(m))
        self.presence_offset = nn.Parameter(torch.empty(m))
        self.norm = nn.LayerNorm(d)
        self.dense = nn.Linear(d, d)
        self.act = nn.GELU()
        self.classifier_weight = nn.Parameter(torch.empty(m, others, d))
        self.classifier_bias = nn.Parameter(torch.empty(m, others))

    def forward(self, label_patches: torch.Tensor, names: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """
        Args:
            label_patches (`torch.Tensor` of shape `[B, m, d]`): *Z* of a transport that does not know the states.
            names, present (`torch.Tensor` of shape `[m, d]`): Features of the names, and of the phrases of presence.

        Returns:
            `torch.Tensor` of shape `[B, m, states]`: Log-probabilities, fp32.
        """
        priors = self._priors(label_patches.device)  # [m, states]
        similarity = F.cosine_similarity(label_patches.float(), present.float(), dim=-1)  # [B, m]
        scale = PRESENCE_SCALE * self.presence_log_scale.float().exp()
        presence = priors[:, POSITIVE].logit() + scale * (similarity - self.presence_offset.float())  # [B, m]
        if self.config.score_calibration is not None:
            slope, intercept = torch.tensor(self.config.score_calibration, device=presence.device).T  # [m], [m]
            presence = slope * presence + intercept
        hidden = self.act(self.dense(self.norm(label_patches + names)))  # [B, m, d]
        others = torch.einsum("bmd,msd->bms", hidden, self.classifier_weight.to(hidden.dtype))
        others = others.float() + self.classifier_bias.float()
        # Rare states start at their frequency.
        others = others + torch.cat([priors[:, :POSITIVE], priors[:, POSITIVE + 1 :]], dim=-1).log()
        others = others.log_softmax(-1) + F.logsigmoid(-presence).unsqueeze(-1)  # [B, m, states - 1]
        positive = F.logsigmoid(presence).unsqueeze(-1)
        return torch.cat([others[..., :POSITIVE], positive, others[..., POSITIVE:]], dim=-1)

    def _priors(self, device: torch.device) -> torch.Tensor:
        if self.config.state_priors is None:
            return torch.full((self.config.num_disease_labels, NUM_STATES), 1 / NUM_STATES, device=device)
        return torch.tensor(self.config.state_priors, device=device)


class Fusion(nn.Module):
    """What prompts the LLM, in its embedding space: visual tokens, the findings in words, and one token per label."""

    def __init__(self, config: OTDRGConfig):
        super().__init__()
        hidden_size = config.text_config.hidden_size
        self.pooling = config.image_token_pooling
        self.image_dense = nn.Linear(config.alignment_dim, hidden_size)
        self.image_output = nn.Linear(hidden_size, hidden_size)
        self.act = nn.GELU()
        self.label_words = LabelWords(config) if config.label_words else None
        self.label_tokens = LabelTokens(config)

    def visual_tokens(self, maps: torch.Tensor) -> torch.Tensor:
        """`[B, V, rows, columns, d]` -> `[B, V, tokens, hidden]`, averaging `pooling` x `pooling` patches."""
        batch, views = maps.shape[:2]
        if self.pooling > 1:
            maps = maps.flatten(0, 1).permute(0, 3, 1, 2)
            maps = F.avg_pool2d(maps, self.pooling, ceil_mode=True)
            maps = maps.permute(0, 2, 3, 1).unflatten(0, (batch, views))
        return self.image_output(self.act(self.image_dense(maps.flatten(2, 3))))


class LabelWords(nn.Module):
    """
    The findings in the LLM's own words: "cardiomegaly; possible edema;", or "no finding;".

    What is denied or not mentioned is left out: among the usual denials the one word that matters would be lost. An LLM
    that knows the words need not learn what they mean; one from scratch meets them in the reports.
    """

    word_ids: torch.Tensor

    def __init__(self, config: OTDRGConfig):
        super().__init__()
        self.config = config
        # Not saved: the configuration holds them, and two copies could differ.
        self.register_buffer("word_ids", self.padded_word_ids(), persistent=False)

    def padded_word_ids(self) -> torch.Tensor:
        """`config.label_word_ids` as `[m, states, tokens]`, padded with -1."""
        return _padded_table(self.config.label_word_ids or [])

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Token ids of the words of `states` `[B, m]`, `[B, label_words]`: repeated to fill the width, -1 for none."""
        positive_first = (states != POSITIVE).to(torch.int8).argsort(dim=1, stable=True)  # [B, m]
        ids = self.word_ids[positive_first, states.gather(1, positive_first)].flatten(1)  # [B, m * tokens]
        filled_first = (ids < 0).to(torch.int8).argsort(dim=1, stable=True)
        ids = ids.gather(1, filled_first)  # [B, m * tokens]
        # Positions without a word would take most of the attention.
        width = torch.arange(self.config.label_words, device=ids.device)
        count = (ids >= 0).sum(1, keepdim=True).clamp(1, self.config.label_words)  # [B, 1]
        return ids.gather(1, width % count)  # [B, label_words]


class LabelTokens(nn.Module):
    """
    One token of the LLM per label: its phrase, and what was seen of it and where, or that it is an override.

    What is seen of a label contradicts a state that overrides its prediction. An overridden label shows a learned
    vector instead, so that the LLM takes the state at its word.
    """

    def __init__(self, config: OTDRGConfig):
        super().__init__()
        d, hidden_size = config.alignment_dim, config.text_config.hidden_size
        self.phrase_dense = nn.Linear(d, hidden_size)
        self.seen_dense = nn.Linear(d, hidden_size)
        # On its own: among hundreds of features of unit scale the few that tell left from right would drown.
        self.place_norm = nn.LayerNorm(POSITION_SIZE)
        self.place_dense = nn.Linear(POSITION_SIZE, hidden_size, bias=False)
        self.told = nn.Parameter(torch.empty(hidden_size))  # of an override; named as in earlier checkpoints
        self.act = nn.GELU()
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, phrases: torch.Tensor, label_patches: torch.Tensor, positions: torch.Tensor, overridden: torch.Tensor
    ) -> torch.Tensor:
        """
        Args:
            phrases (`torch.Tensor` of shape `[B, m, d]`): Features of the (label, state) phrases.
            label_patches (`torch.Tensor` of shape `[B, m, d]`): Label-wise visual features *Z*.
            positions (`torch.Tensor` of shape `[B, m, p]`): Of [`label_positions`].
            overridden (`torch.BoolTensor` of shape `[B, m]`): Where the state overrides the prediction.

        Returns:
            `torch.Tensor` of shape `[B, m, hidden]`.
        """
        seen = self.seen_dense(label_patches) + self.place_dense(self.place_norm(positions))  # [B, m, hidden]
        seen = torch.where(overridden.unsqueeze(-1), self.told.to(seen.dtype), seen)
        return self.output(self.act(self.phrase_dense(phrases) + seen))


def label_positions(evidence: torch.Tensor, view_mask: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """
    Where each label was seen: the mean position code of its evidence in the first view that is there, `[B, N, m]` and
    `[B, V]` -> `[B, m, p]`.

    Left and right are read off the first view alone, the frontal one by convention: a lateral view shows neither, and
    a mean over both would hide them.
    """
    positions = grid_positions(rows, columns, POSITION_SIZE, evidence.device, evidence.dtype).flatten(0, 1)  # [n, p]
    first = view_mask.to(evidence.device).int().argmax(1)  # [B]
    first_view = evidence.unflatten(1, (-1, rows * columns))[torch.arange(len(first), device=first.device), first]
    weights = first_view / first_view.sum(1, keepdim=True).clamp(min=1e-12)  # [B, n, m]
    return weights.transpose(1, 2) @ positions


def real_views_first(embeds: torch.Tensor, view_mask: torch.Tensor) -> torch.Tensor:
    """Tokens of views `[B, V, tokens, hidden]` in one row per study, padded views last: `[B, V * tokens, hidden]`."""
    order = (~view_mask).to(torch.int8).argsort(dim=1, stable=True)  # [B, V]
    return embeds.gather(1, order[..., None, None].expand_as(embeds)).flatten(1, 2)


def fill_placeholders(inputs_embeds: torch.Tensor, places: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
    """
    Writes the first of `embeds` `[B, K, hidden]` of each row, in order, into its `places` `[B, T]` of `inputs_embeds`
    `[B, T, hidden]`. No shape depends on a value, so that no accelerator is waited for and a graph can hold it.
    """
    embeds = embeds.to(inputs_embeds.device, inputs_embeds.dtype)
    rank = (places.cumsum(1) - 1).clamp(0, embeds.shape[1] - 1)  # [B, T]
    gathered = embeds.gather(1, rank.unsqueeze(-1).expand(-1, -1, embeds.shape[-1]))  # [B, T, hidden]
    return torch.where(places.unsqueeze(-1), gathered, inputs_embeds)


def check_counts(name: str, places: torch.Tensor, expected: torch.Tensor):
    """`ValueError` unless each row of `places` `[B, T]` has as many placeholders as there are features for it `[B]`."""
    # No compiled graph can hold a look at values.
    if is_compiling():
        return
    tokens = places.sum(-1)  # [B]
    if not torch.equal(tokens, expected.to(tokens)):
        study = int((tokens != expected.to(tokens)).nonzero()[0])
        raise ValueError(
            f"{name} features and {name.lower()} tokens do not match, "
            f"tokens: {int(tokens[study])}, features: {int(expected[study])} (study {study})"
        )


def _padded_table(table: list[list[list[int]]]) -> torch.Tensor:
    """Token ids of a label and state each as one tensor, padded with -1."""
    longest = max(len(ids) for label in table for ids in label)
    return torch.tensor([[list(ids) + [-1] * (longest - len(ids)) for ids in label] for label in table])
