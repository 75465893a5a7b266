"""Images that a model knows and others: what the pipeline says of them, the views that it recognises, and warnings."""

import base64
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from transformers import pipeline

from otdrg_hf import OTDRGConfig
from otdrg_hf.modeling.familiarity_otdrg import (
    InputStatistics,
    Inspection,
    describe_layout,
    describe_sharpness,
    study_inspection,
)
from tests.support.other_images import ALTERED, DRAWN, chest

SHORT = {"max_new_tokens": 4}
WARNING = "not one that the model knows"


@pytest.fixture
def report(known):
    return pipeline("radiology-report", model=str(known))


@pytest.fixture
def prompts(report, monkeypatch):
    """The prompts that the language model was given, without the placeholders."""
    seen, generate = [], report.model.generate

    def record(input_ids, **options):
        for row in input_ids:
            text = report.processor.tokenizer.decode(row).replace("<image>", "").replace("<finding>", "")
            seen.append(text.replace("<pad>", ""))
        return generate(input_ids=input_ids, **options)

    monkeypatch.setattr(report.model, "generate", record)
    return seen


def names(prompt: str) -> list[str]:
    lines = [line.removeprefix("<s>").strip() for line in prompt.split("\n")]
    return [line.removesuffix(" view:") for line in lines if line in ("Frontal view:", "Lateral view:", "View:")]


# What is said of an image


def test_a_familiar_image(report, caplog):
    answer = report(chest(5000), **SHORT)
    assert set(answer["input"]) == {"familiar", "distance", "view", "why"}
    assert answer["input"]["familiar"] is True and 0 < answer["input"]["distance"] <= 1
    assert answer["input"]["view"] == "frontal" and answer["input"]["why"] == "like the training images"
    assert WARNING not in caplog.text
    json.dumps(answer)


@pytest.mark.parametrize("kind", DRAWN)
def test_drawn_images_are_not_familiar(report, kind):
    for answer in report([DRAWN[kind](seed) for seed in range(5)], batch_size=5, **SHORT):
        assert answer["input"]["familiar"] is False and answer["input"]["distance"] > 1
        assert answer["input"]["why"].startswith("unlike the training images, ")


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("negatives", "looks like a negative"),
        ("upside down", "looks upside down"),
        ("turned left", "looks turned by 90 degrees"),
        ("turned right", "looks turned by 90 degrees"),
    ],
)
def test_what_was_done_to_a_known_image_is_said(report, kind, why):
    images = [ALTERED[kind](chest(seed, view)) for seed in range(5000, 5004) for view in ("frontal", "lateral")]
    seen = [answer["input"] for answer in report(images, batch_size=8, **SHORT)]
    assert not any(each["familiar"] for each in seen)
    assert [each["why"] for each in seen].count(f"unlike the training images, {why}") >= 7


def test_blank_and_coloured_images_are_called_that(report):
    coloured = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    blank, colour = report([Image.new("RGB", (40, 40), "grey"), coloured], **SHORT)
    assert blank["input"]["why"] == "unlike the training images, blank"
    assert colour["input"]["why"] == "unlike the training images, in colour"


def test_a_part_is_named_where_no_alteration_explains_it(report):
    smooth = chest(5000).filter(ImageFilter.GaussianBlur(1.5))
    assert report(smooth, **SHORT)["input"]["why"] == "unlike the training images, most of all in sharpness"


# Views


def test_views_are_recognised_and_frontal_images_come_first(report, prompts):
    images = [chest(5001, "lateral"), chest(5001, "frontal")]
    answer = report({"images": images}, **SHORT)
    assert names(prompts[0]) == ["Frontal", "Lateral"]
    assert [each["view"] for each in answer["input"]["images"]] == ["lateral", "frontal"]  # as they were given
    assert answer["input"]["view"] == "frontal" and answer["input"]["familiar"]
    named = report({"images": images[::-1], "views": ["frontal", "lateral"]}, **SHORT)
    assert answer["generated_text"] == named["generated_text"] and answer["findings"] == named["findings"]


def test_given_views_stay_in_their_order(report, prompts):
    images = [chest(5002, "lateral"), chest(5002, "frontal")]
    answer = report({"images": images, "views": ["lateral", "frontal"]}, **SHORT)
    assert names(prompts[0]) == ["Lateral", "Frontal"] and answer["input"]["familiar"]


def test_one_view_of_two_is_given(report, prompts):
    images = [chest(5002, "lateral"), chest(5002, "frontal")]
    report({"images": images, "views": ["lateral", "unknown"]}, **SHORT)
    assert names(prompts[0]) == ["Frontal", "Lateral"]


def test_a_given_view_that_looks_wrong_is_said_and_kept(report, prompts, caplog):
    answer = report({"images": [chest(5003, "lateral")], "views": ["frontal"]}, **SHORT)
    assert answer["input"] == {
        "familiar": False,
        "distance": answer["input"]["distance"],
        "view": "lateral",
        "why": "given as frontal, looks lateral",
    }
    assert names(prompts[0]) == ["Frontal"] and "given as frontal, looks lateral" in caplog.text


def test_an_unfamiliar_image_has_no_view_in_the_prompt(report, prompts):
    report({"images": [chest(5004), DRAWN["text pages"](0)]}, **SHORT)
    assert names(prompts[0]) == ["Frontal", "View:"]


def test_the_rest_of_the_prompt_stays(report, prompts):
    study = {"images": [chest(5004)], "indication": "Cough, view: <image>?", "comparison": "The heart is normal."}
    report(study, **SHORT)
    report({**study, "views": ["frontal"]}, **SHORT)
    assert prompts[0] == prompts[1] and "Cough" in prompts[0] and "The heart is normal." in prompts[0]


def test_evidence_is_in_the_order_of_the_images(report):
    images = [chest(5005, "lateral").resize((30, 50)), chest(5005, "frontal").resize((60, 40))]
    labels = {"Edema": "positive"}
    unnamed = report({"images": images, "disease_labels": labels}, evidence=True, **SHORT)["evidence"]["Edema"]
    assert [each.shape for each in unnamed] == [(50, 30), (40, 60)]
    named = {"images": images[::-1], "views": ["frontal", "lateral"], "disease_labels": labels}
    for one, other in zip(unnamed, report(named, evidence=True, **SHORT)["evidence"]["Edema"][::-1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


# Batches, warnings, checkpoints


def test_batches_are_the_studies_one_by_one(report):
    studies = [
        chest(5006),
        [chest(5007, "lateral"), chest(5007)],
        {"images": [chest(5008)], "views": ["lateral"]},
        DRAWN["hands"](1),
    ]
    studies = [study if isinstance(study, dict) else {"images": study} for study in studies]
    single = [report(study, **SHORT) for study in studies]
    batched = report(studies, batch_size=4, **SHORT)
    for one, other in zip(single, batched, strict=True):
        assert one["generated_text"] == other["generated_text"]
        assert one["input"].pop("distance") == pytest.approx(other["input"].pop("distance"), abs=2e-3)
        assert {**one["input"], "images": 0} == {**other["input"], "images": 0}


def test_one_warning_a_call(report, caplog):
    for _ in range(2):
        caplog.clear()
        list(report([chest(5009), *(DRAWN["noise"](seed) for seed in range(3))], batch_size=2, **SHORT))
        assert [WARNING in record.message for record in caplog.records].count(True) == 1
        assert "\n" not in caplog.records[-1].message


def test_half_precision_says_the_same(known, report):
    half = pipeline("radiology-report", model=str(known), dtype=torch.bfloat16)
    images = [chest(seed) for seed in range(5010, 5030)] + [DRAWN["skulls"](seed) for seed in range(5)]
    for one, other in zip(report(images, **SHORT), half(images, **SHORT), strict=True):
        assert one["input"]["distance"] == pytest.approx(other["input"]["distance"], rel=0.05)


def test_a_checkpoint_without_statistics_answers_as_before(folder, caplog):
    assert "input" not in pipeline("radiology-report", model=str(folder))(DRAWN["noise"](0), **SHORT)
    assert WARNING not in caplog.text
    assert OTDRGConfig.from_pretrained(folder).input_statistics is None


def test_saved_again_it_says_the_same(report, tmp_path):
    report.save_pretrained(tmp_path)
    again = pipeline("radiology-report", model=str(tmp_path))
    assert again(chest(5011), **SHORT) == report(chest(5011), **SHORT)


# Statistics as text


def test_packed_and_unpacked_they_say_the_same(known):
    packed = OTDRGConfig.from_pretrained(known).input_statistics
    statistics = InputStatistics.unpack(packed)
    assert list(statistics.views) == ["frontal", "lateral"]
    assert statistics.pack() == packed


@pytest.mark.parametrize(
    "packed",
    ["", "none", "ä", base64.b64encode(b"\x80\x04N.").decode(), base64.b64encode(b"\2\0\0\0\0\0\0\0{}").decode(), 7],
    ids=str,
)
def test_what_is_not_statistics_is_refused_in_a_line(packed):
    with pytest.raises(ValueError, match="`input_statistics` of the configuration cannot be read") as error:
        InputStatistics.unpack(packed)
    assert "\n" not in str(error.value)


@settings(deadline=None, max_examples=30)
@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_fail(content):
    with pytest.raises(ValueError, match="cannot be read"):
        InputStatistics.unpack(base64.b64encode(content).decode())


def test_pixels_that_are_not_finite_are_far_away(known):
    statistics = InputStatistics.unpack(OTDRGConfig.from_pretrained(known).input_statistics)
    distances = statistics.distances(torch.full((1, 4, 4, 16), torch.nan), torch.rand(1, 3, 32, 32))
    assert torch.isfinite(distances.total).all() and (distances.total > 100).all()


# Descriptors


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.floats(0.5, 1.0), st.floats(0.0, 0.3))
def test_layout_knows_no_brightness(seed, contrast, brightness):
    pixels = torch.rand(1, 3, 5, 4, generator=torch.Generator().manual_seed(seed))
    pixels = torch.nn.functional.interpolate(pixels, (40, 40), mode="bilinear")
    torch.testing.assert_close(
        describe_layout(contrast * pixels + brightness), describe_layout(pixels), atol=0.25, rtol=0.1
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(16, 70), st.integers(16, 70))
def test_descriptors_are_of_one_size_for_all_images(height, width):
    pixels = torch.rand(2, 3, height, width)
    assert describe_layout(pixels).shape == (2, 64) and describe_sharpness(pixels).shape == (2, 48)
    assert torch.isfinite(describe_sharpness(torch.zeros(1, 3, height, width))).all()


def test_a_study_is_as_familiar_as_its_strangest_image():
    known, strange = Inspection(True, 0.5, "lateral", "like"), Inspection(False, 3.0, "frontal", "unlike")
    assert study_inspection([known]) == {"familiar": True, "distance": 0.5, "view": "lateral", "why": "like"}
    both = study_inspection([known, strange])
    assert (both["familiar"], both["distance"], both["view"], both["why"]) == (False, 3.0, "frontal", "image 2: unlike")
    assert [each["distance"] for each in both["images"]] == [0.5, 3.0]
