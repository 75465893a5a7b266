"""The LLM's context: its length by family, prompts that are cut to it, and reports that end within it."""

import json

import pytest
from transformers import AutoConfig, AutoProcessor, pipeline

from otdrg_hf import OTDRGForConditionalGeneration, OTDRGProcessor
from otdrg_hf.modeling import pipeline_otdrg, processing_otdrg
from otdrg_hf.modeling.configuration_otdrg import context_length
from tests.support.families import save_text, save_vision
from tests.support.tiny_models import TEXT, make_films, make_model, make_processor

WORDS = "cough fever dyspnea pain trauma".split()


def text_of(count: int) -> str:
    return " ".join(WORDS[index % len(WORDS)] for index in range(count))


@pytest.fixture
def warnings(monkeypatch):
    """What processor and pipeline warn of."""
    heard = []
    for module in (processing_otdrg, pipeline_otdrg):
        monkeypatch.setattr(module.logger, "warning", heard.append)
    return heard


@pytest.mark.parametrize(
    "model_type, fields, expected",
    [
        ("llama", {"max_position_embeddings": 300}, 300),
        ("gpt2", {"n_positions": 301}, 301),
        ("gptj", {"n_positions": 302}, 302),
        ("opt", {"max_position_embeddings": 303}, 303),
        ("mpt", {"max_seq_len": 304}, 304),
        ("gpt_neo", {"max_position_embeddings": 305}, 305),
        ("mamba", {}, None),
        ("bloom", {}, None),
    ],
)
def test_each_family_says_how_long_its_context_is(model_type, fields, expected):
    assert context_length(AutoConfig.for_model(model_type, **fields)) == expected


def test_a_processor_of_backbones_knows_the_context_and_saves_it(tmp_path):
    vision, text = save_vision("vit", tmp_path / "v"), save_text("gpt2", tmp_path / "t")
    processor = OTDRGProcessor.from_model(OTDRGForConditionalGeneration.from_backbones(vision, text))
    assert processor.context_length == 512
    processor.save_pretrained(tmp_path / "p")
    assert AutoProcessor.from_pretrained(tmp_path / "p").context_length == 512


def test_prompts_that_fit_are_left_alone(warnings):
    known = {"views": ["frontal"], "indication": text_of(20), "comparison": text_of(20)}
    prompts = [make_processor(num_image_tokens=4, context_length=n).build_prompt(1, **known) for n in (None, 4096)]
    assert prompts[0] == prompts[1] and warnings == []


@pytest.mark.parametrize("limit", [120, 256, 512, 1024])
@pytest.mark.parametrize("indication, comparison", [(800, 0), (0, 800), (600, 600), (3, 700), (700, 3), (800, 100)])
def test_texts_are_cut_at_their_ends_to_leave_room_for_a_report(limit, indication, comparison, warnings):
    processor = make_processor(num_image_tokens=4, context_length=limit)
    given = {"indication": text_of(indication), "comparison": text_of(comparison)}
    prompt = processor.build_prompt(1, ["frontal"], **given)
    room = limit - min(256, limit // 4)
    tokens = len(processor.tokenizer(processor._expand_placeholders(prompt, [1]))["input_ids"][0])
    assert tokens == processor.count_tokens(prompt) <= room
    assert prompt.startswith("<s>Frontal view: <image>\nFindings: <finding>") and prompt.endswith("\nReport:")
    cut = [warning.split()[1] for warning in warnings]
    assert cut and str(limit) in warnings[0] and not any(word in "".join(warnings) for word in WORDS)
    for name, header in (("indication", "Indication: "), ("comparison", "Earlier report: ")):
        shown = next((line for line in prompt.split("\n") if line.startswith(header)), header).removeprefix(header)
        if name not in cut:
            assert shown == given[name]
        else:  # whole words from its start, and as many as there is room for
            assert given[name].startswith(shown) and (not shown or given[name][len(shown)] == " ")
    assert tokens + 12 > room or len(cut) == 2


def test_the_longer_text_gives_way_first(warnings):
    processor = make_processor(num_image_tokens=4, context_length=512)
    assert "Earlier report: cough fever\n" in processor.build_prompt(1, None, text_of(900), "cough fever")
    assert "Indication: cough fever\n" in processor.build_prompt(1, None, "cough fever", text_of(900))


def test_a_text_without_spaces_is_cut_too(warnings):
    processor = make_processor(num_image_tokens=4, context_length=256)
    prompt = processor.build_prompt(1, None, "咳嗽" * 400)
    assert "Indication: 咳嗽咳嗽" in prompt and processor.count_tokens(prompt) <= 192


def test_training_takes_prompts_as_they_are(warnings):
    processor = make_processor(num_image_tokens=4, context_length=64)
    assert text_of(90) in processor.build_prompt(1, None, text_of(90), fit=False) and warnings == []


def test_a_batch_names_the_prompt_that_is_too_long():
    processor = make_processor(num_image_tokens=4, context_length=64)
    film = make_films(1)[0]
    tokens = processor.count_tokens(processor.build_prompt(14))
    with pytest.raises(
        ValueError, match=f"Prompt 1 takes {tokens} tokens, more than the LLM's context of 64: give fewer"
    ):
        processor(images=[[film], [film] * 14])
    with pytest.raises(ValueError, match="Prompt 0 takes .* LLM's context of 64"):
        processor(images=film, text=f"<image> {text_of(90)}")


@pytest.fixture
def short(tmp_path, monkeypatch):
    """A saved GPT-2, which has learned positions and no others, and the length of its context."""
    limit = 96
    class_name, fields = TEXT["gpt2"]
    monkeypatch.setitem(TEXT, "gpt2", (class_name, {**fields, "n_positions": limit}))
    model = make_model(text="gpt2")
    processor = make_processor(num_image_tokens=4, context_length=limit)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path, limit


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("labels", [{}, {"Pneumothorax": "positive"}])
def test_reports_end_within_the_context(short, warnings, batch_size, labels):
    report = pipeline("radiology-report", model=str(short[0]))
    report.model.generation_config.eos_token_id = None  # a model that never ends
    film = make_films(1)[0]
    studies = [{"images": [film] * n, "indication": text_of(300), "disease_labels": labels} for n in (1, 2, 3)]
    answers = report(studies, batch_size=batch_size)
    assert all(answer["generated_text"] for answer in answers)
    assert any(warning.startswith("The indication is cut to") for warning in warnings)
    assert any(warning.startswith("max_new_tokens is ") for warning in warnings)
    warnings.clear()
    report(film, max_new_tokens=4)
    assert warnings == []


def test_a_study_with_a_long_prompt_does_not_cut_the_reports_of_its_batch(short, warnings):
    report = pipeline("radiology-report", model=str(short[0]))
    report.model.generation_config.eos_token_id = None
    film = make_films(1)[0]
    long = {"images": film, "begins_with": text_of(7)}
    alone = report(film, max_new_tokens=24)["generated_text"]
    answers = report([film, long, film], batch_size=3, max_new_tokens=24)
    assert [answers[0]["generated_text"], answers[2]["generated_text"]] == [alone, alone]
    assert answers[1]["generated_text"].startswith(text_of(7))
    assert [warning for warning in warnings if warning.startswith("max_new_tokens is ")]


def test_a_study_without_room_for_a_report_is_refused(short):
    report = pipeline("radiology-report", model=str(short[0]))
    film = make_films(1)[0]
    report.processor.context_length = 1000  # of another model, so that the processor does not see it
    with pytest.raises(ValueError, match="leaves no room for a report in the LLM's context of 96: give fewer views"):
        report({"images": [film] * 14})


def test_folders_from_before_load_and_learn_the_context_from_the_model(short, warnings):
    folder, limit = short
    path = folder / "processor_config.json"
    fields = json.loads(path.read_text())
    del fields["context_length"]
    path.write_text(json.dumps(fields))
    assert AutoProcessor.from_pretrained(folder).context_length is None
    report = pipeline("radiology-report", model=str(folder))
    assert report.processor.context_length == limit
    report({"images": make_films(1), "indication": text_of(300)}, max_new_tokens=4)
    assert [warning.split(" cut ")[0] for warning in warnings] == ["The indication is"]


def test_reports_are_as_long_as_they_were_where_there_is_room(model, processor, films):
    report = pipeline("radiology-report", model=model, processor=processor)
    inputs = processor(images=films[0])
    ids = model.generate(**inputs, max_new_tokens=40)[:, inputs["input_ids"].shape[1] :]
    expected = processor.batch_decode(ids, skip_special_tokens=True)[0].strip()
    assert report(films[0], max_new_tokens=40)["generated_text"] == expected


def test_samples_end_within_the_context_as_well(short, warnings):
    report = pipeline("radiology-report", model=str(short[0]))
    report.model.generation_config.eos_token_id = None
    sample = {"do_sample": True, "num_return_sequences": 2, "max_new_tokens": 200}
    answer = report(make_films(1)[0], max_new_tokens=4, sample_kwargs=sample, seed=0)
    assert len(answer["candidates"]) == 3 and all(answer["candidates"])
    assert [warning for warning in warnings if warning.startswith("max_new_tokens is ")]
