"""The reports of a split: what a line holds, a run killed in the middle of a line, and a resume that is refused."""

import json

import pytest
from PIL import Image

from otdrg_hf import OTDRGForConditionalGeneration
from otdrg_hf.labeling import LABELS, STATES
from otdrg_hf.modeling.pipeline_otdrg import RadiologyReportPipeline
from otdrg_hf.reporting.loading import weights_digest
from otdrg_hf.reporting.split import generate_predictions
from tests.evaluation.conftest import REPORTS
from tests.support.tiny_models import make_films, make_model

OPTIONS = {"batch_size": 2, "max_new_tokens": 6, "device": "cpu"}


@pytest.fixture
def generate(folder, data, tmp_path):
    """Reports the test split of `data` by the tiny model into `tmp_path/out`, unless told otherwise."""

    def call(model=folder, dataset=data, output_dir=None, **options):
        return generate_predictions(str(model), str(dataset), output_dir or tmp_path / "out", **OPTIONS | options)

    return call


@pytest.fixture(scope="session")
def unbroken(folder, data, tmp_path_factory):
    path = generate_predictions(str(folder), str(data), tmp_path_factory.mktemp("unbroken"), **OPTIONS)
    return path.read_bytes()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def counted(monkeypatch):
    """The numbers of studies that pass through the model together."""
    batches, forward = [], RadiologyReportPipeline._forward

    def count(self, inputs, *args, **kwargs):
        batches.append(len(inputs["study"]) if isinstance(inputs["study"], list) else 1)
        return forward(self, inputs, *args, **kwargs)

    monkeypatch.setattr(RadiologyReportPipeline, "_forward", count)
    return batches


def test_a_line_holds_the_report_its_reference_and_the_predicted_labels(generate, folder, tmp_path):
    from transformers import pipeline

    rows = lines(generate())
    assert [row["id"] for row in rows] == [f"s{index}" for index in range(6)]
    assert [row["reference"] for row in rows] == [" ".join(filter(None, texts)) for texts in REPORTS]
    answer = pipeline("radiology-report", model=str(folder))(Image.fromarray(make_films(12)[0]), max_new_tokens=6)
    assert rows[0]["generated_text"] == answer["generated_text"] != ""
    states = {finding["label"]: finding["state"] for finding in answer["findings"]}
    assert rows[0]["predicted_labels"] == {label: state for label, state in states.items() if state != "blank"}
    assert len({row["generated_text"] for row in rows}) > 1
    settings = json.loads((tmp_path / "out/generation.json").read_text())
    assert settings["model"] == folder.name and settings["split"] == "test" and settings["section"] == "report"
    assert str(tmp_path.parent.parent) not in (tmp_path / "out/generation.json").read_text()


@pytest.mark.parametrize("section, kept", [("findings", [0, 1, 3, 4, 5]), ("impression", [0, 1, 2, 4, 5])])
def test_references_are_the_section_and_studies_without_it_are_left_out(section, kept, generate):
    rows = lines(generate(section=section))
    column = ("findings", "impression").index(section)
    assert [row["id"] for row in rows] == [f"s{index}" for index in kept]
    assert [row["reference"] for row in rows] == [REPORTS[index][column] for index in kept]
    assert {row["section"] for row in rows} == {section}


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.77, 0.999])
def test_a_run_that_was_cut_in_a_line_ends_as_an_unbroken_one(share, unbroken, generate, tmp_path, counted):
    path = generate()
    assert path.read_bytes() == unbroken
    counted.clear()
    left = unbroken[: int(len(unbroken) * share)]
    path.write_bytes(left)
    assert generate().read_bytes() == unbroken
    # Batches of which a line is missing, and no others, went through the model.
    assert counted == [2] * (3 - left.count(b"\n") // 2)


def test_a_killed_run_goes_on(unbroken, generate, monkeypatch, tmp_path, counted):
    forward = RadiologyReportPipeline._forward

    def killed(self, *args, **kwargs):
        if len(counted) == 2:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(RadiologyReportPipeline, "_forward", killed)
        with pytest.raises(KeyboardInterrupt):
            generate()
    path = tmp_path / "out/predictions.jsonl"
    assert path.read_bytes() == b"".join(unbroken.splitlines(keepends=True)[:4])
    assert generate().read_bytes() == unbroken


def test_a_whole_file_is_not_generated_again(generate, counted):
    path = generate()
    before = path.read_bytes(), len(counted)
    generate()
    assert (path.read_bytes(), len(counted)) == before


def test_more_studies_go_on_from_fewer(unbroken, generate):
    assert generate(num_studies=3).read_bytes() == b"".join(unbroken.splitlines(keepends=True)[:3])
    assert generate().read_bytes() == unbroken
    with pytest.raises(ValueError, match=r"predictions.jsonl line 4: id 's3' is not among the studies asked for"):
        generate(num_studies=3)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"max_new_tokens": 7}, "out holds predictions made with max_new_tokens 6, not 7; give another --output_dir"),
        ({"section": "findings"}, "section 'report', not 'findings'"),
        ({"split": "validation"}, "no study of the split 'validation'"),
    ],
)
def test_a_resume_with_other_settings_is_refused(changes, message, generate, unbroken):
    path = generate()
    with pytest.raises(ValueError, match=message) as caught:
        generate(**changes)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == unbroken


def test_a_resume_with_other_weights_is_refused(folder, processor, generate, tmp_path):
    generate()
    other = tmp_path / folder.name
    make_model(seed=1).save_pretrained(other)
    processor.save_pretrained(other)
    with pytest.raises(ValueError, match="made with weights 'sha256 of samples [0-9a-f]+', not 'sha256"):
        generate(model=other)


def test_a_resume_with_another_reference_is_refused(generate):
    path = generate(num_studies=2)
    path.write_text(path.read_text().replace("Left pleural effusion.", "Right pleural effusion."))
    with pytest.raises(ValueError, match="predictions.jsonl line 2: the reference of id 's1' has changed"):
        generate()


def test_predictions_of_unknown_settings_are_refused(generate, tmp_path):
    generate(num_studies=2)
    (tmp_path / "out/generation.json").write_text("{")
    with pytest.raises(ValueError, match="out has predictions.jsonl without a readable generation.json"):
        generate()


def test_a_broken_line_in_the_middle_is_named(generate):
    path = generate(num_studies=2)
    path.write_bytes(b"\x00\n" + path.read_bytes())
    with pytest.raises(ValueError, match="predictions.jsonl line 1: not JSON"):
        generate()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"split": "tset"}, "Unknown split 'tset'"),
        ({"section": "summary"}, "unknown section 'summary'; give one of findings, impression, report"),
        ({"model": "not/a/model"}, "The model 'not/a/model' cannot be loaded: "),
        ({"dataset": "not/a/folder"}, "'not/a/folder' is neither phantom.* nor a folder"),
        ({"dataset": "iu_xray"}, "iu_xray needs data_dir"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(changes, message, generate, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        generate(**changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_model_of_another_kind_is_named(model, generate, tmp_path):
    model.config.text_config.save_pretrained(tmp_path / "llama")
    with pytest.raises(ValueError, match="The model 'llama' cannot be loaded: ") as caught:
        generate(model=tmp_path / "llama")
    assert "\n" not in str(caught.value)


def test_a_film_that_cannot_be_read_is_named(data, generate, tmp_path):
    copy = tmp_path / "films"
    copy.mkdir()
    for path in data.iterdir():
        (copy / path.name).write_bytes(path.read_bytes() if path.name != "2-0.png" else b"no film")
    with pytest.raises(ValueError, match="study 's2' cannot be read"):
        generate(dataset=copy)
    assert len(lines(tmp_path / "out/predictions.jsonl")) == 2


def test_the_digest_knows_weights(model, folder):
    copy = OTDRGForConditionalGeneration.from_pretrained(folder)
    assert weights_digest(copy) == weights_digest(model)
    copy.model.disease_head.classifier_bias.data[0, 0] += 1e-3
    assert weights_digest(copy) != weights_digest(model)


def test_phantoms_are_reported(generate):
    rows = lines(generate(dataset="phantom", num_studies=2))
    assert len(rows) == 2
    for row in rows:
        assert row["reference"] and set(row["predicted_labels"]) <= set(LABELS)
        assert set(row["predicted_labels"].values()) <= set(STATES[1:])
