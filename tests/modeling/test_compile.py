"""`torch.compile` takes the forward pass as one graph, and gives what the model gives without it."""

import pytest
import torch

from tests.support.tiny_models import make_films, make_model, make_processor

FAMILIES = [("vit", "llama"), ("swin", "gpt2"), ("resnet", "gemma2")]


@pytest.fixture(autouse=True)
def dynamo():
    # The loss looks at supervised positions alone, whose number is a value; the trainer sets this with torch_compile.
    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        yield
    torch._dynamo.reset()


def study_batch() -> dict:
    """Studies of one, two and one views, of which the second of the last one is the real one."""
    films = make_films(5)
    labels = [{"Edema": "positive"}, {"Pneumonia": "negative"}, {}]
    inputs = make_processor(num_image_tokens=4)(images=[[films[0]], films[1:3], [films[3]]], disease_labels=labels)
    inputs["pixel_values"][2] = inputs["pixel_values"][2].flip(0)
    inputs["view_mask"][2] = inputs["view_mask"][2].flip(0)
    inputs["labels"] = inputs["input_ids"].masked_fill(torch.rand(inputs["input_ids"].shape) < 0.5, -100)
    return inputs


@pytest.mark.parametrize("vision, text", FAMILIES)
def test_forward_and_backward_are_one_graph(vision, text):
    model = make_model(vision, text)  # in evaluation mode: batch-norm statistics would see the padded views
    inputs = study_batch()
    plain = model(**inputs, use_cache=False)
    plain.loss.backward()
    expected = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    outputs = compiled(**inputs, use_cache=False)
    for name in ("loss", "lm_loss", "ot_loss", "disease_loss", "logits", "disease_logits", "transport_plan"):
        torch.testing.assert_close(outputs[name], plain[name], atol=1e-5, rtol=1e-5, msg=name)
    outputs.loss.backward()
    actual = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_forward_without_labels_needs_no_setting():
    model, inputs = make_model(), study_batch()
    del inputs["labels"], inputs["disease_labels"]
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=False), torch.no_grad():
        explanation = torch._dynamo.explain(model)(**inputs, use_cache=False)
        assert (explanation.graph_count, explanation.graph_break_count) == (1, 0)


def test_a_second_batch_of_other_lengths_is_taken_too():
    model, inputs = make_model(), study_batch()
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=True)
    with torch.no_grad():
        for cut in (0, 7):
            shorter = {**inputs, "labels": inputs["labels"].clone()}
            shorter["labels"][:, : shorter["labels"].shape[1] - 3 - cut] = -100
            close = torch.testing.assert_close
            close(compiled(**shorter).loss, model(**shorter).loss, atol=1e-5, rtol=1e-5)
