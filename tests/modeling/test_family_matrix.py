"""
Every family of encoders with every family of language models; a table of what was shown closes the test output.

By default each family is met at least once, `-m slow` runs the full product. No family has a branch of its own in
modeling/: what holds for these folders holds for what else AutoModel and AutoModelForCausalLM load.
"""

import os
from itertools import product

import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText, pipeline
from trl import ModelConfig

from otdrg_hf import OTDRGForConditionalGeneration, OTDRGProcessor
from otdrg_hf.hub.command import merge_adapter
from otdrg_hf.training.adapters import adapter_config
from otdrg_hf.training.stages import apply_stage
from tests.support.families import (
    TEXT_FAMILIES,
    VISION_FAMILIES,
    WITH_TEMPLATE,
    save_text,
    save_vision,
    why_not,
)
from tests.support.other_environment import run_without_package
from tests.support.tiny_models import make_films

# Twice the encoders' own side, so that positions are interpolated in all of them.
FIELDS = {"image_size": 64, "alignment_dim": 16, "image_token_pooling": 4}
NUM_PAIRS = max(len(VISION_FAMILIES), len(TEXT_FAMILIES))
VISIONS, TEXTS = list(VISION_FAMILIES), list(TEXT_FAMILIES)
PAIRS = [(VISIONS[i % len(VISIONS)], TEXTS[i % len(TEXTS)]) for i in range(NUM_PAIRS)]
# timm is not everywhere: the language model that it is paired with is met by another encoder too.
PAIRS += [("vit", text) for vision, text in PAIRS if vision == "timm"]
OTHERS = [pair for pair in product(VISIONS, TEXTS) if pair not in PAIRS]
LABELS = [{"Edema": "positive", "Pneumonia": "negative"}, {"No Finding": "positive"}]

REMOTE = """
import json, sys
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
answers = {}
for folder in sys.argv[1:]:
    trust = {"trust_remote_code": True}
    model = AutoModelForImageTextToText.from_pretrained(folder, **trust)
    processor = AutoProcessor.from_pretrained(folder, **trust)
    films = [torch.load(folder + "/films.pt")[index].numpy() for index in (0, 1)]
    inputs = processor(images=films)
    with torch.no_grad():
        answers[folder] = model(**inputs).logits[:, -1].tolist()
    assert type(model).__module__.startswith("transformers_modules"), type(model)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """The folder of a family, made when it is first asked for."""
    saved = {}

    def folder(save, name: str) -> str:
        if (save, name) not in saved:
            saved[save, name] = save(name, tmp_path_factory.mktemp(f"{name}"))
        return saved[save, name]

    return folder


def join(backbones, vision: str, text: str):
    names = backbones(save_vision, vision), backbones(save_text, text)
    torch.manual_seed(1)
    model = OTDRGForConditionalGeneration.from_backbones(*names, **FIELDS)
    return model, OTDRGProcessor.from_model(model)


def skip_if_absent(vision: str):
    if reason := why_not(vision):
        pytest.skip(reason)


def close(left, right, tolerance=1e-4):
    torch.testing.assert_close(left, right, atol=tolerance, rtol=tolerance)


def check_pair(backbones, vision: str, text: str, path, shown):
    """All that is asked of a pair of families; `shown` is told what has held."""
    model, processor = join(backbones, vision, text)
    films = make_films(3)
    studies = [[films[0]], [films[1], films[2]]]
    inputs = processor(images=studies, disease_labels=LABELS)
    prompt = processor.build_prompt(1)
    assert ("user: View: <image>" in prompt) == (text in WITH_TEMPLATE)
    assert model.config.image_grid == [2 * side for side in VISION_FAMILIES[vision][2]]
    assert model.lm_head.out_features == -(-len(processor.tokenizer) // 64) * 64
    tied = model.config.text_config.tie_word_embeddings
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied

    with torch.no_grad():
        logits = model(**inputs).logits
    assert logits.isfinite().all() and logits.shape[-1] == model.lm_head.out_features
    shown("forward")

    apply_stage(model, "joint", image_size=(64, 64))
    model.train()
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    assert not [name for name, value in trained if value.grad is None or not value.grad.isfinite().all()]
    towers = ("model.vision_tower.", "model.language_model.", "model.fusion.", "model.alignment.")
    assert all(any(value.grad.any() for name, value in trained if name.startswith(tower)) for tower in towers)
    shown("backward")

    model.eval().zero_grad()
    options = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    together = model.generate(**inputs, **options).logits[0]
    for index, study in enumerate(studies):  # the shorter prompt is padded on the left
        alone = model.generate(**processor(images=[study], disease_labels=LABELS[index : index + 1]), **options)
        close(together[index : index + 1], alone.logits[0])
    beams = model.generate(**inputs, max_new_tokens=3, num_beams=2)
    assert beams.shape[0] == 2
    shown("generate")

    with torch.no_grad():
        logits = model(**inputs).logits  # batch-norm statistics have moved
    model.save_pretrained(path / "base")
    processor.save_pretrained(path / "base")
    shown("save")

    loaded = AutoModelForImageTextToText.from_pretrained(path / "base")
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, logits)
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied
    report = pipeline("radiology-report", model=str(path / "base"))
    assert len(report(films, max_new_tokens=2)) == 3
    shown("load")

    adapted = round_trip(loaded, path, inputs)
    assert not torch.equal(adapted, logits)
    shown("LoRA")


def round_trip(model, path, inputs) -> torch.Tensor:
    """Logits of an adapted model, having checked that its folder and the merged model give the same."""
    from peft import get_peft_model

    apply_stage(model, "finetune")
    config = adapter_config(model, ModelConfig(use_peft=True, lora_r=2), "finetune")
    adapted = get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if ".lora_B." in name or ".fusion.modules_to_save." in name:
                value.add_(torch.randn_like(value) * 0.05)
        logits = adapted(**inputs).logits
    adapted.save_pretrained(path / "adapter")
    OTDRGProcessor.from_pretrained(path / "base").save_pretrained(path / "adapter")
    for auto in (AutoModel, AutoModelForImageTextToText):
        with torch.no_grad():
            close(auto.from_pretrained(path / "adapter").eval()(**inputs).logits, logits, 1e-5)
    merge_adapter(path / "adapter", path / "merged")
    with torch.no_grad():
        close(AutoModelForImageTextToText.from_pretrained(path / "merged")(**inputs).logits, logits)
    return logits


def run_pair(backbones, vision, text, tmp_path, record_property):
    record_property("family", f"{vision} + {text}")
    skip_if_absent(vision)
    check_pair(backbones, vision, text, tmp_path, lambda step: record_property("shown", step))


@pytest.mark.parametrize("vision, text", PAIRS)
def test_each_family_at_least_once(backbones, vision, text, tmp_path, record_property):
    run_pair(backbones, vision, text, tmp_path, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("vision, text", OTHERS)
def test_all_other_pairs(backbones, vision, text, tmp_path, record_property):
    run_pair(backbones, vision, text, tmp_path, record_property)


def test_remote_code_of_each_family(backbones, tmp_path, record_property):
    """One interpreter without otdrg_hf loads them all: what differs is the model, not the code."""
    expected = {}
    films = make_films(2)
    pairs = [pair for pair in PAIRS if not why_not(pair[0])]
    for vision, text in pairs:
        model, processor = join(backbones, vision, text)
        folder = tmp_path / f"{vision}-{text}"
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        torch.save(torch.stack([torch.from_numpy(film) for film in films]), folder / "films.pt")
        with torch.no_grad():
            expected[str(folder)] = model(**processor(images=films)).logits[:, -1]
    search = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    answers = run_without_package(REMOTE, *expected, folder=tmp_path, HF_HUB_OFFLINE="1", **search)
    for (vision, text), (folder, logits) in zip(pairs, expected.items(), strict=True):
        close(torch.tensor(answers[folder]), logits, 1e-5)
        record_property("remote code", f"{vision} + {text}")
