"""Tests of joining a pretrained encoder and a pretrained language model: their weights, sizes and logits are kept."""

import shutil

import pytest
import torch
import transformers
from transformers import AutoModel, AutoModelForCausalLM, GenerationConfig, pipeline

from otdrg_hf import OTDRGForConditionalGeneration, OTDRGProcessor
from otdrg_hf.modeling.backbones_otdrg import square_image_processor
from tests.support.families import save_text
from tests.support.tiny_models import TEXT, VISION, make_films, make_text_config, make_tokenizer, make_vision_config

FIELDS = {"alignment_dim": 16, "image_token_pooling": 2}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """Folders of pretrained encoders and language models, by name."""
    folders = {}
    torch.manual_seed(0)
    for name in VISION:
        folders[name] = tmp_path_factory.mktemp(name)
        AutoModel.from_config(make_vision_config(name)).save_pretrained(folders[name])
        square_image_processor(32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)).save_pretrained(folders[name])
    tokenizer = make_tokenizer()
    for name in TEXT:
        folders[name] = tmp_path_factory.mktemp(name)
        AutoModelForCausalLM.from_config(make_text_config(name, len(tokenizer))).save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return {name: str(path) for name, path in folders.items()}


def joined(backbones, vision="vit", text="llama", **fields):
    torch.manual_seed(1)
    names, fields = (backbones[vision], backbones[text]), {**FIELDS, **fields}
    model = OTDRGForConditionalGeneration.from_backbones(*names, **fields)
    return model, OTDRGProcessor.from_model(model)


def close(left, right, tolerance=1e-5):
    torch.testing.assert_close(left, right, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("vision, text", [(v, "llama") for v in VISION] + [("resnet", t) for t in TEXT if t != "llama"])
def test_joined_model_runs_and_comes_back(backbones, vision, text, tmp_path):
    model, processor = joined(backbones, vision, text)
    assert model.config.image_grid == list(VISION[vision][2]) and not model.training
    inputs = processor(images=make_films(2))
    with torch.no_grad():
        output = model(**inputs)
    assert output.logits.isfinite().all()
    assert not any(p.is_meta for p in [*model.parameters(), *model.buffers()])
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = OTDRGForConditionalGeneration.from_pretrained(tmp_path)
    with torch.no_grad():
        close(loaded(**inputs).logits, output.logits, 0)
    assert loaded.generation_config.to_dict() == model.generation_config.to_dict()
    answers = pipeline("radiology-report", model=str(tmp_path))(make_films(2), max_new_tokens=3)
    assert len(answers) == 2


def test_reports_are_the_most_likely_text_whatever_the_language_model_does_by_itself(backbones, tmp_path):
    """Instruction-tuned models come with sampling and a penalty on repetitions."""
    folder = tmp_path / "chat"
    shutil.copytree(backbones["llama"], folder)
    chat = {"do_sample": True, "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.1, "eos_token_id": [1, 2]}
    GenerationConfig(**chat).save_pretrained(folder)
    model, _ = joined({**backbones, "llama": str(folder)})
    settings = model.generation_config
    assert settings.eos_token_id == [1, 2] and settings.suppress_tokens
    assert (settings.do_sample, settings.temperature, settings.top_k, settings.repetition_penalty) == (None,) * 4


@pytest.mark.parametrize("text", TEXT)
def test_language_model_is_kept_as_it_was(backbones, text):
    model, processor = joined(backbones, text=text)
    pretrained = AutoModelForCausalLM.from_pretrained(backbones[text])
    ids = processor.tokenizer("The lungs are clear.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = pretrained(input_ids=ids).logits
        close(model(input_ids=ids).logits[..., : expected.shape[-1]], expected)
    assert len(processor.tokenizer) <= 320  # 300 of its own and the placeholders
    assert model.lm_head.out_features == model.config.text_config.vocab_size == 320
    assert model.get_input_embeddings().num_embeddings == 320
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    assert tied == pretrained.config.tie_word_embeddings


@pytest.mark.parametrize("vision", VISION)
def test_encoder_is_kept_as_it_was(backbones, vision):
    model, _ = joined(backbones, vision)
    pretrained = AutoModel.from_pretrained(backbones[vision])
    for (name, value), expected in zip(
        model.model.vision_tower.state_dict().items(), pretrained.state_dict().values(), strict=True
    ):
        assert torch.equal(value, expected), name


def test_bridges_are_initialised_by_the_seed(backbones):
    (first, _), (second, _) = joined(backbones), joined(backbones)
    for (name, value), again in zip(first.named_parameters(), second.parameters(), strict=True):
        assert value.isfinite().all(), name
        assert torch.equal(value, again), name
    assert first.model.fusion.image_dense.weight.std() > 0.05


def test_processor_matches_the_model(backbones):
    model, processor = joined(backbones, image_size=48)
    assert model.config.image_grid == [6, 6] and not model.config.trained_on_reports
    assert processor.num_image_tokens == model.config.image_seq_length == 9
    assert processor.image_token_id == model.config.image_token_id
    assert processor.finding_token_id == model.config.finding_token_id
    assert processor.label_phrase_ids(model.config) == model.config.label_phrase_ids
    assert processor.image_processor.size == {"height": 48, "width": 48}
    assert list(processor.image_processor.image_mean) == [0.4, 0.5, 0.6]


@pytest.mark.parametrize("vision", VISION)
def test_encoder_at_another_image_size(backbones, vision):
    model, processor = joined(backbones, vision, image_size=64, image_token_pooling=4)
    assert model.config.image_grid == [8, 8]
    with torch.no_grad():
        assert model(**processor(images=make_films(1))).logits.isfinite().all()


def test_encoder_inside_a_two_tower_model(backbones, tmp_path):
    config = transformers.CLIPConfig(
        vision_config=make_vision_config("clip").to_dict(),
        text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        | {"vocab_size": 50},
    )
    clip = transformers.CLIPModel(config)
    clip.save_pretrained(tmp_path)
    square_image_processor(32).save_pretrained(tmp_path)
    model, _ = joined({**backbones, "two towers": str(tmp_path)}, "two towers")
    expected = clip.vision_model.state_dict()
    for name, value in model.model.vision_tower.state_dict().items():
        assert torch.equal(value, expected[name.removeprefix("vision_model.")]), name


def test_names_of_own_labels(backbones):
    model, processor = joined(backbones, label_names=["Nodule", "No Finding"], device_labels=[])
    inputs = processor(images=make_films(1), disease_labels=[{"Nodule": "positive"}])
    with torch.no_grad():
        output = model(**inputs)
    assert output.disease_logits.shape == (1, 2, 4) and output.disease_states.tolist() == [[1, 0]]


def test_dtype_and_attention(backbones):
    model, processor = joined(backbones, dtype=torch.bfloat16, attn_implementation="eager")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.dtype == torch.bfloat16
    for part in (model, model.model.vision_tower, model.model.language_model):
        assert part.config._attn_implementation == "eager"
    with torch.no_grad():
        assert model(**processor(images=make_films(1))).logits.isfinite().all()


@pytest.mark.parametrize("text", ["llama", "qwen2", "phi"])  # tied, not tied, with a bias of its logits
def test_new_rows_are_near_the_mean_and_differ(backbones, text, tmp_path, monkeypatch):
    if text == "phi":
        backbones = {**backbones, "phi": save_text("phi", tmp_path)}
    notices = []
    for level in ("warning", "warning_once", "info"):
        monkeypatch.setattr(transformers.modeling_utils.logger, level, notices.append)
    model, processor = joined(backbones, text=text)
    assert not any("resiz" in notice for notice in map(str, notices))
    pretrained = AutoModelForCausalLM.from_pretrained(backbones[text])
    for joined_rows, rows in (
        (model.get_input_embeddings().weight, pretrained.get_input_embeddings().weight),
        (model.lm_head.weight, pretrained.lm_head.weight),
    ):
        old = len(rows)
        assert torch.equal(joined_rows[:old], rows)
        distances = (joined_rows[old:] - rows.mean(0)).norm(dim=1)
        assert (distances < 0.3 * (rows - rows.mean(0)).norm(dim=1).mean()).all()
        assert len(joined_rows[old:].unique(dim=0)) == 320 - old
    with torch.no_grad():
        logits = model(**processor(images=make_films(1))).logits[..., -1, :]
    assert logits.argmax() < len(rows)


def test_bridges_are_fp32_beside_half_precision(backbones, tmp_path):
    llm = AutoModelForCausalLM.from_pretrained(backbones["llama"]).bfloat16()
    llm.save_pretrained(tmp_path / "llm")
    make_tokenizer().save_pretrained(tmp_path / "llm")
    halved = {**backbones, "half": str(tmp_path / "llm")}
    model, processor = joined(halved, text="half")
    dtypes = {name: {p.dtype for p in module.parameters()} for name, module in model.model.named_children()}
    assert dtypes.pop("language_model") == {torch.bfloat16} == {model.lm_head.weight.dtype}
    assert set.union(*dtypes.values()) == {torch.float32} == {model.dtype}
    inputs = processor(images=make_films(2), disease_labels=[[1] * 14] * 2)
    output = model.train()(**inputs, labels=inputs["input_ids"])
    output.loss.backward()
    assert output.disease_logits.dtype == torch.float32 and model.model.fusion.image_dense.weight.grad.any()
    with torch.no_grad():
        expected = model.eval()(**inputs)
    assert model.generate(**inputs, max_new_tokens=3).shape[1] == inputs["input_ids"].shape[1] + 3
    model.save_pretrained(tmp_path / "joined")
    processor.save_pretrained(tmp_path / "joined")
    loaded = OTDRGForConditionalGeneration.from_pretrained(tmp_path / "joined")  # nothing is rounded
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    state = model.state_dict()
    assert all(torch.equal(value, state[name].float()) for name, value in loaded.state_dict().items())
    with torch.no_grad():
        close(loaded(**inputs).disease_logits, expected.disease_logits)
    report = pipeline("radiology-report", model=str(tmp_path / "joined"), dtype=torch.bfloat16)
    assert {p.dtype for p in report.model.parameters()} == {torch.bfloat16}
    assert len(report(make_films(2), max_new_tokens=3)) == 2
    half, _ = joined(halved, text="half", dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    "config",
    [
        transformers.GraniteConfig(
            vocab_size=320,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            logits_scaling=8.0,
            initializer_range=1.0,
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_language_model_with_logits_of_its_own_is_refused(backbones, config, tmp_path):
    config.update({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does more than project onto the vocabulary"):
        OTDRGForConditionalGeneration.from_backbones(backbones["vit"], str(tmp_path), **FIELDS)


def test_setting_that_cannot_work_is_named(backbones):
    with pytest.raises(ValueError, match="`epsilon` must be > 0"):
        joined(backbones, epsilon=-1.0)


@pytest.mark.parametrize("scale", [0.02, 1.0])
def test_tokens_of_a_new_model_have_the_scale_of_its_words(backbones, scale, tmp_path):
    language_model = AutoModelForCausalLM.from_pretrained(backbones["llama"])
    torch.nn.init.normal_(language_model.get_input_embeddings().weight, std=scale)
    language_model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    model, processor = joined({**backbones, "loud": str(tmp_path)}, text="loud")
    with torch.no_grad():
        features = model.get_image_features(processor(images=make_films(2))["pixel_values"])
    label_tokens = features.finding_embeds[:, model.config.label_words :]
    for tokens in (features.image_embeds, label_tokens):
        assert 0.4 * scale < tokens.square().mean().sqrt() < 2.5 * scale


def test_words_of_the_labels_are_those_of_the_tokenizer(backbones):
    model, processor = joined(backbones)
    states = torch.zeros(1, 14, dtype=torch.long)
    states[0, 1], states[0, 9], states[0, 8] = 1, 3, 2
    ids = [token for label, state in ((1, 1), (9, 3)) for token in model.config.label_word_ids[label][state]]
    assert processor.tokenizer.decode(ids).split() == "cardiomegaly; possible pleural effusion;".split()
    words = model.model.fusion.label_words(states)
    assert words[0, : len(ids)].tolist() == ids
    assert torch.equal(words[0, len(ids) :], words[0, : words.shape[1] - len(ids)])
    with torch.no_grad():
        features = model.get_image_features(processor(images=make_films(1))["pixel_values"], disease_labels=states)
    shown = features.finding_embeds[:, : model.config.label_words]
    close(shown, model.get_input_embeddings()(words), 0)
    plain, _ = joined(backbones, label_words=0)
    assert plain.model.fusion.label_words is None and plain.config.finding_seq_length == 14


@pytest.mark.parametrize("field", ["alignement_dim", "revision", "torch_dtype", "device_map"])
def test_what_is_no_field_is_refused(backbones, field):
    with pytest.raises(ValueError, match=f"from_backbones has no argument '{field}'"):
        joined(backbones, **{field: 1})
