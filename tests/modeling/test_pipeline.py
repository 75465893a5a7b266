"""Tests of `pipeline("radiology-report")`: what a study may be, its answer, batches, evidence, saving and errors."""

import base64
import copy
import io
import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

from otdrg_hf import OTDRGConfig, OTDRGForConditionalGeneration, OTDRGProcessor, RadiologyReportPipeline
from otdrg_hf.labeling import LABELS, STATES
from tests.support.tiny_models import make_films, make_model

SHORT = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def report(folder):
    return pipeline("radiology-report", model=str(folder))


@pytest.fixture(scope="module")
def studies():
    """Studies of different kinds, numbers of views and lengths of the prompt."""
    films = make_films(5, size=(48, 40), seed=3)
    return [
        films[0],
        {"images": [films[1], films[2]], "views": ["frontal", "lateral"], "indication": "Cough."},
        Image.fromarray(films[3]),
        {"images": films[4], "disease_labels": {"Pneumothorax": "positive", "No Finding": "blank"}},
        {"images": [films[0]], "comparison": "The heart is normal in size. No pleural effusion."},
    ]


def test_saved_folder_loads_by_every_auto_class(folder):
    for auto in (AutoModel, AutoModelForImageTextToText):
        assert type(auto.from_pretrained(folder)) is OTDRGForConditionalGeneration
    assert type(AutoConfig.from_pretrained(folder)) is OTDRGConfig
    assert type(AutoProcessor.from_pretrained(folder)) is OTDRGProcessor
    assert type(pipeline("radiology-report", model=str(folder))) is RadiologyReportPipeline


def test_pipeline_of_objects_that_are_loaded(model, processor, report, studies):
    again = pipeline("radiology-report", model=model, processor=processor)
    assert again(studies[1], **SHORT) == report(studies[1], **SHORT)


def test_data_urls_and_open_files_are_studies(report, tmp_path):
    film = Image.fromarray(make_films(1)[0])
    film.save(tmp_path / "film.png")
    content = (tmp_path / "film.png").read_bytes()
    url = "data:image/png;base64," + base64.b64encode(content).decode()
    expected = report(film, **SHORT)
    assert report(url, **SHORT) == report(io.BytesIO(content), **SHORT) == expected
    assert report([url, {"images": [io.BytesIO(content)]}], **SHORT) == [expected] * 2


def test_answer_says_what_generate_says(report, model, processor, studies):
    answer = report(studies[1], **SHORT)
    inputs = processor(images=[studies[1]["images"]], views=[studies[1]["views"]], indication="Cough.")
    ids = model.generate(**inputs, **SHORT)[:, inputs["input_ids"].shape[1] :]
    assert answer["generated_text"] == processor.batch_decode(ids, skip_special_tokens=True)[0].strip()
    with torch.no_grad():
        output = model(**inputs)
    assert [finding["label"] for finding in answer["findings"]] == list(LABELS)
    for index, finding in enumerate(answer["findings"]):
        assert set(finding) == {"label", "state", "score"} and finding["state"] in STATES
        assert finding["state"] == STATES[output.disease_states[0, index]]
        assert finding["score"] == pytest.approx(output.disease_logits[0, index].softmax(-1)[1].item(), abs=1e-4)


def test_batches_are_the_studies_one_by_one(report, studies):
    single = [report(study, **SHORT) for study in studies]
    assert len({answer["generated_text"] for answer in single}) > 2
    for batch_size in (1, 3, 8):
        for answers in (
            report(studies, batch_size=batch_size, **SHORT),
            list(report((study for study in studies), batch_size=batch_size, **SHORT)),
        ):
            assert [answer["generated_text"] for answer in answers] == [a["generated_text"] for a in single]
            for answer, expected in zip(answers, single, strict=True):
                assert [f["state"] for f in answer["findings"]] == [f["state"] for f in expected["findings"]]
                scores = [[f["score"] for f in a["findings"]] for a in (answer, expected)]
                np.testing.assert_allclose(*scores, atol=2e-4)


def test_one_study_in_a_list_is_answered_by_a_list(report, studies):
    assert report([studies[0]], **SHORT) == [report(studies[0], **SHORT)]


def test_datasets_are_answered_as_they_are_read(report):
    films = make_films(2)
    rows = Dataset.from_dict({"images": [[Image.fromarray(film)] for film in films], "indication": ["Cough.", ""]})
    expected = [report({"images": films[0], "indication": "Cough."}, **SHORT), report(films[1], **SHORT)]
    assert list(report(rows, **SHORT)) == expected
    assert report([]) == []


def test_views_may_be_an_array(report, studies):
    study = {**studies[1], "views": np.array(studies[1]["views"])}
    assert report(study, **SHORT) == report(studies[1], **SHORT)


def test_a_model_with_adapters_of_peft_reports_as_it_does_alone(studies, processor):
    curves = dict.fromkeys(LABELS[:13], [[1e-9, 0.1, 1.0]])
    plain = make_model(positive_thresholds=[0.5] * 14, operating_curves=curves)
    adapted = get_peft_model(copy.deepcopy(plain), LoraConfig(target_modules=["q_proj"]))
    reports = [pipeline("radiology-report", model=each, processor=processor) for each in (plain, adapted)]
    answers = [report(studies[1], operating_point={"recall": 1.0}, **SHORT) for report in reports]
    assert answers[0] == answers[1]


def test_an_image_may_be_a_path_or_bytes(report, studies, tmp_path):
    path = tmp_path / "film.png"
    Image.fromarray(studies[0]).save(path)
    expected = report(studies[0], **SHORT)
    for image in (str(path), path, path.read_bytes(), {"images": str(path)}, {"images": [path]}):
        assert report(image, **SHORT) == expected


def test_given_labels_are_what_the_answer_says(report, studies):
    findings = {finding["label"]: finding for finding in report(studies[3], **SHORT)["findings"]}
    assert findings["Pneumothorax"]["state"] == "positive" and findings["No Finding"]["state"] == "blank"
    plain = {finding["label"]: finding for finding in report({"images": studies[3]["images"]}, **SHORT)["findings"]}
    assert findings["Pneumothorax"]["score"] == pytest.approx(plain["Pneumothorax"]["score"], abs=1e-4)


def test_evidence_maps_have_the_size_of_their_image(report):
    films = [make_films(1, (50, 30))[0], make_films(1, (30, 70), seed=1)[0]]
    study = {"images": films, "disease_labels": {"Edema": "positive", "Fracture": "uncertain", "Pneumonia": "negative"}}
    answers = report([study, films[0]], evidence=True, batch_size=2, **SHORT)
    evidence = answers[0]["evidence"]
    shown = {finding["label"] for finding in answers[0]["findings"] if finding["state"] in ("positive", "uncertain")}
    assert set(evidence) == shown and {"Edema", "Fracture"} <= shown and "Pneumonia" not in shown
    for maps in evidence.values():
        assert [view.shape for view in maps] == [(50, 30), (30, 70)]
        assert all(view.dtype == np.float32 for view in maps)
        assert min(view.min() for view in maps) >= 0 and 0.2 < max(view.max() for view in maps) <= 1
    assert all(len(maps) == 1 and maps[0].shape == (50, 30) for maps in answers[1]["evidence"].values())
    assert "evidence" not in report(films[0], **SHORT)


@pytest.mark.parametrize("down, right", [(0, 0), (-1, 2)])  # in pixels
def test_evidence_is_that_of_the_model_where_its_patches_lie(report, model, processor, monkeypatch, down, right):
    monkeypatch.setattr(report.model.config, "patch_offset", [down / 5, right / 5])
    film = make_films(1, (20, 20))[0]  # 4 x 4 patches of 5 x 5 pixels
    labels = {label: "positive" for label in LABELS[:13]}
    evidence = report({"images": film, "disease_labels": labels}, evidence=True, **SHORT)["evidence"]
    with torch.no_grad():
        inputs = processor(images=film, disease_labels=labels)
        seen = model.get_image_features(inputs["pixel_values"], disease_labels=inputs["disease_labels"]).evidence
    for index, label in enumerate(LABELS[:13]):
        of_label = seen[0, :, index].view(4, 4).numpy()
        heat = evidence[label][0][2 + down :: 5, 2 + right :: 5]
        np.testing.assert_allclose(heat, of_label / of_label.max(), atol=1e-4)
        assert abs(of_label - of_label.T).max() > 1e-4


def test_candidates_and_options_of_generate(report, studies):
    options = {"num_beams": 3, "num_return_sequences": 2}
    answers = report(studies[:3], batch_size=3, generate_kwargs=options, **SHORT)
    for answer, study in zip(answers, studies, strict=False):
        assert len(answer["candidates"]) == 2 and answer["candidates"][0] == answer["generated_text"]
        assert report(study, generate_kwargs=options, **SHORT)["candidates"] == answer["candidates"]
    full = report(studies[0], generate_kwargs={"return_dict_in_generate": True, "output_scores": True}, **SHORT)
    assert full == report(studies[0], **SHORT)


def test_length_is_bounded(report, processor, studies):
    tokens = [
        len(processor.tokenizer(report(studies[0], max_new_tokens=n)["generated_text"])["input_ids"]) for n in (2, 20)
    ]
    assert tokens[0] < tokens[1]


def test_notice_of_a_checkpoint_is_one_warning(processor, caplog):
    model = make_model(notice="Trained on synthetic films.")
    pipeline("radiology-report", model=model, processor=processor)
    assert [record.message for record in caplog.records].count("Trained on synthetic films.") == 1


@pytest.mark.parametrize("trained", [True, False])
def test_a_model_that_never_learned_to_write_says_so(trained, processor, caplog, tmp_path):
    make_model(trained_on_reports=trained).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with caplog.at_level("WARNING"):
        pipeline("radiology-report", model=str(tmp_path))
    assert ("was not trained on reports" in caplog.text) is not trained


def test_configurations_from_before_are_of_models_that_write(folder):
    fields = json.loads((folder / "config.json").read_text())
    del fields["trained_on_reports"]
    assert OTDRGConfig.from_dict(fields).trained_on_reports


def test_half_precision(folder, studies):
    report = pipeline("radiology-report", model=str(folder), dtype=torch.bfloat16)
    assert report.model.dtype == torch.bfloat16
    for answer in report(studies, batch_size=3, evidence=True, **SHORT):
        assert all(0 <= finding["score"] <= 1 for finding in answer["findings"])


# Saving


def test_saved_pipeline_is_whole_and_names_no_local_path(report, studies, tmp_path, folder):
    report.save_pretrained(tmp_path / "saved")
    again = pipeline("radiology-report", model=str(tmp_path / "saved"))
    assert again(studies[1], **SHORT) == report(studies[1], **SHORT)
    saved = list((tmp_path / "saved").iterdir())
    assert {"processor_config.json", "tokenizer.json", "model.safetensors"} <= {path.name for path in saved}
    for path in saved:
        content = path.read_bytes()
        for local in (str(tmp_path), str(folder), str(folder.parent)):
            assert local.encode() not in content, path.name


# Errors


@pytest.mark.parametrize(
    "study, match",
    [
        ({"image": "film"}, "A study has no 'image'; its keys are images, views"),
        ({"images": []}, "needs at least one image"),
        ({"images": None}, "needs at least one image"),
        ({}, "needs at least one image"),
        (None, "needs at least one image"),
        ({"images": ["film", None]}, "needs at least one image"),
        ("none.png", "image 'none.png': no such file"),
        (np.full((40, 40), np.nan), "holds NaN"),
        ({"images": ["film", np.zeros((1, 1))]}, r"image given as ndarray \(view 1\): 1 x 1 pixels"),
        ({"images": ["film"], "disease_labels": {"Efusion": "positive"}}, "'Efusion' is not a label"),
        ({"images": ["film"], "disease_labels": {"Edema": "yes"}}, "'yes' is not a state of 'Edema'"),
        ({"images": ["film"], "disease_labels": [0] * 3}, r"`disease_labels` must be \[B, 14\]"),
        ({"images": ["film"], "disease_labels": [[0] * 14] * 2}, "`disease_labels` has 2 entries for 1 studies"),
        ({"images": ["film"], "views": ["frontal", "lateral"]}, "1 images has 2 view names"),
        ({"images": ["film"], "views": ["oblique"]}, "'oblique' is not a view"),
        ({"images": ["film"], "indication": 7}, "`indication` must be text, got int"),
    ],
    ids=str,
)
def test_studies_that_cannot_be_read(report, study, match):
    if isinstance(study, dict) and isinstance(study.get("images"), list):
        film = make_films(1)[0]
        images = [film if isinstance(image, str) else image for image in study["images"]]
        study = {**study, "images": images}
    with pytest.raises(ValueError, match=match) as error:
        report(study, **SHORT)
    assert "\n" not in str(error.value)


def test_unknown_argument(report, studies):
    with pytest.raises(ValueError, match="Unknown argument 'indication'"):
        report(studies[0], indication="Cough.")
