"""Figures of generated reports in an evaluation, and the best checkpoint chosen by them, with all of its weights."""

from pathlib import Path

import pytest
import torch
import yaml
from tiny_training import speak_up, tiny_model, tiny_studies, tiny_trainer

from otdrg_hf.metrics import evaluate_reports
from otdrg_hf.modeling.pipeline_otdrg import RadiologyReportPipeline
from otdrg_hf.training.arguments import StudyArguments
from otdrg_hf.training.report_metrics import LOGGED, ReportMetrics

RECIPES = sorted((Path(__file__).parents[2] / "training/recipes").glob("*.yaml"))
NUM_STUDIES, NEW_TOKENS = 5, 12


def reporting_trainer(folder, lora=False, built=None, **options):
    """A trainer that writes five reports at each evaluation."""
    built = built or tiny_model()
    options = {"stage": "finetune" if lora else "joint", "lora": lora, "eval_strategy": "steps", **options}
    metrics = ReportMetrics(built[1], "report", NUM_STUDIES, NEW_TOKENS)
    return tiny_trainer(folder, tiny_studies(8), tiny_studies(7), built=built, report_metrics=metrics, **options)


def evaluations(trainer) -> list[dict]:
    return [entry for entry in trainer.state.log_history if "eval_loss" in entry]


@pytest.mark.parametrize("lora", [False, True])
def test_an_evaluation_scores_the_reports_that_the_pipeline_writes(lora, tmp_path):
    built = tiny_model()
    speak_up(built[0])  # A few steps teach it no words.
    trainer = reporting_trainer(tmp_path, lora, built, eval_steps=4, learning_rate=1e-3)
    trainer.train()
    (logged,) = evaluations(trainer)
    written = trainer.report_metrics.write_reports(trainer, tiny_studies(NUM_STUDIES))
    model, processor = trainer.model, trainer.processing_class
    model = model.merge_and_unload() if lora else model
    studies = tiny_studies(NUM_STUDIES)
    inputs = [{key: row[key] for key in ("images", "views", "indication", "comparison")} for row in studies]
    write = RadiologyReportPipeline(model=model.eval(), processor=processor, device="cpu")
    texts = [answer["generated_text"] for answer in write(inputs, max_new_tokens=NEW_TOKENS)]
    assert len(set(texts)) > 1
    assert written == texts
    expected = evaluate_reports(texts, list(studies["report"]), meteor=False)
    assert logged["eval_bleu_1"] > 0
    assert {name: logged[f"eval_{name}"] for name in LOGGED} == pytest.approx({name: expected[name] for name in LOGGED})


def test_reports_are_the_same_again_and_leave_the_training_as_it_is(tmp_path):
    plain = tiny_trainer(tmp_path, tiny_studies(8), tiny_studies(7), eval_strategy="steps", eval_steps=2)
    plain.train()
    first, second = (reporting_trainer(tmp_path, eval_steps=2) for _ in range(2))
    for trainer in (first, second):
        trainer.train()
        for name, value in plain.model.state_dict().items():
            assert torch.equal(value, trainer.model.state_dict()[name]), name
    names = [f"eval_{name}" for name in LOGGED]
    assert [[entry[name] for name in names] for entry in evaluations(first)] == [
        [entry[name] for name in names] for entry in evaluations(second)
    ]
    assert not set(names) & {*evaluations(plain)[0]}


@pytest.mark.parametrize("lora", [False, True])
def test_reports_are_written_in_mixed_precision_with_checkpointed_gradients(lora, tmp_path):
    trainer = reporting_trainer(tmp_path, lora, eval_steps=4, bf16=True, gradient_checkpointing=True)
    trainer.train()
    (logged,) = evaluations(trainer)
    assert {f"eval_{name}" for name in LOGGED} <= logged.keys()


def test_thresholds_are_chosen_without_writing_reports(tmp_path):
    trainer = reporting_trainer(tmp_path, eval_steps=4)
    trainer.report_metrics = lambda *_: pytest.fail("reports were written")
    assert "validation_loss" in trainer.predict(tiny_studies(4), metric_key_prefix="validation").metrics


class FallingMetrics(ReportMetrics):
    """Real reports, but a figure that is best at the second evaluation of four."""

    scores = (0.2, 0.9, 0.5, 0.1)
    asked = 0

    def __call__(self, trainer, studies):
        self.asked += 1
        return super().__call__(trainer, studies) | {"ce14_micro_f1": self.scores[self.asked - 1]}


@pytest.mark.parametrize("lora", [False, True])
def test_the_best_checkpoint_is_loaded_at_the_end_with_all_of_its_weights(lora, tmp_path):
    # The layers of a ViT are saved under older names, which the trainer's own loading would pass over.
    trainer = reporting_trainer(
        tmp_path,
        lora,
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="ce14_micro_f1",
        greater_is_better=True,
    )
    trainer.report_metrics = FallingMetrics(trainer.processing_class, "report", NUM_STUDIES, NEW_TOKENS)
    second = {}

    def remember(*args, **kwargs):
        output = type(trainer).evaluation_loop(trainer, *args, **kwargs)
        if trainer.report_metrics.asked == 2 and not second:
            second.update({name: value.clone() for name, value in trainer.model.state_dict().items()})
        return output

    trainer.evaluation_loop = remember
    trainer.train()
    assert trainer.state.best_metric == 0.9
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize(
    "recipe", [path for path in RECIPES if "generate_eval_studies" in path.read_text()], ids=lambda path: path.stem
)
def test_no_recipe_keeps_a_checkpoint_for_normal_reports_alone(recipe, monkeypatch):
    monkeypatch.setattr(ReportMetrics, "write_reports", lambda self, _, studies: ["No acute findings."] * len(studies))
    metrics = ReportMetrics(None, "report", 8)(None, tiny_studies(8))
    assert metrics["ce14_micro_f1"] > 0 == metrics[yaml.safe_load(recipe.read_text())["metric_for_best_model"]]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"generate_eval_studies": -1}, "--generate_eval_studies is -1"),
        ({"generate_eval_studies": 8, "stage": "align"}, "leave it out of the stage 'align'"),
    ],
)
def test_fields_that_do_not_fit_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        StudyArguments(**fields)


def test_more_studies_than_there_are_means_all(tmp_path):
    trainer = reporting_trainer(tmp_path, eval_steps=4)
    metrics = ReportMetrics(trainer.processing_class, "findings", 100, 2)
    assert metrics(trainer, tiny_studies(3)).keys() == set(LOGGED)
