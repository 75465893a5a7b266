"""The core of OTDRG: label phrases and patches in one space, transport between them, disease head and fusion."""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_otdrg import OTDRGConfig
from .coupling_otdrg import couple
from .disease_states import POSITIVE
from .optimal_transport import cosine_cost, transport_cost
from .vision_otdrg import grid_positions

POSITION_SIZE = 24
PRESENCE_SCALE = 20.0


class Aligned(NamedTuple):
    """
    What a coupling of patches and labels gives.

    Attributes:
        plan (`torch.Tensor` of shape `[B, N, m + 1]`): fp32; the background comes last.
        label_patches (`torch.Tensor` of shape `[B, m, d]`): Label-wise visual features *Z*.
        cost (`torch.Tensor` of shape `[B]`): Cross-modal distance `<T, C>`, fp32.
        evidence (`torch.Tensor` of shape `[B, N, m]`): The mass that a patch moved to a label times how well it fits
            it, `T max(cos, 0)`, fp32. A patch cannot give more than it has, so that the plan alone is flat where a
            label takes all of several patches.
    """

    plan: torch.Tensor
    label_patches: torch.Tensor
    cost: torch.Tensor
    evidence: torch.Tensor


class PatchProjection(nn.Module):
    """Patch features of the encoder, and where they are, in the alignment space: `[B, h, w, c]` -> `[B, h, w, d]`."""

    def __init__(self, config: OTDRGConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.vision_feature_size)
        self.features = nn.Linear(config.vision_feature_size, config.alignment_dim)
        self.position = nn.Linear(POSITION_SIZE, config.alignment_dim, bias=False)
        self.output_norm = nn.LayerNorm(config.alignment_dim)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        rows, columns = patches.shape[1:3]
        # The bridges may be trained in fp32 between frozen half-precision backbones.
        patches = patches.to(self.norm.weight.dtype)
        positions = grid_positions(rows, columns, POSITION_SIZE, patches.device, patches.dtype)
        return self.output_norm(self.features(self.norm(patches)) + self.position(positions))


class LabelEncoder(nn.Module):
    """
    Label phrases in the alignment space: from the mean of the LLM's embeddings of their tokens, or, with
    `config.label_feature_size`, from what a text encoder gave for them.
    """

    def __init__(self, config: OTDRGConfig):
        super().__init__()
        if config.label_phrase_ids is None:
            raise ValueError(
                "`label_phrase_ids` is not set: tokenize `label_phrases` with OTDRGProcessor.label_phrase_ids(config), "
                "or build the model with OTDRGForConditionalGeneration.from_backbones(vision, text)."
            )
        feature_size = config.label_feature_size or config.text_config.hidden_size
        self.config = config
        # Not saved: the configuration holds them, and two copies could differ.
        self.register_buffer("phrase_ids", self.padded_phrase_ids(), persistent=False)
        if config.label_feature_size:
            shape = (config.num_disease_labels, 1 + config.num_states, feature_size)
            self.register_buffer("phrase_features", torch.zeros(shape))  # of encode_label_phrases
        self.dense = nn.Linear(feature_size, config.alignment_dim)
        self.act = nn.GELU()
        self.output = nn.Linear(config.alignment_dim, config.alignment_dim)
        self.norm = nn.LayerNorm(config.alignment_dim)

    def padded_phrase_ids(self) -> torch.Tensor:
        """`config.label_phrase_ids` as `[m, 1 + states, tokens]`, padded with -1."""
        table = self.config.label_phrase_ids
        longest = max(len(ids) for label in table for ids in label)
        return torch.tensor([[list(ids) + [-1] * (longest - len(ids)) for ids in label] for label in table])

    def forward(self, embed_tokens: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the names `[m, d]` and the (label, state) phrases `[m, states, d]`."""
        given = self.phrase_features if self.config.label_feature_size else self._mean_embeddings(embed_tokens)
        # Features of different models differ in scale by orders of magnitude.
        given = F.layer_norm(given.to(self.norm.weight.dtype), given.shape[-1:])
        phrases = self.norm(self.output(self.act(self.dense(given))))  # [m, 1 + states, d]
        return phrases[:, 0], phrases[:, 1:]

    def _mean_embeddings(self, embed_tokens: nn.Module) -> torch.Tensor:
        mask = (self.phrase_ids >= 0).unsqueeze(-1)
        tokens = embed_tokens(self.phrase_ids.clamp(min=0)) * mask  # [m, 1 + states, tokens, hidden]
        return tokens.to(self.norm.weight.dtype).sum(-2) / mask.sum(-2)


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
    ) -> Aligned:
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
        a = patch_mask.float() / patch_mask.float().sum(-1, keepdim=True)  # [B, N]
        b = label_masses.float() / label_masses.float().sum(-1, keepdim=True) * (1 - config.background_mass)
        b = torch.cat([b, b.new_full((batch, 1), config.background_mass)], dim=1)  # [B, m + 1]
        plan = couple(cost, a, b, config)
        of_labels = plan[..., :-1]
        weights = of_labels / of_labels.sum(1, keepdim=True).clamp(min=1e-12)  # [B, N, m]
        label_patches = weights.transpose(1, 2).to(patches.dtype) @ patches  # [B, m, d]
        evidence = of_labels * (1 - cost[..., :-1]).clamp(min=0)  # [B, N, m]
        return Aligned(plan, label_patches, transport_cost(plan, cost), evidence)


class DiseaseHead(nn.Module):
    """
    State logits of each label from what it sees.

    Whether a label is positive is read off the cosine between its label-wise visual feature and the phrase of its
    presence, `p = sigmoid(prior log-odds + scale * (cos - offset))`. A classifier of any form could as well learn that
    a sign is present where something normal is missed, and would then look there; similarity to "is present" can only
    rise where the sign is, which is what makes the plan evidence. The other states share the rest by a classifier.
    """

    def __init__(self, config: OTDRGConfig):
        super().__init__()
        m, others, d = config.num_disease_labels, config.num_states - 1, config.alignment_dim
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
            label_patches (`torch.Tensor` of shape `[B, m, d]`): `Z` of a transport that does not know the states.
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
        # Rare states start where they belong.
        others = others + torch.cat([priors[:, :POSITIVE], priors[:, POSITIVE + 1 :]], dim=-1).log()
        others = others.log_softmax(-1) + F.logsigmoid(-presence).unsqueeze(-1)  # [B, m, states - 1]
        positive = F.logsigmoid(presence).unsqueeze(-1)
        return torch.cat([others[..., :POSITIVE], positive, others[..., POSITIVE:]], dim=-1)

    def _priors(self, device: torch.device) -> torch.Tensor:
        m, states = self.config.num_disease_labels, self.config.num_states
        if self.config.state_priors is None:
            return torch.full((m, states), 1 / states, device=device)
        return torch.tensor(self.config.state_priors, device=device)


class Fusion(nn.Module):
    """Visual tokens and label tokens in the embedding space of the LLM."""

    def __init__(self, config: OTDRGConfig):
        super().__init__()
        hidden_size = config.text_config.hidden_size
        self.pooling = config.image_token_pooling
        self.image_dense = nn.Linear(config.alignment_dim, hidden_size)
        self.image_output = nn.Linear(hidden_size, hidden_size)
        self.act = nn.GELU()
        self.label_tokens = LabelTokens(config)

    def visual_tokens(self, patches: torch.Tensor) -> torch.Tensor:
        """`[B, V, rows, columns, d]` -> `[B, V, tokens, hidden]`, averaging `pooling` x `pooling` patches."""
        batch, views = patches.shape[:2]
        if self.pooling > 1:
            maps = patches.flatten(0, 1).permute(0, 3, 1, 2)
            maps = F.avg_pool2d(maps, self.pooling, ceil_mode=True)
            patches = maps.permute(0, 2, 3, 1).unflatten(0, (batch, views))
        return self.image_output(self.act(self.image_dense(patches.flatten(2, 3))))


class LabelTokens(nn.Module):
    """
    One token of the LLM per label: what is said of it, and what is seen of it and where, or that it was told.

    What is seen of a label contradicts a state that somebody set by hand. A label that was told shows a learned vector
    in its place, so that the state is to be taken at its word.
    """

    def __init__(self, config: OTDRGConfig):
        super().__init__()
        d, hidden_size = config.alignment_dim, config.text_config.hidden_size
        self.phrase_dense = nn.Linear(d, hidden_size)
        self.seen_dense = nn.Linear(d, hidden_size)
        # On its own: among hundreds of features of unit scale the few that tell left from right would drown.
        self.place_norm = nn.LayerNorm(POSITION_SIZE)
        self.place_dense = nn.Linear(POSITION_SIZE, hidden_size, bias=False)
        self.told = nn.Parameter(torch.empty(hidden_size))
        self.act = nn.GELU()
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, phrases: torch.Tensor, label_patches: torch.Tensor, places: torch.Tensor, told: torch.Tensor
    ) -> torch.Tensor:
        """
        Args:
            phrases (`torch.Tensor` of shape `[B, m, d]`): Features of the (label, state) phrases.
            label_patches (`torch.Tensor` of shape `[B, m, d]`): Label-wise visual features *Z*.
            places (`torch.Tensor` of shape `[B, m, p]`): Of [`label_places`].
            told (`torch.Tensor` of shape `[B, m]`): True where the state is told, and what is seen is not shown.

        Returns:
            `torch.Tensor` of shape `[B, m, hidden]`.
        """
        seen = self.seen_dense(label_patches) + self.place_dense(self.place_norm(places))  # [B, m, hidden]
        seen = torch.where(told.unsqueeze(-1), self.told.to(seen.dtype), seen)
        return self.output(self.act(self.phrase_dense(phrases) + seen))


def label_places(evidence: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """
    Where each label was seen: the mean position code of its evidence in the first view, `[B, N, m]` -> `[B, m, p]`.

    Left and right are read off the first view alone, the frontal one by convention: a lateral view shows neither, and
    a mean over both would hide them.
    """
    positions = grid_positions(rows, columns, POSITION_SIZE, evidence.device, evidence.dtype).flatten(0, 1)  # [n, p]
    first_view = evidence[:, : rows * columns]  # [B, n, m]
    weights = first_view / first_view.sum(1, keepdim=True).clamp(min=1e-12)
    return weights.transpose(1, 2) @ positions


def phrase_contrast(
    label_patches: torch.Tensor, phrases: torch.Tensor, states: torch.Tensor, temperature: float
) -> torch.Tensor:
    """
    Contrast of what each label sees with every phrase of every label, `[B]`.

    For label *j* in state *s*: `-log softmax_(k, r)(cos(Z_j, L_kr) / temperature)` at `(j, s)`, averaged over the
    labels whose state is known. Pulling `Z` and `L` together alone is minimised by one common direction; here the
    phrases of other labels and the other states of the same label are negatives, so both must spread. The negatives
    come from within the study, which keeps the loss independent of how a batch is split over steps or devices.

    Args:
        label_patches (`torch.Tensor` of shape `[B, m, d]`): `Z` of a transport that does not know the states.
        phrases (`torch.Tensor` of shape `[m, states, d]`): Features of the phrases.
        states (`torch.Tensor` of shape `[B, m]`): State codes, -100 where unknown.
        temperature (`float`): Of the softmax.
    """
    m, num_states = phrases.shape[:2]
    similarity = 1 - cosine_cost(label_patches, phrases.flatten(0, 1)[None])  # [B, m, m * states]
    targets = torch.arange(m, device=states.device) * num_states + states  # [B, m]
    targets = targets.masked_fill(states < 0, -100)
    losses = F.cross_entropy((similarity / temperature).transpose(1, 2), targets, reduction="none")  # [B, m]
    return losses.sum(-1) / (states >= 0).sum(-1).clamp(min=1)


def disease_loss(logits: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over the states, averaged over the known labels (not -100) of each study, `[B]`."""
    losses = F.cross_entropy(logits.transpose(1, 2), states, reduction="none")  # [B, m]
    return losses.sum(-1) / (states >= 0).sum(-1).clamp(min=1)
