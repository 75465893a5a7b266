"""transformers' own `Trainer` trains and evaluates the model."""

import pytest
import torch
from transformers import Trainer, TrainingArguments

from tests.support.tiny_models import make_model


@pytest.fixture
def batches(inputs):
    """Three studies, with what may be known of them."""
    ids = inputs["input_ids"]
    study = {**inputs, "labels": ids.masked_fill(torch.arange(ids.shape[1]) < 30, -100)}
    labelled = {**study, "disease_labels": torch.arange(3 * 14).view(3, 14) % 4}
    weighted = {**labelled, "label_weights": torch.arange(3.0)[:, None].expand(ids.shape)}
    return {"labels": study, "disease labels": labelled, "weights": weighted}


def trainer(model, batch, folder, compute_metrics=None, **of_arguments):
    """The rows of a batch are its dataset, and one batch of it."""
    rows = [{key: value[row] for key, value in batch.items()} for row in range(3)]
    arguments = TrainingArguments(
        folder,
        per_device_eval_batch_size=3,
        max_steps=1,
        report_to=[],
        use_cpu=True,
        **{"per_device_train_batch_size": 3, "remove_unused_columns": False, **of_arguments},
    )
    return Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, compute_metrics=compute_metrics)


@pytest.mark.parametrize("kind", ["labels", "disease labels", "weights"])
def test_evaluation_gives_the_loss(kind, batches, tmp_path):
    model, batch = make_model(), batches[kind]
    metrics = trainer(model, batch, tmp_path).evaluate()
    with torch.no_grad():
        expected = model(**batch).loss
    assert metrics["eval_loss"] == pytest.approx(float(expected), rel=1e-5)


def test_metrics_get_the_logits_and_the_tokens(batches, tmp_path):
    shapes = {}

    def metrics(prediction):
        shapes["labels"] = prediction.label_ids.shape
        return {"seen": len(prediction.predictions)}

    model, batch = make_model(), batches["disease labels"]
    found = trainer(model, batch, tmp_path, compute_metrics=metrics).evaluate()
    assert found["eval_seen"] > 3 and found["eval_loss"] > 0
    assert shapes["labels"] == batch["labels"].shape


def test_training_lowers_the_loss(batches, tmp_path):
    model = make_model().train()
    one = trainer(model, batches["disease labels"], tmp_path)
    before = one.evaluate()["eval_loss"]
    one.train()
    assert one.evaluate()["eval_loss"] < before


@pytest.mark.parametrize("names", [["disease_labels"], ["labels", "disease_labels"]])
def test_label_names_add_the_disease_labels_to_the_columns(names, batches, tmp_path):
    """Where only the diseases are learned, or where columns that the signature does not name are removed."""
    kept = ("pixel_values", "view_mask", "disease_labels", *(("input_ids", "labels") if "labels" in names else ()))
    batch = {key: batches["disease labels"][key] for key in kept}
    model = make_model()
    one = trainer(model, batch, tmp_path, label_names=names, remove_unused_columns=True)
    with torch.no_grad():
        expected = model(**batch).loss
    assert one.evaluate()["eval_loss"] == pytest.approx(float(expected), rel=1e-5)


def head_of(model):
    """The parameters of the disease head, which alone are trained."""
    for name, value in model.named_parameters():
        value.requires_grad_(name.startswith("model.disease_head"))
    return [value for value in model.parameters() if value.requires_grad]


@pytest.mark.parametrize("steps", [1, 3])
def test_losses_of_studies_are_means_over_the_steps_of_an_accumulation(steps, batches, tmp_path):
    """Three steps of a study each, whose reports are equally long, change the disease head as one step of three."""
    model, reference = make_model(), make_model()
    trained, expected, batch = head_of(model), head_of(reference), batches["disease labels"]
    reference(**batch).loss.backward()
    sgd = {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    sizes = {"per_device_train_batch_size": 3 // steps, "gradient_accumulation_steps": steps}
    trainer(model, batch, tmp_path, **sgd, **sizes).train()
    for value, start in zip(trained, expected, strict=True):
        torch.testing.assert_close(value.detach(), start.detach() - 0.1 * start.grad, atol=1e-6, rtol=1e-4)
