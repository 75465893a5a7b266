"""`torch.export` of what comes before the language model, and its transport as a fixed number of iterations."""

import pytest
import torch

from otdrg_hf.modeling.optimal_transport import sinkhorn, transport_decompositions
from tests.support.tiny_models import make_model

OUTPUTS = ("disease_logits", "disease_states", "transport_plan")


# The graph grows with the square of their number.
FEW_LABELS = {"label_names": ["Edema", "Pneumonia", "No Finding"], "device_labels": []}


def exported(model, inputs):
    """The program, its inputs, and what the model gives for them."""
    images = {"pixel_values": inputs["pixel_values"], "view_mask": inputs["view_mask"]}
    with torch.no_grad():
        program = torch.export.export(model, (), images, strict=False)
        return program, images, model(**images)


def problem(n: int, m: int, seed: int = 0):
    """Costs and masses of three samples; of the first, half the rows and a column have no mass."""
    generator = torch.Generator().manual_seed(seed)
    cost = 2 * torch.rand(3, n, m, generator=generator)
    a, b = torch.rand(3, n, generator=generator), torch.rand(3, m, generator=generator)
    a[0, n // 2 :], b[0, 0] = 0, 0
    return cost, a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)


@pytest.mark.parametrize("n, m", [(49, 15), (15, 49), (7, 7)])
@pytest.mark.parametrize("epsilon", [0.05, 0.01])
def test_fixed_iterations_give_the_plan_of_the_solver(n, m, epsilon):
    cost, a, b = problem(n, m)
    [decomposed] = transport_decompositions().values()
    [plan] = decomposed(cost, a, b, epsilon, 100, 1e-6, "sinkhorn")
    torch.testing.assert_close(plan, sinkhorn(cost, a, b, epsilon), atol=1e-5, rtol=0)
    assert (plan[0, n // 2 :] == 0).all() and (plan[0, :, 0] == 0).all()


def test_fixed_iterations_of_a_sample_without_mass_are_zero():
    cost, a, b = problem(9, 5)
    [decomposed] = transport_decompositions().values()
    [plan] = decomposed(cost, a * torch.tensor([[1.0], [0.0], [1.0]]), b, 0.05, 100, 1e-6, "sinkhorn")
    assert (plan[1] == 0).all() and plan.isfinite().all()


def test_an_exported_program_gives_what_the_model_gives(inputs):
    program, images, expected = exported(make_model(**FEW_LABELS), inputs)
    outputs = program.module()(**images)
    for name in OUTPUTS:
        torch.testing.assert_close(outputs[name], expected[name], atol=1e-5, rtol=1e-5)
    others = {**images, "pixel_values": images["pixel_values"].flip(-1)}
    assert not torch.equal(program.module()(**others).disease_logits, outputs.disease_logits)


@pytest.mark.slow
@pytest.mark.parametrize("vision", ["vit", "resnet"])
def test_onnx_gives_what_the_model_gives(vision, inputs, tmp_path):
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    onnxruntime = pytest.importorskip("onnxruntime")
    model = make_model(vision, **FEW_LABELS)
    program, images, _ = exported(model, inputs)
    operators = {**torch.export.default_decompositions(), **transport_decompositions()}
    path = str(tmp_path / "study.onnx")
    torch.onnx.export(program.run_decompositions(operators), kwargs=images, dynamo=True).save(path)
    session = onnxruntime.InferenceSession(path)
    for study in (images, {**images, "pixel_values": images["pixel_values"].flip(-1)}):
        with torch.no_grad():
            expected = model(**study)
        outputs = session.run(None, {name: value.numpy() for name, value in study.items()})
        for name, value in zip(OUTPUTS, outputs, strict=True):
            torch.testing.assert_close(torch.tensor(value), expected[name], atol=1e-3, rtol=0, check_dtype=False)
