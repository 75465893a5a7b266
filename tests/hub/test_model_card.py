"""The model card: what huggingface_hub reads of it, its figures, and that it is never written over somebody's edits."""

import json
import logging
import os

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData, metadata_load, parse_eval_result_entries
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from hypothesis import given, settings
from hypothesis import strategies as st

from otdrg_hf.hub.card_file import save_card
from otdrg_hf.hub.model_card import (
    describe_score,
    eval_result_entries,
    eval_results,
    read_scores,
    render_model_card,
    score_names,
    write_model_card,
)
from tests.hub.conftest import stage, write_stages

CONFIG = {"model_type": "otdrg", "label_names": ["Edema"] * 14, "notice": "Trained on phantoms only."}


def load(path) -> ModelCard:
    """Loads a card; whatever huggingface_hub has to say against it fails the test."""
    said = []
    handler = logging.Handler()
    handler.emit = said.append
    logger = logging.getLogger("huggingface_hub")
    logger.addHandler(handler)
    try:
        card = ModelCard.load(path)
    finally:
        logger.removeHandler(handler)
    assert not said, [record.getMessage() for record in said]
    return card


def test_a_card_that_is_wrong_would_be_noticed(tmp_path):
    (tmp_path / "README.md").write_text("# No metadata\n")
    with pytest.raises(AssertionError, match="metadata block was not found"):
        load(tmp_path / "README.md")


def test_the_card_holds_the_figures_as_evaluated(published, figures, evaluation_file):
    path = write_model_card(published, figures, repo_id="org/tiny-otdrg")
    card = load(path)
    evaluated = json.loads(evaluation_file.read_text())["systems"]["predictions"]["figures"]
    results = {result.metric_args["figure"]: result for result in card.data.eval_results}
    assert set(results) == {
        name for name in evaluated if name[-4:] != "_low" and name[-5:] != "_high" and evaluated[name] is not None
    }
    for name, result in results.items():
        assert result.metric_value == pytest.approx(evaluated[name], abs=1e-6)
        assert result.metric_args["low"] == pytest.approx(evaluated[f"{name}_low"], abs=1e-6)
        assert result.metric_args["high"] == pytest.approx(evaluated[f"{name}_high"], abs=1e-6)
        assert result.metric_args["confidence"] == 0.95 and result.metric_args["bootstrap_samples"] == 50
        assert (result.dataset_name, result.dataset_split) == ("synthetic chest phantoms", "test")
        assert result.dataset_args == {"reports": 4, "references": 4, "section": "texts as given"}
    assert results["bleu_4"].metric_args["protocol"] == "raw" and results["bleu_4"].metric_type == "bleu"
    assert results["ce14_micro_f1"].metric_args["labeler"] == "rules"
    low, high = evaluated["bleu_1_low"], evaluated["bleu_1_high"]
    assert f"| BLEU-1 | {evaluated['bleu_1']:.3f} | {low:.3f} to {high:.3f} |" in card.text
    assert "Intervals: 95 %, percentile bootstrap, 50 samples" in card.text
    assert "| Pleural Effusion | 1 | 1.000 |" in card.text


def test_the_metadata_is_what_the_hub_asks_for(published):
    metadata = metadata_load(published / "README.md")
    assert metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == "image-text-to-text"
    assert metadata["license"] == "apache-2.0" and metadata["language"] == "en"
    assert {"radiology-report-generation", "arxiv:2507.03908", "synthetic"} <= set(metadata["tags"])
    assert "model-index" not in metadata
    header = (published / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(header) == metadata
    assert ModelCardData(**metadata).to_dict() == metadata


def test_the_model_index_goes_there_and_back(figures):
    results = eval_results(figures)
    index = eval_results_to_model_index("org/tiny-otdrg", results)
    assert len(results) == len(score_names(figures)) and len(index[0]["results"]) == 1
    name, again = model_index_to_eval_results(yaml.safe_load(yaml.safe_dump(index)))
    assert name == "org/tiny-otdrg" and again == results


def test_the_scores_are_files_that_the_hub_reads_as_well(published, figures, evaluation_file):
    write_model_card(published, figures)
    [path] = (published / ".eval_results").iterdir()
    entries = parse_eval_result_entries(yaml.safe_load(path.read_text()))
    by_task = {entry.task_id: entry for entry in entries}
    evaluated = json.loads(evaluation_file.read_text())["systems"]["predictions"]["figures"]
    assert by_task["bleu_4"].value == pytest.approx(evaluated["bleu_4"], abs=1e-6)
    assert {entry.dataset_id for entry in entries} == {"synthetic_chest_phantoms"}
    notes = by_task["ce14_micro_f1"].notes
    assert notes.startswith("Clinical efficacy, 14 labels, micro F1; split test; 4 reports; section texts as given; ")
    low, high = (evaluated[f"ce14_micro_f1_{bound}"] for bound in ("low", "high"))
    assert notes.endswith(f"labeler rules; 95% interval {low:.4f} to {high:.4f}")
    assert "protocol raw" in by_task["bleu_4"].notes and "meteor" not in by_task
    assert str(published) not in path.read_text()


def test_a_card_without_scores_leaves_no_scores_of_an_earlier_one(published, figures):
    write_model_card(published, figures)
    others = published / ".eval_results/other.yaml"
    others.write_text("[]\n")
    write_model_card(published)
    assert list((published / ".eval_results").iterdir()) == [others]
    others.unlink()
    write_model_card(published, figures)
    [own] = (published / ".eval_results").iterdir()
    card = (published / "README.md").read_bytes()
    own.write_text("- mine\n")
    with pytest.raises(ValueError, match="was written by someone"):
        write_model_card(published)
    assert (published / "README.md").read_bytes() == card and own.read_text() == "- mine\n"
    own.unlink()
    write_model_card(published)
    assert not (published / ".eval_results").exists() or not any((published / ".eval_results").iterdir())


def test_a_dataset_on_the_hub_keeps_its_id(evaluation_file):
    scores = read_scores(evaluation_file, "org/chest-x-rays", "test")
    assert {entry.dataset_id for entry in eval_result_entries(scores)} == {"org/chest-x-rays"}


def test_the_recipe_and_every_stage_are_told():
    align = stage("iu_xray", stage="align", vision_model="microsoft/rad-dino", text_model="Qwen/Qwen2.5-1.5B-Instruct")
    tune = stage("iu_xray", stage="finetune", lora={"r": 16, "alpha": 32, "dropout": 0.05})
    text = render_model_card(CONFIG, [align, tune], "org/model")
    data = ModelCard(text).data
    assert data.base_model == ["microsoft/rad-dino", "Qwen/Qwen2.5-1.5B-Instruct"]
    assert data.license == "cc-by-nc-nd-4.0" and "synthetic" not in data.tags
    for words in (
        "Stage 1: alignment",
        "Stage 2: fine-tuning",
        "IU X-Ray: 12 studies to train on, 4 to validate on, 32 x 32 pixels",
        "18 steps (3.0 epochs); 120,000 of 123,456 parameters trained",
        "| learning_rate | 0.002 |",
        "| lora_r | 16 |",
        "| otdrg_config.predicted_label_rate | 0.5 |",
        "- disease_micro_f1: 0.6250",
        "torch 2.13.0",
        "Demner-Fushman",
        "Not a medical device, not for clinical use",
        "Trained on phantoms only.",
        'pipeline("radiology-report", model="org/model", trust_remote_code=True)',
        "Not evaluated yet",
    ):
        assert words in text, words
    assert "max_steps" not in text


@pytest.mark.parametrize(
    "datasets, given, license, words",
    [
        (["phantom"], None, "apache-2.0", "synthetic"),
        (["phantom"], "mit", "mit", "synthetic"),
        (["phantom", "iu_xray"], None, "cc-by-nc-nd-4.0", "Indiana"),
        (["mimic_cxr"], None, "other", "through PhysioNet"),
        (["mimic_cxr", "iu_xray"], None, None, "through PhysioNet"),
        (["folder"], None, None, "not chosen yet"),
        (["folder"], "mit", "mit", "publisher's own"),
        (["unknown"], None, None, "Nothing was recorded about this stage"),
    ],
)
def test_licence_and_words_follow_the_data(datasets, given, license, words):
    stages = [{"stage": "unknown", "dataset": "unknown"} if name == "unknown" else stage(name) for name in datasets]
    text = render_model_card(CONFIG, stages, "org/model", license=given)
    assert ModelCard(text).data.to_dict().get("license") == license
    assert words in text


def test_no_path_of_this_machine_is_in_a_card(published, figures, monkeypatch):
    monkeypatch.chdir(published.parent)
    text = write_model_card("tiny-otdrg", figures).read_text()
    assert str(published.parent) not in text and os.path.expanduser("~") + "/" not in text
    assert 'model="tiny-otdrg"' in text


def test_a_card_is_written_anew_but_not_over_edits(published, figures):
    path = write_model_card(published)
    path = write_model_card(published, figures)
    edited = path.read_text().replace("## Uses", "## Uses by us")
    path.write_text(edited)
    with pytest.raises(ValueError, match="README.md was written or edited by someone.*--output"):
        write_model_card(published)
    assert path.read_text() == edited
    assert write_model_card(published, output=published / "CARD.md").read_text() != edited
    path.write_text("---\ntags:\n- generated_from_trainer\n---\n# Draft\n")
    assert "generated_from_trainer" not in write_model_card(published).read_text()
    assert not [*published.glob(".README*"), *published.glob("*.tmp")]


def test_what_is_no_model_or_damaged_is_one_line(published, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, words in ((tmp_path / "empty", "no config.json"), (tmp_path / "nowhere", "no config.json")):
        with pytest.raises(ValueError, match=words):
            write_model_card(folder)
    (published / "training_record.json").write_text('{"format": 1, "stages": [')
    with pytest.raises(ValueError, match="training_record.json is damaged"):
        write_model_card(published)
    write_stages(published, stage("somewhere"))
    with pytest.raises(ValueError, match="training_record.json is damaged"):
        write_model_card(published)
    (published / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="does not hold an OTDRG model"):
        write_model_card(published)
    (published / "config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        write_model_card(published)


def test_an_evaluation_of_several_systems_needs_a_choice(evaluation_file, tmp_path):
    content = json.loads(evaluation_file.read_text())
    content["systems"]["other"] = content["systems"]["predictions"]
    two = tmp_path / "two.json"
    two.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="two.json compares predictions, other: choose one with --system"):
        read_scores(two, "phantoms")
    assert read_scores(two, "phantoms", system="other").values["bleu_1"] > 0
    with pytest.raises(ValueError, match="has no system 'third', only predictions, other"):
        read_scores(two, "phantoms", system="third")


@pytest.mark.parametrize("content", ["", "[]", '{"systems": 3}', '{"systems": {"a": {}}}', '{"systems": {"a": null}}'])
def test_a_file_that_is_no_evaluation_is_one_line(content, tmp_path):
    (tmp_path / "wrong.json").write_text(content)
    with pytest.raises(ValueError, match="^wrong.json is not an evaluation[^\n]*$"):
        read_scores(tmp_path / "wrong.json", "phantoms")
    with pytest.raises(FileNotFoundError, match="There is no evaluation absent.json"):
        read_scores(tmp_path / "absent.json", "phantoms")


def test_figures_without_intervals_say_so(evaluation_file, tmp_path, published):
    content = json.loads(evaluation_file.read_text())
    card = content["systems"]["predictions"]
    card["figures"] = {k: v for k, v in card["figures"].items() if not k.endswith(("_low", "_high"))}
    card["record"]["bootstrap"] = None
    (tmp_path / "plain.json").write_text(json.dumps(content))
    text = write_model_card(published, read_scores(tmp_path / "plain.json", "phantoms")).read_text()
    assert "Intervals were not computed." in text and "percentile" not in text
    assert "low" not in ModelCard(text).data.eval_results[0].metric_args


def test_an_evaluation_by_the_model_says_what_it_is_about(evaluation_file, tmp_path, published):
    content = json.loads(evaluation_file.read_text())
    card = content["systems"]["predictions"]
    card["record"]["generation"] = {"dataset": "iu_xray", "split": "validation", "weights": "abc", "max_new_tokens": 64}
    head = {"ce14_micro_f1": 0.75, "ce14_micro_f1_low": 0.5, "ce14_micro_f1_high": 1.0}
    card["disease_head"] = {"figures": head, "labels": []}
    path = tmp_path / "figures.json"
    path.write_text(json.dumps(content))
    text = write_model_card(published, read_scores(path)).read_text()
    assert "On IU X-Ray, split `validation`: 4 reports (section: texts as given), written by weights `abc`" in text
    assert "| Predicted labels, 14 labels, micro F1 | 0.750 | 0.500 to 1.000 |" in text
    assert "the disease head's" in text
    result = ModelCard(text).data.eval_results[-1]
    assert result.metric_args["figure"] == "disease_head_ce14_micro_f1" and result.metric_value == 0.75
    with pytest.raises(ValueError, match="figures.json is an evaluation on the dataset iu_xray, not phantom"):
        read_scores(path, "phantom")
    with pytest.raises(ValueError, match="figures.json is an evaluation on the split validation, not test"):
        read_scores(path, "iu_xray", "test")
    with pytest.raises(ValueError, match="does not say which dataset.*--evaluated_on"):
        read_scores(evaluation_file)


@settings(max_examples=100, deadline=None)
@given(
    content=st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    place=st.integers(0),
    letter=st.sampled_from("x \n|"),
)
def test_any_edit_of_a_card_is_noticed(content, place, letter, tmp_path_factory):
    path = tmp_path_factory.mktemp("card") / "README.md"
    save_card(path, content)
    written = path.read_text(encoding="utf-8")
    save_card(path, content)
    assert path.read_text(encoding="utf-8") == written
    place %= len(content) + 1
    path.write_text(written[:place] + letter + written[place:], encoding="utf-8")
    with pytest.raises(ValueError, match="edited by someone"):
        save_card(path, content)


def test_marks_of_tables_and_tags_do_not_break_the_card(figures):
    described = stage(otdrg_config={"label_phrases": [["a|b"]]})
    figures.record["protocol"]["vocabulary"] = "no word was mapped to <unk>"
    text = render_model_card(CONFIG, [described], "org/model", figures)
    assert "| otdrg_config.label_phrases | [['a\\|b']] |" in text
    assert "mapped to `<unk>`" in ModelCard(text).text


@pytest.mark.parametrize(
    "name, described",
    [
        ("ce13_micro_f1", ("f1", "Clinical efficacy, 13 labels, micro F1")),
        ("ce13_macro_min10_f1", ("f1", "Clinical efficacy, 13 labels, macro (10 positives or more) F1")),
        ("disease_head_ce5_example_recall", ("recall", "Predicted labels, 5 labels, example-based recall")),
    ],
)
def test_clinical_scores_have_a_name_and_their_labeler(name, described, figures):
    assert describe_score(name) == described
    results = {result.metric_name: result for result in eval_results(figures)}
    assert results["Clinical efficacy, 13 labels, micro F1"].metric_args["labeler"].startswith("rules")
