"""Tests of chats: templates with and without images, and the pipelines of transformers that take chats."""

import base64
import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForMultimodalLM, pipeline

from otdrg_hf import OTDRGForConditionalGeneration, OTDRGProcessor
from tests.support.tiny_models import make_processor

TEXT_ONLY = {
    "concatenation": "{% for m in messages %}[{{ m.role }}]{{ '' + m.content }}[/]{% endfor %}",
    "filter": "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] | trim }}[/]{% endfor %}",
    "strings alone": (
        "{% for m in messages %}{% if m.content is string %}{% set c = m.content %}{% else %}{% set c = '' %}"
        "{% endif %}[{{ m.role }}]{{ c }}[/]{% endfor %}"
    ),
}
GENERATION = "{% if add_generation_prompt %}[assistant]{% endif %}"
READS_PARTS = (
    "{% for m in messages %}[{{ m.role }}]{% for part in m.content %}{% if part.type == 'image' %}<image>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}[/]{% endfor %}" + GENERATION
)


def chat(*parts, role="user") -> list[dict]:
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [{"role": role, "content": parts}]


def same(a, b):
    assert set(a) == set(b)
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0)


@pytest.fixture
def sources(films, tmp_path) -> dict[str, dict]:
    """One image, as a part of a message, in every form."""
    image = Image.fromarray(films[0])
    image.save(tmp_path / "image.png")
    content = (tmp_path / "image.png").read_bytes()
    plain = base64.b64encode(content).decode()
    url = f"data:image/png;base64,{plain}"
    return {
        "PIL": {"type": "image", "image": image},
        "path": {"type": "image", "path": str(tmp_path / "image.png")},
        "path object": {"type": "image", "image": tmp_path / "image.png"},
        "data URL": {"type": "image", "url": url},
        "base64": {"type": "image", "base64": plain},
        "BytesIO": {"type": "image", "image": io.BytesIO(content)},
        "OpenAI": {"type": "image_url", "image_url": {"url": url}},
        "array": {"type": "image", "image": films[0]},
    }


@pytest.mark.parametrize("form", ["PIL", "path", "path object", "data URL", "base64", "BytesIO", "OpenAI", "array"])
def test_chat_of_an_image_is_the_prompt_of_training(processor, films, sources, form):
    inputs = processor.apply_chat_template(
        chat(sources[form]), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    same(inputs, processor(images=films[0]))


def test_default_template_words_a_study_as_build_prompt_does(processor, sources):
    frontal = {**sources["PIL"], "view": "frontal"}
    messages = chat(frontal, sources["path"], "Indication: Cough.")
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert prompt == processor.build_prompt(2, ["frontal", "unknown"], indication="Cough.")
    assert messages == chat(frontal, sources["path"], "Indication: Cough.")  # the caller's stay as they are


def test_default_template_renders_a_conversation(processor, sources):
    messages = [
        *chat("Be brief.", role="system"),
        *chat(sources["PIL"]),
        *chat("The lungs are clear.", role="assistant"),
        {"role": "user", "content": "And the heart?"},
    ]
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == (
        "<s>Be brief.\nView: <image>\nFindings: <finding>\nReport: The lungs are clear.</s>\nAnd the heart?\nReport:"
    )


def test_assistant_turn_is_continued(processor, sources):
    messages = chat(sources["PIL"]) + chat("The lungs", role="assistant")
    prompt = processor.apply_chat_template(messages, continue_final_message=True)
    assert prompt.endswith("<finding>\nReport: The lungs")


def test_labels_are_named_once_and_can_be_left_out(processor, sources):
    by_hand = chat(sources["PIL"], "Labels: <finding>")
    assert processor.apply_chat_template(by_hand) == "<s>View: <image>\nLabels: <finding>"
    two_turns = chat(sources["PIL"]) + chat("Clear.", role="assistant") + chat(sources["path"], "And here?")
    assert processor.apply_chat_template(two_turns).endswith("View: <image>\nFindings: <finding>\nAnd here?")
    assert processor.apply_chat_template(two_turns).count("<finding>") == 1
    assert processor.apply_chat_template(chat(*[sources["PIL"]] * 2)) == (
        "<s>View: <image>\nView: <image>\nFindings: <finding>"
    )
    plain = make_processor(num_image_tokens=4, label_prompt=False)
    assert plain.apply_chat_template(chat(sources["PIL"])) == "<s>View: <image>"


@pytest.mark.parametrize("kind", TEXT_ONLY)
@pytest.mark.parametrize("owner", ["tokenizer", "processor"])
def test_templates_that_read_text_only(films, sources, kind, owner):
    processor = make_processor(num_image_tokens=4)
    getattr(processor, owner, processor).chat_template = TEXT_ONLY[kind] + GENERATION
    prompt = processor.apply_chat_template(chat(sources["PIL"]), add_generation_prompt=True)
    assert prompt == processor.build_prompt(1) == "[user]View: <image>\nFindings: <finding>\nReport:[/][assistant]"
    messages = chat("Be brief.", role="system") + chat(sources["PIL"], "Is the heart normal?")
    assert processor.apply_chat_template(messages) == (
        "[system]Be brief.[/][user]View: <image>\nFindings: <finding>\nIs the heart normal?[/]"
    )
    inputs = processor.apply_chat_template(
        chat(sources["BytesIO"]), add_generation_prompt=True, tokenize=True, return_dict=True
    )
    same(inputs, processor(images=films[0]))


def test_templates_that_read_parts_get_them(sources):
    processor = make_processor(num_image_tokens=4, chat_template=READS_PARTS)
    prompt = processor.apply_chat_template(chat(sources["PIL"], "Normal?"), add_generation_prompt=True)
    assert prompt == "[user]View: <image>\nFindings: <finding>\nNormal?[/][assistant]"


def test_batch_of_chats_some_without_images(processor, model, sources):
    chats = [chat("The lungs are clear."), chat(sources["PIL"], sources["path"])]
    inputs = processor.apply_chat_template(
        chats, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert inputs["view_mask"].tolist() == [[False, False], [True, True]]
    assert model.generate(**inputs, max_new_tokens=2).shape[0] == 2


def test_what_users_write_of_placeholders_can_be_read_as_text(processor, sources):
    messages = chat(sources["PIL"], "What is <image>?")
    arguments = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    with pytest.raises(ValueError, match="prompt 0 has 2 <image> for 1 images"):
        processor.apply_chat_template(messages, **arguments)
    inputs = processor.apply_chat_template(messages, **arguments, sanitize_control_tokens=True)
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 4
    assert (inputs["input_ids"] == processor.finding_token_id).sum() == 14


@pytest.mark.parametrize(
    "part, message",
    [
        ({"type": "video", "path": "film.mp4"}, "A message has a part of type 'video': OTDRG reads 'image' and 'text'"),
        ({"type": "text"}, "A message has a part of type 'text' without a 'text'"),
        ({"type": "image", "view": "sideways"}, "'sideways' is not a view"),
    ],
)
def test_parts_that_cannot_be(processor, part, message):
    with pytest.raises(ValueError, match=message):
        processor.apply_chat_template(chat(part))


def test_default_template_is_not_written(processor, tmp_path):
    """It would be read as a template of the tokenizer's, by which prompts are worded in another way."""
    assert processor.chat_template
    processor.save_pretrained(tmp_path)
    assert not Path(tmp_path, "chat_template.jinja").exists()
    loaded = OTDRGProcessor.from_pretrained(tmp_path)
    assert loaded.chat_template == processor.chat_template and loaded.tokenizer.chat_template is None
    assert loaded.build_prompt(1) == processor.build_prompt(1)


# Pipelines


def test_image_text_to_text_takes_chats(folder, processor, model, films, sources, caplog):
    pipe = pipeline("image-text-to-text", model=str(folder))
    assert "not supported" not in caplog.text
    answer = pipe(text=chat(sources["data URL"]), max_new_tokens=4, return_full_text=False)
    inputs = processor(images=films[0])
    ids = model.generate(**inputs, max_new_tokens=4)[:, inputs["input_ids"].shape[1] :]
    assert answer[0]["generated_text"] == processor.batch_decode(ids, skip_special_tokens=True)[0]
    whole = pipe(text=chat(sources["PIL"]), max_new_tokens=4)[0]["generated_text"]
    assert whole[-1] == {"role": "assistant", "content": answer[0]["generated_text"]}
    pair = pipe(text=[chat(sources["path"]), chat("Clear.")], max_new_tokens=4, return_full_text=False)
    assert pair[0][0]["generated_text"] == answer[0]["generated_text"]


def test_image_text_to_text_takes_images_and_a_prompt(folder, processor, films, sources):
    pipe = pipeline("image-text-to-text", model=str(folder))
    prompt = processor.build_prompt(1)
    text = pipe(images=sources["PIL"]["image"], text=prompt, max_new_tokens=4, return_full_text=False)
    asked = pipe(text=chat(sources["PIL"]), max_new_tokens=4, return_full_text=False)
    assert text[0]["generated_text"] == asked[0]["generated_text"]


def test_any_to_any_takes_chats(folder, sources, monkeypatch, caplog):
    # The pipeline asks for torchvision, which our images do without.
    monkeypatch.setattr("transformers.pipelines.any_to_any.requires_backends", lambda *_: None)
    assert type(AutoModelForMultimodalLM.from_pretrained(folder)) is OTDRGForConditionalGeneration
    pipe = pipeline("any-to-any", model=str(folder))
    assert "not supported" not in caplog.text
    answer = pipe(text=chat(sources["PIL"]), max_new_tokens=4, return_full_text=False)
    expected = pipeline("image-text-to-text", model=str(folder))(
        text=chat(sources["PIL"]), max_new_tokens=4, return_full_text=False
    )
    assert answer[0]["generated_text"] == expected[0]["generated_text"]
