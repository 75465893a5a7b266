"""Tests of the cross-entropy in chunks: it is the plain one, and so are its gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.loss.loss_utils import ForCausalLMLoss

from otdrg_hf.modeling import losses_otdrg
from otdrg_hf.modeling.losses_otdrg import chunked_cross_entropy
from tests.support.tiny_models import make_model

ROWS, WIDTH, VOCABULARY = 11, 8, 50


def problem(bias=False, dtype=torch.float32):
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY, bias=bias, dtype=dtype)
    return torch.randn(ROWS, WIDTH, dtype=dtype, requires_grad=True), head, torch.randint(VOCABULARY, (ROWS,))


def plain(hidden, head, targets, cap=None, weights=None):
    logits = head(hidden)
    logits = logits if cap is None else torch.tanh(logits / cap) * cap
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    return (losses if weights is None else losses * weights).sum()


def gradients(loss, hidden, head):
    return torch.autograd.grad(0.3 * loss, [hidden, *head.parameters()])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("cap", [None, 0.7])
@pytest.mark.parametrize("rows", [1, 4, 10])
@pytest.mark.parametrize("weights", [None, torch.rand(ROWS, generator=torch.Generator().manual_seed(0)) * 3])
def test_loss_and_gradients_are_the_plain_ones(bias, cap, rows, weights):
    hidden, head, targets = problem(bias)
    ours = chunked_cross_entropy(hidden, head, targets, cap, weights, chunk=rows * VOCABULARY)
    theirs = plain(hidden, head, targets, cap, weights)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    pairs = zip(gradients(ours, hidden, head), gradients(theirs, hidden, head), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_as_close_to_full_precision_as_the_plain_one(autocast):
    hidden, head, targets = problem(dtype=torch.float32 if autocast else torch.bfloat16)
    double = [each.detach().double().requires_grad_() for each in (hidden, head.weight)]
    exact = torch.autograd.grad(0.3 * F.cross_entropy(F.linear(*double), targets, reduction="sum"), double)
    errors = []
    for function, options in ((chunked_cross_entropy, {"chunk": 4 * VOCABULARY}), (plain, {})):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = gradients(function(hidden, head, targets, **options), hidden, head)
        assert [each.dtype for each in found] == [hidden.dtype, head.weight.dtype]
        errors.append([float((one - other).norm() / other.norm()) for one, other in zip(found, exact, strict=True)])
    for ours, theirs in zip(*errors, strict=True):
        assert ours <= max(1.5 * theirs, 1e-2)


def test_head_that_is_not_trained_gets_no_gradient():
    hidden, head, targets = problem()
    head.requires_grad_(False)
    chunked_cross_entropy(hidden, head, targets, chunk=VOCABULARY).backward()
    assert head.weight.grad is None
    torch.testing.assert_close(
        hidden.grad, torch.autograd.grad(plain(hidden, head, targets), hidden)[0], atol=1e-5, rtol=1e-5
    )


def test_projection_that_is_no_plain_one_is_left_to_its_module():
    hidden, head, targets = problem()
    assert chunked_cross_entropy(hidden, nn.Sequential(head), targets, chunk=1) is None
    hook = head.register_forward_hook(lambda *each: None)
    assert chunked_cross_entropy(hidden, head, targets, chunk=1) is None
    hook.remove()
    assert chunked_cross_entropy(hidden, head, targets, chunk=1) is not None
    head.forward = head.forward
    assert chunked_cross_entropy(hidden, head, targets, chunk=1) is None


def test_what_is_kept_for_the_backward_pass_is_no_logits():
    hidden, head, targets = problem()
    loss = chunked_cross_entropy(hidden, head, targets, chunk=VOCABULARY)
    kept = [each.shape for each in loss.grad_fn.gradients if each is not None]
    assert kept == [hidden.shape, head.weight.shape]
    loss.backward()
    with pytest.raises(RuntimeError, match="already taken"):
        loss.backward()


@pytest.mark.parametrize("text", ["llama", "gemma2", "qwen2"])  # tied, capped, untied
def test_model_learns_the_same_from_chunks(text, inputs, monkeypatch):
    labels = inputs["input_ids"].clone()
    labels[:, :-6] = -100
    found = []
    for chunk in (losses_otdrg.CHUNK_LOGITS, 400):
        monkeypatch.setattr(losses_otdrg, "CHUNK_LOGITS", chunk)
        model = make_model(text=text)
        loss = model(**inputs, labels=labels, skip_logits=True).loss
        loss.backward()
        assert ("Chunked" in "".join(graph_names(loss))) == (chunk == 400)
        found.append([loss.detach(), *(each.grad for each in model.parameters() if each.grad is not None)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def graph_names(loss) -> set[str]:
    """Names of the nodes that a loss was computed by."""
    names, waiting = set(), [loss.grad_fn]
    while waiting and len(names) < 100:
        node = waiting.pop()
        names.add(node.name())
        waiting += [parent for parent, _ in node.next_functions if parent is not None and parent.name() not in names]
    return names


@pytest.mark.parametrize("chunk", [losses_otdrg.CHUNK_LOGITS, 400])
def test_shifted_labels_give_the_loss_of_labels(chunk, inputs, monkeypatch):
    monkeypatch.setattr(losses_otdrg, "CHUNK_LOGITS", chunk)
    model, labels = make_model(), inputs["input_ids"].clone()
    labels[:, :-6] = -100
    shifted = F.pad(labels[:, 1:], (0, 1), value=-100)
    with torch.no_grad():
        expected = model(**inputs, labels=labels).lm_loss
        assert torch.equal(model(**inputs, labels=labels, shift_labels=shifted).lm_loss, expected)
        assert torch.equal(model(**inputs, shift_labels=shifted).lm_loss, expected)
        assert not torch.equal(model(**inputs, labels=labels, shift_labels=labels).lm_loss, expected)


def test_shifted_labels_are_those_of_the_loss_functions_of_transformers(inputs):
    """The last position has a target where the sequence goes on on another device."""
    model, generator = make_model(), torch.Generator().manual_seed(0)
    shape = inputs["input_ids"].shape
    targets = torch.randint(5, 200, shape, generator=generator).masked_fill(torch.rand(shape) < 0.3, -100)
    targets[:, -1] = 7
    with torch.no_grad():
        for items in (None, 50, torch.tensor(50)):
            options = {"shift_labels": targets, "num_items_in_batch": items}
            outputs = model(**inputs, labels=inputs["input_ids"], **options)
            size = outputs.logits.shape[-1]
            expected = ForCausalLMLoss(outputs.logits, inputs["input_ids"], vocab_size=size, **options)
            torch.testing.assert_close(outputs.lm_loss, expected)


def test_weights_with_shifted_labels_are_refused(inputs):
    model, labels = make_model(), inputs["input_ids"]
    with pytest.raises(ValueError, match="`label_weights` belong to `labels`"):
        model(**inputs, labels=labels, shift_labels=labels, label_weights=torch.ones(labels.shape))
