"""Tests of the alignment: masses of the plan, label-wise features, and losses."""

import pytest
import torch
from torch import nn

from otdrg_hf.modeling.disease_states_otdrg import POSITIVE
from otdrg_hf.modeling.layers_otdrg import DiseaseHead, Fusion, LabelEncoder, TransportAlignment, label_positions
from otdrg_hf.modeling.losses_otdrg import disease_loss
from tests.support.tiny_models import make_config, make_model


@pytest.fixture(scope="module")
def config():
    return make_config(background_mass=0.4)


def aligned(config, seed=0, views=2, patches_per_view=16):
    torch.manual_seed(seed)
    alignment = TransportAlignment(config)
    nn.init.normal_(alignment.background)
    patches = torch.randn(3, views * patches_per_view, config.alignment_dim)
    mask = torch.ones(3, views, dtype=torch.bool)
    mask[1, 1:] = False
    patch_mask = mask.repeat_interleave(patches_per_view, 1)
    labels = torch.randn(3, 14, config.alignment_dim)
    masses = torch.rand(3, 14) + 0.1
    return alignment, patches, patch_mask, labels, masses


def test_plan_has_the_masses_of_patches_labels_and_background(config):
    alignment, patches, mask, labels, masses = aligned(config)
    plan = alignment(patches, mask, labels, masses).plan
    assert plan.shape == (3, 32, 15) and plan.dtype == torch.float32
    expected = mask / mask.sum(-1, keepdim=True)
    torch.testing.assert_close(plan.sum(-1), expected, atol=2e-4, rtol=0)
    assert (plan[1, 16:] == 0).all()
    expected = 0.6 * masses / masses.sum(-1, keepdim=True)
    torch.testing.assert_close(plan.sum(1)[:, :-1], expected, atol=2e-4, rtol=0)
    torch.testing.assert_close(plan.sum(1)[:, -1], torch.full((3,), 0.4), atol=2e-4, rtol=0)


def test_label_features_are_weighted_means_of_patches(config):
    alignment, patches, mask, labels, masses = aligned(config)
    plan, seen, _, cost = alignment(patches, mask, labels, masses)
    for study in range(3):
        for label in (0, 13):
            weights = plan[study, :, label] / plan[study, :, label].sum()
            torch.testing.assert_close(seen[study, label], weights @ patches[study], atol=1e-5, rtol=1e-4)
    columns = torch.cat([labels, alignment.background.expand(3, 1, -1)], 1)
    distance = 1 - torch.cosine_similarity(patches[:, :, None], columns[:, None], dim=-1)
    torch.testing.assert_close(cost, distance)


def test_a_label_sees_the_patches_that_look_like_it(config):
    alignment, patches, mask, labels, masses = aligned(config)
    labels[0, 3] = 5 * patches[0, 7]
    plan = alignment(patches, mask, labels, masses).plan
    assert plan[0, :, 3].argmax() == 7


def test_padded_views_change_nothing(config):
    alignment, patches, mask, labels, masses = aligned(config)
    once = alignment(patches[1:2, :16], mask[1:2, :16], labels[1:2], masses[1:2])
    patches[1, 16:] = 1e4
    padded = alignment(patches, mask, labels, masses)
    torch.testing.assert_close(padded.plan[1, :16], once.plan[0], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(padded.label_patches[1], once.label_patches[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(padded.evidence[1, :16], once.evidence[0], atol=1e-6, rtol=1e-4)


def test_no_background(config):
    alignment, patches, mask, labels, masses = aligned(make_config(background_mass=0.0))
    plan, seen, *_ = alignment(patches, mask, labels, masses)
    assert (plan[..., -1] == 0).all() and seen.isfinite().all()


def test_settings_are_read_from_the_configuration_at_each_call():
    config = make_config()
    alignment, patches, mask, labels, masses = aligned(config)
    sharp = alignment(patches, mask, labels, masses).plan
    config.epsilon = 1.0
    smooth = alignment(patches, mask, labels, masses).plan
    assert smooth.std() < 0.8 * sharp.std()


def test_label_encoder_ignores_padding_of_the_phrases(config):
    torch.manual_seed(0)
    embedding = nn.Embedding(400, 32)
    encoder = LabelEncoder(config)
    names, phrases = encoder(embedding(encoder.token_ids()))
    assert names.shape == (14, 16) and phrases.shape == (14, 4, 16)
    encoder.phrase_ids = nn.functional.pad(encoder.phrase_ids, (0, 3), value=-1)
    again, _ = encoder(embedding(encoder.token_ids()))
    torch.testing.assert_close(again, names)


def test_label_encoder_does_not_care_for_the_scale_of_the_embeddings(config):
    torch.manual_seed(0)
    embedding = nn.Embedding(400, 32)
    encoder = LabelEncoder(config)
    names, _ = encoder(embedding(encoder.token_ids()))
    embedding.weight.data.mul_(100)
    torch.testing.assert_close(encoder(embedding(encoder.token_ids()))[0], names, atol=1e-3, rtol=1e-3)


def test_label_encoder_without_phrase_ids_says_what_to_do():
    config = make_config()
    config.label_phrase_ids = None
    with pytest.raises(ValueError, match="`label_phrase_ids` is not set"):
        LabelEncoder(config)


def make_head(**fields) -> DiseaseHead:
    head = DiseaseHead(make_config(**fields))
    for parameter in (*head.classifier_weight, *head.classifier_bias, head.presence_log_scale, head.presence_offset):
        nn.init.zeros_(parameter)
    return head


def test_state_priors_are_where_the_scores_of_a_new_head_start():
    priors = [[0.7, 0.1, 0.15, 0.05]] * 14
    seen, present = torch.zeros(2, 14, 16), torch.zeros(14, 16)
    seen[..., :8], present[:, 8:] = torch.randn(2, 14, 8), torch.randn(14, 8)  # unlike each other: says nothing
    probabilities = make_head(state_priors=priors)(seen, torch.randn(14, 16), present).exp()
    torch.testing.assert_close(probabilities, torch.tensor(priors).expand(2, -1, -1))


def test_a_label_is_as_present_as_what_it_sees_resembles_the_phrase_of_its_presence():
    head = make_head()
    nn.init.normal_(head.classifier_weight)
    present, names = torch.randn(14, 16), torch.randn(14, 16)
    other = torch.randn(14, 16)
    other -= (other * present).sum(-1, keepdim=True) / (present**2).sum(-1, keepdim=True) * present  # orthogonal
    other *= present.norm(dim=-1, keepdim=True) / other.norm(dim=-1, keepdim=True)
    seen = torch.stack([share * present + (1 - share) * other for share in (0.0, 0.5, 1.0)])  # [3, m, d]
    probabilities = head(seen, names, present).exp()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(3, 14))
    odds = torch.logit(probabilities[..., POSITIVE], eps=1e-12)
    expected = torch.logit(torch.tensor(0.25)) + 20 * torch.tensor([0.0, 0.5**0.5, 1.0])
    torch.testing.assert_close(odds[:2], expected[:2, None].expand(2, 14), atol=1e-2, rtol=0)
    assert (probabilities[2, :, POSITIVE] > 0.999).all()


def test_calibration_maps_the_log_odds_of_positive_and_leaves_the_others_their_proportions():
    seen, names, present = 0.1 * torch.randn(2, 14, 16), torch.randn(14, 16), torch.randn(14, 16)
    table = [[0.5 + 0.1 * label, label - 7.0] for label in range(14)]
    plain, calibrated = (make_head(**fields)(seen, names, present) for fields in ({}, {"score_calibration": table}))
    slope, intercept = torch.tensor(table).T
    odds = [each[..., POSITIVE] - torch.log1p(-each[..., POSITIVE].exp()) for each in (plain, calibrated)]
    torch.testing.assert_close(odds[1], slope * odds[0] + intercept, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(calibrated.exp().sum(-1), torch.ones(2, 14))
    torch.testing.assert_close(calibrated[..., 2] - calibrated[..., 0], plain[..., 2] - plain[..., 0])


def test_evidence_is_what_moved_times_how_well_it_fits(config):
    alignment, patches, mask, labels, masses = aligned(config)
    labels[0, 3] = 5 * patches[0, 7]
    result = alignment(patches, mask, labels, masses)
    fit = torch.cosine_similarity(patches[:, :, None], labels[:, None], dim=-1)
    torch.testing.assert_close(result.evidence, result.plan[..., :-1] * fit.clamp(min=0))
    assert result.evidence[0, :, 3].argmax() == 7 and (result.evidence[1, 16:] == 0).all()


def test_pooled_visual_tokens_keep_every_view_apart():
    config = make_config(image_token_pooling=3, image_grid=[4, 4])
    fusion = Fusion(config)
    maps = torch.randn(2, 3, 4, 4, 16)
    tokens = fusion.visual_tokens(maps)
    assert tokens.shape == (2, 3, 4, 32) and config.image_seq_length == 4
    torch.testing.assert_close(fusion.visual_tokens(maps[1:, 2:])[0, 0], tokens[1, 2])
    corner = fusion.image_output(fusion.act(fusion.image_dense(maps[0, 0, 3, 3])))
    torch.testing.assert_close(tokens[0, 0, 3], corner)  # 1 x 1 patch is left over


def test_the_side_of_a_label_is_not_drowned_in_its_token():
    """Else the LLM takes thousands of steps to learn to write left or right."""
    model = make_model()
    evidence = torch.zeros(1, 16, 2)  # two labels on a grid of 4 x 4, in the left and in the right half
    evidence[0, [4, 8], 0], evidence[0, [7, 11], 1] = 1, 1
    left, right = label_positions(evidence, torch.ones(1, 1), 4, 4)[0]
    content, told = (torch.randn(1, 14, 16), torch.randn(1, 14, 16)), torch.zeros(1, 14, dtype=torch.bool)
    label_tokens = model.model.fusion.label_tokens
    with torch.no_grad():
        here, there = (label_tokens(*content, place.expand(1, 14, -1), told) for place in (left, right))
    assert (here - there).norm() > 0.2 * here.norm()


def test_disease_loss_averages_over_known_labels_of_a_study():
    logits = torch.randn(2, 14, 4)
    states = torch.randint(0, 4, (2, 14))
    states[0, 5:] = -100
    expected = nn.functional.cross_entropy(logits[0, :5], states[0, :5])
    torch.testing.assert_close(disease_loss(logits, states)[0], expected)
    assert disease_loss(logits, torch.full((2, 14), -100)).tolist() == [0, 0]
