"""Tests of the configuration: what it derives, what it refuses, and that it comes back as it was saved."""

import json

import pytest
import transformers
from transformers import AutoConfig

from otdrg_hf import OTDRGConfig
from otdrg_hf.labeling import LABELS


def test_labels_are_those_of_the_labeler():
    assert list(OTDRGConfig().label_names) == list(LABELS)


def test_saved_configuration_comes_back(tmp_path):
    config = OTDRGConfig(
        vision_config=transformers.ResNetConfig(hidden_sizes=[8, 16], depths=[1, 1]),
        text_config=transformers.GPT2Config(n_embd=32),
        positive_thresholds=[0.3] * 14,
        score_calibration=[[0.5, -0.1]] * 14,
        state_priors=[[0.1, 0.2, 0.3, 0.4]] * 14,
        label_phrase_ids=[[[1, 2]] * 5] * 14,
        image_grid=(3, 5),
        notice="Synthetic.",
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is OTDRGConfig
    assert type(loaded.vision_config) is transformers.ResNetConfig
    assert type(loaded.text_config) is transformers.GPT2Config
    assert {**loaded.to_dict(), "_name_or_path": ""} == config.to_dict()


def test_sub_configurations_may_be_dicts():
    config = OTDRGConfig(
        vision_config={"model_type": "resnet", "hidden_sizes": [8, 24]}, text_config={"model_type": "gpt2"}
    )
    assert config.vision_feature_size == 24
    assert config.text_config.hidden_size == 768


@pytest.mark.parametrize("tied", [True, False])
def test_tying_follows_the_language_model(tied):
    config = OTDRGConfig(text_config={"model_type": "llama", "tie_word_embeddings": tied})
    assert config.tie_word_embeddings is tied


def test_every_phrase_is_distinct():
    phrases = [phrase for label in OTDRGConfig().label_phrases for phrase in label]
    assert len(phrases) == 14 * 5 == len(set(phrases))


def test_visual_tokens_cover_a_grid_that_pooling_does_not_divide():
    assert OTDRGConfig(image_grid=[7, 5], image_token_pooling=2).image_seq_length == 4 * 3


def test_custom_pipeline_entry_of_a_saved_file_is_not_kept(tmp_path):
    OTDRGConfig().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "custom_pipelines": {"radiology-report": {}}}))
    assert not hasattr(AutoConfig.from_pretrained(tmp_path), "custom_pipelines")


NAN = float("nan")


@pytest.mark.parametrize(
    "fields",
    [
        {"label_names": []},
        {"label_names": ["Edema", "Edema"]},
        {"device_labels": ["Pacemaker"]},
        {"label_phrases": [["edema"] * 5]},
        {"label_phrase_ids": [[[1]] * 4] * 14},
        {"label_phrase_ids": [[[1], [], [1], [1], [1]]] * 14},
        {"state_priors": [[0.5, 0.5, 0.0, 0.0]] * 14},
        {"state_priors": [[NAN] * 4] * 14},
        {"state_masses": [1.0, 1.0]},
        {"state_masses": [0.0, 1.0, 1.0, 1.0]},
        {"positive_thresholds": [0.5]},
        {"positive_thresholds": [1.5] * 14},
        {"score_calibration": [[1.0]] * 14},
        {"score_calibration": [[-1.0, 0.0]] * 14},
        {"epsilon": 0.0},
        {"tolerance": -1.0},
        {"max_iterations": 0},
        {"alignment_dim": 0},
        {"image_token_pooling": 0},
        {"ot_loss_weight": -0.1},
        {"disease_loss_weight": NAN},
        {"background_mass": 1.0},
        {"label_words": 4},
        {"solver": "sinkhorm"},
        {"image_grid": [14]},
        {"image_grid": [0, 14]},
        {"patch_offset": [0.5]},
        {"patch_offset": [0.0, NAN]},
        {"image_token_id": 7, "finding_token_id": 7},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_named(fields):
    with pytest.raises(ValueError, match=f"`{next(iter(fields))}`") as error:
        OTDRGConfig(**fields)
    assert "\n" not in str(error.value)


def test_encoder_of_unknown_width_asks_for_it():
    with pytest.raises(ValueError, match="`vision_feature_size` must be given"):
        OTDRGConfig(vision_config=transformers.TimmWrapperConfig(architecture="resnet18"))
