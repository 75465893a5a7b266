"""Tests of the processor's keywords: to whom they go, which are refused, and what truncation may not cut."""

import numpy as np
import pytest
import torch

from otdrg_hf.modeling.image_loading import load_radiograph
from tests.support.tiny_models import make_processor


def clear_error(match):
    return pytest.raises(ValueError, match=match)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("way", ["flat", "nested"])
def test_image_keywords_reach_the_image_processor(processor, films, way):
    def pixels(**keywords):
        return processor(images=films[0], **(keywords if way == "flat" else {"images_kwargs": keywords}))[
            "pixel_values"
        ]

    plain = pixels(do_normalize=False)
    assert plain.min() >= 0
    close((plain - 0.5) / 0.5, processor(images=films[0])["pixel_values"])
    assert pixels(size={"height": 48, "width": 64}).shape == (1, 1, 3, 48, 64)
    expected = processor.image_processor(load_radiograph(films[0]), do_rescale=False, return_tensors="pt")[
        "pixel_values"
    ]
    close(pixels(do_rescale=False)[0], expected)


@pytest.mark.parametrize("way", ["flat", "nested"])
def test_text_keywords_reach_the_tokenizer(processor, films, way):
    def ids(**keywords):
        return processor(images=films[0], **(keywords if way == "flat" else {"text_kwargs": keywords}))["input_ids"]

    usual = processor(images=films[0])["input_ids"]
    padded = ids(padding="max_length", max_length=200)
    assert padded.shape == (1, 200)
    close(padded[:, -usual.shape[1] :], usual)
    close(ids(padding="max_length", max_length=200, padding_side="right")[:, : usual.shape[1]], usual)


def test_defaults_are_those_of_generation_whatever_the_tokenizer_was_made_with(films):
    tokenizer = make_processor().tokenizer
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "right"
    tokenizer.init_kwargs["add_special_tokens"] = True
    processor = make_processor(num_image_tokens=4)
    expected = processor(images=films[:2], indication=["Cough.", None])
    processor.tokenizer = tokenizer
    inputs = processor(images=films[:2], indication=["Cough.", None])
    assert inputs["attention_mask"][1, 0] == 0 and inputs["attention_mask"][:, -1].all()
    for key in expected:
        close(inputs[key], expected[key])


def test_the_padding_that_a_tokenizer_was_made_with_counts(films):
    processor = make_processor(num_image_tokens=4)
    processor.tokenizer.init_kwargs |= {"padding": "max_length", "max_length": 160}
    assert processor(images=films[0])["input_ids"].shape == (1, 160)
    assert processor(images=films[0], padding=True)["input_ids"].shape[1] < 160


@pytest.mark.parametrize(
    "keywords, message",
    [
        ({"indicaton": "Cough."}, "The processor has no keyword 'indicaton'; did you mean 'indication'?"),
        ({"vews": ["frontal"]}, "The processor has no keyword 'vews'; did you mean 'views'?"),
        ({"do_normalise": False}, "The processor has no keyword 'do_normalise'; did you mean 'do_normalize'?"),
        ({"truncate": True}, "The processor has no keyword 'truncate'; did you mean 'truncation'?"),
        ({"image_kwargs": {}}, "The processor has no keyword 'image_kwargs'; did you mean 'images_kwargs'?"),
        ({"qqq": 1}, "The processor has no keyword 'qqq'."),
        ({"images_kwargs": {"max_length": 5}}, "The processor has no keyword 'max_length'"),
        ({"images_kwargs": {"do_resise": True}}, "no keyword 'do_resise'; did you mean 'do_resize'?"),
        ({"text_kwargs": {"paddin": True}}, "no keyword 'paddin'; did you mean 'padding'?"),
        ({"text_kwargs": {"padding": True}, "padding": False}, "padding was passed two times"),
        ({"return_tensors": "tf"}, "return_tensors"),
        ({"do_normalize": "never"}, "do_normalize"),
        ({"videos": ["film.mp4"]}, "`videos` cannot be given: OTDRG reads images and text"),
        ({"return_overflowing_tokens": True, "truncation": True, "max_length": 25}, "return_overflowing_tokens"),
        (
            {"text": "<image>", "indication": "Cough."},
            "`indication` goes into the default prompt: write",
        ),
        ({"text": "<image>", "views": ["frontal"]}, "`views` goes into the default prompt"),
        ({"disease_labels": [{"Edema": "positive"}, [0] * 14]}, "`disease_labels` must be all dicts"),
        ({"disease_labels": torch.full((1, 14), 156, dtype=torch.uint8)}, "156 is not a state code"),
        ({"text": ["<image>", 3]}, "`text` must be a prompt or a list of prompts"),
    ],
    ids=str,
)
def test_keywords_that_are_refused(processor, films, keywords, message):
    with clear_error(message.replace("?", r"\?")) as error:
        processor(images=films[0], **keywords)
    assert "\n" not in str(error.value)


def test_what_generic_code_passes_is_taken(processor, films):
    inputs = processor(images=films[0], videos=None, audio=None, num_frames=2, videos_kwargs={}, verbose=False)
    close(inputs["input_ids"], processor(images=films[0])["input_ids"])


@pytest.mark.parametrize("max_length, token", [(3, "<image>"), (10, "<finding>")])
def test_truncation_may_not_cut_placeholders(processor, films, max_length, token):
    text = "<image><finding> Report:"
    with clear_error(f"Prompt 1 has [0-9]+ of its [0-9]+ {token} tokens left after truncation") as error:
        processor(images=[[], [films[0]]], text=["Clear.", text], truncation=True, max_length=max_length, padding=True)
    assert "\n" not in str(error.value)
    assert processor(images=films[0], text=text, truncation=True, max_length=18)["input_ids"].shape == (1, 18)


@pytest.mark.parametrize("return_tensors, kind", [("pt", torch.Tensor), ("np", np.ndarray), (None, list)])
def test_return_tensors_applies_to_everything(processor, films, return_tensors, kind):
    arguments = {"images": [films[:2], films[2:3]], "disease_labels": [{"Edema": "positive"}, {}]}
    expected = processor(**arguments)
    inputs = processor(**arguments, return_tensors=return_tensors)
    assert set(inputs) == {"input_ids", "attention_mask", "pixel_values", "view_mask", "disease_labels"}
    for key, value in inputs.items():
        assert isinstance(value, kind), key
        close(torch.as_tensor(np.asarray(value)), expected[key])


def test_prompts_of_different_lengths_may_stay_so_as_lists(processor, films):
    arguments = {"images": films[:2], "indication": ["Cough.", None], "padding": False}
    with clear_error("The prompts differ in length: leave padding on"):
        processor(**arguments)
    rows = processor(**arguments, return_tensors=None)["input_ids"]
    assert len(rows[0]) > len(rows[1])


def test_a_prompt_of_a_batch_may_do_without_images(processor, model, films):
    prompts = ["The lungs are clear.", "<image><finding> Report:"]
    inputs = processor(images=[[], [films[0]]], text=prompts)
    assert inputs["view_mask"].tolist() == [[False], [True]] and (inputs["pixel_values"][0] == 0).all()
    with torch.no_grad():
        both = model(**inputs)
        alone = model(**processor(images=films[0], text=prompts[1]))
        text = model(**processor(text=prompts[0]))
    assert both.disease_logits.isfinite().all() and both.logits.isfinite().all()
    torch.testing.assert_close(both.logits[1:], alone.logits, rtol=1e-4, atol=1e-4)
    real = inputs["attention_mask"][0].bool()
    torch.testing.assert_close(both.logits[:1, real], text.logits, rtol=1e-4, atol=1e-4)
    assert model.generate(**inputs, max_new_tokens=2).shape[0] == 2


def test_findings_need_an_image(processor, films):
    with clear_error("Prompt 0 has <finding>, but no image"):
        processor(images=[[], [films[0]]], text=["<finding>", "<image>"])


def test_images_in_one_list_are_shared_out_by_the_prompts(processor, films):
    prompts = ["<image> and <image>", "none", "<image>"]
    flat = processor(images=films[:3], text=prompts)
    nested = processor(images=[films[:2], [], films[2:3]], text=prompts)
    for key in nested:
        close(flat[key], nested[key])
    assert processor(images=films[:2], text=prompts[0])["view_mask"].tolist() == [[True, True]]


def test_token_types_and_offsets_are_given_where_asked_for(processor, films):
    text = "A <image> and <finding>."
    inputs = processor(images=films[0], text=text, return_mm_token_type_ids=True, return_text_replacement_offsets=True)
    assert (inputs["mm_token_type_ids"] == (inputs["input_ids"] == processor.image_token_id)).all()
    expanded = text.replace("<image>", "<image>" * 4).replace("<finding>", "<finding>" * 14)
    (spans,) = inputs["text_replacement_offsets"]
    assert [span["type"] for span in spans] == ["image", "finding"]
    for span in spans:
        assert expanded[slice(*span["new_span"])] == span["replacement"]
        assert text[slice(*span["span"])] == span["text"]
