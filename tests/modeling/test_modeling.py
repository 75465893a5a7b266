"""Tests of the model: saving, initialisation, equalities that must hold between ways to run it, losses and errors."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from otdrg_hf import OTDRGForConditionalGeneration, OTDRGModel
from tests.support.tiny_models import TEXT, VISION, make_model

BACKBONES = [(vision, "llama") for vision in VISION] + [("vit", text) for text in TEXT if text != "llama"]
UNUSED = {  # what these encoders make of their last hidden state, or do not use without masks
    "vit": "pooler",
    "deit": "pooler",
    "dinov2_registers": "mask_token",
    "clip": "post_layernorm",
    "siglip": "head",
    "convnext": "vision_tower.layernorm",
}


def logits_of(model, inputs, **changes):
    with torch.no_grad():
        return model(**{**inputs, **changes}).logits


def supervised(inputs):
    """Labels on the last six tokens of each prompt, which the model may as well learn to predict."""
    labels = inputs["input_ids"].clone()
    labels[:, :-6] = -100
    return {**inputs, "labels": labels, "disease_labels": torch.arange(3 * 14).view(3, 14) % 4}


def close(left, right, tolerance=1e-5):
    torch.testing.assert_close(left, right, atol=tolerance, rtol=tolerance)


# Saving, loading, initialisation


@pytest.mark.parametrize("vision, text", BACKBONES)
def test_saved_model_gives_the_same_logits(vision, text, inputs, tmp_path):
    model = make_model(vision, text)
    model.save_pretrained(tmp_path)
    loaded, report = OTDRGForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert not loaded.training
    close(logits_of(loaded, inputs), logits_of(model, inputs), 0)


@pytest.mark.parametrize("text", TEXT)
def test_head_is_tied_as_in_the_language_model(text, tmp_path):
    model = make_model(text=text)
    model.save_pretrained(tmp_path)
    loaded = OTDRGForConditionalGeneration.from_pretrained(tmp_path)
    for each in (model, loaded, copy.deepcopy(model)):
        tied = each.lm_head.weight is each.get_input_embeddings().weight
        assert tied == each.config.text_config.tie_word_embeddings
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) == (text == "qwen2")


def test_body_alone_loads_from_the_whole(tmp_path, model, inputs):
    model.save_pretrained(tmp_path)
    body = OTDRGModel.from_pretrained(tmp_path)
    with torch.no_grad():
        hidden = body(**inputs).last_hidden_state
        close(model.lm_head(hidden), model(**inputs).logits)


@pytest.mark.parametrize("vision", ["vit", "resnet"])
def test_everything_is_initialised_by_class_and_seed(vision):
    first, second, other = (make_model(vision, seed=seed) for seed in (0, 0, 1))
    for (name, value), again, differing in zip(
        first.state_dict().items(), second.state_dict().values(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(value, again), name
        assert value.float().isfinite().all(), name
        assert value.float().abs().max() < 25, name
        if value.dim() > 1:
            assert not torch.equal(value, differing) or (value == 0).all(), name


def test_missing_weights_are_initialised_and_phrase_ids_restored(tmp_path, model, inputs):
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    backbones = ("vision_tower", "language_model", "lm_head")
    kept = {key: value for key, value in weights.items() if any(name in key for name in backbones)}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    torch.manual_seed(0)
    loaded = OTDRGForConditionalGeneration.from_pretrained(tmp_path)
    fresh = OTDRGForConditionalGeneration(model.config)
    assert torch.equal(loaded.model.label_encoder.phrase_ids, model.model.label_encoder.phrase_ids)
    for (name, value), reference in zip(loaded.named_parameters(), fresh.parameters(), strict=True):
        assert value.isfinite().all(), name
        if not any(backbone in name for backbone in backbones):
            close(value.float().std(), reference.float().std(), 0.3)
    assert logits_of(loaded, inputs).isfinite().all()


def test_phrase_ids_follow_the_configuration(tmp_path, model):
    model.save_pretrained(tmp_path)
    ids = [[[5, 6, 7]] * 5] * 14
    loaded = OTDRGForConditionalGeneration.from_pretrained(tmp_path, label_phrase_ids=ids)
    assert loaded.model.label_encoder.phrase_ids.tolist() == ids


def test_resized_vocabulary(inputs, tmp_path):
    model = make_model()
    before = logits_of(model, inputs)
    size = before.shape[-1]
    model.resize_token_embeddings(size + 10)
    assert model.config.text_config.vocab_size == size + 10
    after = logits_of(model, inputs)
    close(after[..., :size], before)
    model.save_pretrained(tmp_path)
    loaded = OTDRGForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    close(logits_of(loaded, inputs), after, 0)


# Equalities


def test_padded_views_change_nothing(model, inputs):
    pixels = inputs["pixel_values"]
    padding = torch.full_like(pixels[:, :1], 7.0)
    more = {
        "pixel_values": torch.cat([pixels, padding], 1),
        "view_mask": torch.cat([inputs["view_mask"], torch.zeros(3, 1, dtype=torch.bool)], 1),
    }
    with torch.no_grad():
        padded, plain = model(**{**inputs, **more}), model(**inputs)
    close(padded.logits, plain.logits)
    close(padded.disease_logits, plain.disease_logits)
    close(padded.transport_plan[:, :32], plain.transport_plan)
    assert (padded.transport_plan[:, 32:] == 0).all()


def test_padding_before_the_views_changes_nothing(model, inputs):
    pixels, mask = inputs["pixel_values"], inputs["view_mask"]
    before = {
        "pixel_values": torch.cat([torch.full_like(pixels[:, :1], 7.0), pixels], 1),
        "view_mask": torch.cat([torch.zeros(3, 1, dtype=torch.bool), mask], 1),
    }
    with torch.no_grad():
        close(model(**{**inputs, **before}).logits, model(**inputs).logits)


def test_batch_is_its_studies_one_by_one(inputs):
    # How often the solver iterates depends on the batch; at this tolerance its results do not.
    model = make_model(tolerance=1e-6, max_iterations=500)
    with torch.no_grad():
        batch = model(**inputs)
        for study in range(3):
            real = inputs["attention_mask"][study].bool()
            views = int(inputs["view_mask"][study].sum())
            single = model(
                input_ids=inputs["input_ids"][study : study + 1, real],
                pixel_values=inputs["pixel_values"][study : study + 1, :views],
            )
            close(batch.logits[study, real], single.logits[0])
            close(batch.disease_logits[study], single.disease_logits[0])
            close(batch.transport_plan[study, : views * 16], single.transport_plan[0])
            assert torch.equal(batch.disease_states[study], single.disease_states[0])


def test_permuted_batch_gives_permuted_outputs(model, inputs):
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        plain, permuted = model(**inputs), model(**{key: value[order] for key, value in inputs.items()})
    for name in ("logits", "disease_logits", "transport_plan"):
        close(getattr(permuted, name), getattr(plain, name)[order])


@pytest.mark.parametrize("text", TEXT)
def test_left_padding_changes_no_logits(text, inputs):
    model = make_model(text=text)
    pad = torch.zeros(3, 5, dtype=torch.long)
    mask = torch.cat([pad, inputs["attention_mask"]], 1)
    positions = inputs["attention_mask"].cumsum(-1).sub(1).clamp(min=0)
    plain = logits_of(model, inputs, position_ids=positions)
    padded = logits_of(
        model,
        inputs,
        input_ids=torch.cat([pad, inputs["input_ids"]], 1),
        attention_mask=mask,
        position_ids=mask.cumsum(-1).sub(1).clamp(min=0),
    )[:, 5:]
    real = inputs["attention_mask"].bool()
    close(padded[real], plain[real])


@pytest.mark.parametrize("vision, text", [("vit", "llama"), ("dinov2_registers", "gpt2"), ("siglip", "qwen3")])
def test_sdpa_equals_eager(vision, text, inputs, tmp_path):
    make_model(vision, text).save_pretrained(tmp_path)
    models = {}
    for kind in ("sdpa", "eager"):
        models[kind] = OTDRGForConditionalGeneration.from_pretrained(tmp_path, attn_implementation=kind)
        body = models[kind].model
        assert body.vision_tower.config._attn_implementation == kind
        assert body.language_model.config._attn_implementation == kind
    real = inputs["attention_mask"].bool()
    close(logits_of(models["sdpa"], inputs)[real], logits_of(models["eager"], inputs)[real])


@pytest.mark.parametrize("vision, text", [("vit", "llama"), ("swin", "gpt2"), ("resnet", "qwen3")])
def test_gradient_checkpointing_changes_neither_outputs_nor_gradients(vision, text, inputs):
    losses, gradients = [], []
    for checkpointing in (False, True):
        model = make_model(vision, text)
        for module in model.modules():  # training mode without its randomness
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.train()
        if checkpointing:
            model.activation_checkpointing_enable()
            assert model.is_gradient_checkpointing
        loss = model(**supervised(inputs), use_cache=False).loss
        loss.backward()
        losses.append(loss.detach())
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    close(losses[1], losses[0])
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        close(gradients[1][name], gradient)


def test_embeddings_instead_of_ids(model, inputs):
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    rest = {key: value for key, value in inputs.items() if key != "input_ids"}
    close(logits_of(model, {**rest, "inputs_embeds": embeds}), logits_of(model, inputs), 0)


def test_features_computed_before_give_the_same(model, inputs):
    with torch.no_grad():
        features = model.get_image_features(inputs["pixel_values"], inputs["view_mask"])
        text = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        close(model(**text, mm_encoder_outputs={"image": features}).logits, logits_of(model, inputs), 0)


def test_tuple_instead_of_output(model, inputs):
    with torch.no_grad():
        output, values = model(**supervised(inputs)), model(**supervised(inputs), return_dict=False)
        hidden = model.model(**inputs, return_dict=False)[0]
    assert isinstance(values, tuple) and torch.equal(values[0], output.loss)
    close(model.lm_head(hidden), logits_of(model, inputs), 0)


def test_last_logits_only(model, inputs):
    close(logits_of(model, inputs, logits_to_keep=1), logits_of(model, inputs)[:, -1:])


def test_image_and_labels_matter(model, inputs):
    plain = logits_of(model, inputs)[:, -1]
    dark = logits_of(model, inputs, pixel_values=inputs["pixel_values"] * 0 - 1)[:, -1]
    labelled = logits_of(model, inputs, disease_labels=torch.ones(3, 14, dtype=torch.long))[:, -1]
    assert (dark - plain).abs().amax(-1).min() > 1e-2
    # Of a label's token the phrase changes, and what is seen of it is hidden; untrained, states differ by little.
    assert (labelled - plain).abs().amax(-1).min() > 1e-3


def test_one_view_may_come_without_the_view_axis(model, inputs):
    pixels, mask = inputs["pixel_values"][:, 0], inputs["view_mask"][:, :1]
    with torch.no_grad():
        close(
            model(pixel_values=pixels).disease_logits,
            model(pixel_values=pixels[:, None], view_mask=mask).disease_logits,
            0,
        )


def test_int8_labels_of_the_labeler_are_taken(model, inputs):
    labels = supervised(inputs)["disease_labels"]
    with torch.no_grad():
        close(model(**inputs, disease_labels=labels.to(torch.int8)).loss, model(**inputs, disease_labels=labels).loss)


# Losses


def test_loss_is_composed_of_its_terms(inputs):
    model = make_model(ot_loss_weight=0.3, disease_loss_weight=0.7)
    with torch.no_grad():
        output = model(**supervised(inputs))
        logits, labels = output.logits[:, :-1], supervised(inputs)["labels"][:, 1:]
        language = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        close(output.lm_loss, language)
        close(output.loss, output.lm_loss + 0.3 * output.ot_loss + 0.7 * output.disease_loss)
        expected = torch.nn.functional.cross_entropy(
            output.disease_logits.flatten(0, 1), supervised(inputs)["disease_labels"].flatten()
        )
        close(output.disease_loss, expected)
        alone = model(**{**inputs, "labels": supervised(inputs)["labels"]})
        close(alone.loss, alone.lm_loss)
        assert alone.ot_loss is None and alone.disease_loss is None
        assert model(**inputs).loss is None


def test_losses_without_the_language_model(model, inputs):
    batch = supervised(inputs)
    images = {key: batch[key] for key in ("pixel_values", "view_mask", "disease_labels")}
    with torch.no_grad():
        short, full = model(**images), model(**batch)
    assert short.logits is None and short.lm_loss is None
    weights = model.config.ot_loss_weight, model.config.disease_loss_weight
    close(short.loss, weights[0] * full.ot_loss + weights[1] * full.disease_loss)
    close(short.transport_plan, full.transport_plan)


@pytest.mark.parametrize("text", ["llama", "gemma2"])
def test_loss_without_logits_is_the_same_and_so_are_its_gradients(text, inputs):
    gradients, losses = [], []
    for skip in (False, True):
        model = make_model(text=text)
        output = model(**supervised(inputs), skip_logits=skip)
        assert (output.logits is None) == skip
        output.loss.backward()
        losses.append(output.loss.detach())
        gradients.append(model.lm_head.weight.grad)
    close(losses[1], losses[0])
    close(gradients[1], gradients[0])


def test_accumulated_batches_give_the_loss_of_the_whole(model, inputs):
    batch = supervised(inputs)
    batch["labels"][0, -3:] = -100  # parts of different sizes
    items = int((batch["labels"][:, 1:] != -100).sum())
    with torch.no_grad():
        whole = model(**batch).lm_loss
        parts = [
            model(**{key: value[rows] for key, value in batch.items()}, num_items_in_batch=items).lm_loss
            for rows in (slice(0, 1), slice(1, 3))
        ]
        close(sum(parts), whole)
        close(model(**batch, num_items_in_batch=torch.tensor(items)).lm_loss, whole)


def test_nothing_supervised_is_a_loss_of_zero(model, inputs):
    batch = {**inputs, "labels": torch.full_like(inputs["input_ids"], -100)}
    batch["disease_labels"] = torch.full((3, 14), -100)
    with torch.no_grad():
        output = model(**batch)
    assert output.lm_loss == 0 and output.disease_loss == 0 and output.loss.isfinite()


@pytest.mark.parametrize("vision, text", BACKBONES)
def test_every_parameter_gets_a_gradient(vision, text, inputs):
    model = make_model(vision, text).train()
    model(**supervised(inputs)).loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert all(vision in UNUSED and UNUSED[vision] in name for name in without), without
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name


# Precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_finite_and_transports_in_fp32(dtype, inputs):
    model = make_model().to(dtype)
    output = model(**supervised(inputs))
    assert output.logits.dtype == dtype and output.logits.isfinite().all() and output.loss.isfinite()
    assert output.transport_plan.dtype == output.disease_logits.dtype == torch.float32
    close(output.transport_plan.sum((1, 2)), torch.ones(3), 1e-3)
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_autocast_is_close_to_full_precision(model, inputs):
    with torch.no_grad():
        full = model(**supervised(inputs))
        with torch.autocast("cpu", torch.bfloat16):
            cast = model(**supervised(inputs))
    assert cast.transport_plan.dtype == cast.disease_logits.dtype == torch.float32
    close(cast.loss, full.loss, 0.05)


def test_bridges_in_fp32_between_half_precision_backbones(inputs):
    model = make_model()
    full = logits_of(model, supervised(inputs))
    for backbone in (model.model.vision_tower, model.model.language_model, model.lm_head):
        backbone.to(torch.bfloat16)
    output = model(**supervised(inputs))
    output.loss.backward()
    assert model.model.fusion.image_dense.weight.grad.dtype == torch.float32
    assert (output.logits.float() - full).abs().mean() < 0.02 * full.std()


# Errors


def clear_error(match):
    return pytest.raises(ValueError, match=match)


def test_image_tokens_and_images_that_do_not_match(model, inputs):
    ids = inputs["input_ids"].clone()
    row, column = (ids == model.config.image_token_id).nonzero()[0]
    ids[row, column] = 5
    with clear_error("Image features and image tokens do not match, tokens: 3, features: 4 \\(study 0\\)"):
        model(**{**inputs, "input_ids": ids})
    with clear_error("Image features and image tokens do not match"):
        model(**{**inputs, "view_mask": torch.tensor([[1, 1], [1, 0], [1, 0]])})  # as many, of other studies
    with clear_error("Image features and image tokens do not match, tokens: 4, features: 0"):
        model(input_ids=inputs["input_ids"][:1])
    with clear_error("3 prompts for 2 studies"):
        model(**{**inputs, "pixel_values": inputs["pixel_values"][:2], "view_mask": inputs["view_mask"][:2]})


def test_finding_tokens_that_do_not_match(model, inputs):
    ids = inputs["input_ids"].clone()
    ids[1, (ids[1] == model.config.finding_token_id).nonzero()[0]] = 5
    with clear_error("Finding features and finding tokens do not match, tokens: 13, features: 14 \\(study 1\\)"):
        model(**{**inputs, "input_ids": ids})


def test_prompt_of_one_study_may_do_without_findings(model, inputs):
    ids = inputs["input_ids"].clone()
    ids[1, ids[1] == model.config.finding_token_id] = 5
    plain, without = logits_of(model, inputs), logits_of(model, inputs, input_ids=ids)
    close(without[[0, 2]], plain[[0, 2]])


def test_labels_that_cannot_be(model, inputs):
    for labels, match in [
        (torch.zeros(3, 13, dtype=torch.long), r"`disease_labels` must be integers of shape \(3, 14\)"),
        (torch.zeros(2, 14, dtype=torch.long), r"`disease_labels` must be integers of shape \(3, 14\)"),
        (torch.zeros(3, 14), "got torch.float32"),
        (torch.full((3, 14), 4), "`disease_labels` holds 4"),
        (torch.full((3, 14), -1), "`disease_labels` holds -1"),
    ]:
        with clear_error(match):
            model(**inputs, disease_labels=labels)
    with clear_error("`disease_labels` need `pixel_values`"):
        model(input_ids=torch.tensor([[5, 6]]), disease_labels=torch.zeros(1, 14, dtype=torch.long))


def test_other_labels_that_cannot_be(model, inputs):
    for labels, match in [
        (torch.zeros(3, 14, dtype=torch.long), r"`other_labels` must be integers of shape \(3, k, 14\), got"),
        (torch.zeros(2, 4, 14, dtype=torch.long), r"`other_labels` must be integers of shape \(3, k, 14\), got"),
        (torch.zeros(3, 4, 14), "got torch.float32"),
        (torch.full((3, 1, 14), 4), "`other_labels` holds 4"),
    ]:
        with clear_error(match):
            model(**supervised(inputs), other_labels=labels)


def test_the_transport_loss_tells_from_the_other_labels_that_are_given(model, inputs):
    batch = supervised(inputs)
    of_batch = torch.stack([batch["disease_labels"].roll(shift, 0) for shift in (1, 2)], 1)
    with torch.no_grad():
        close(model(**batch, other_labels=of_batch).ot_loss, model(**batch).ot_loss)
        assert model(**batch, other_labels=of_batch[:, :1]).ot_loss < model(**batch).ot_loss


def test_views_that_cannot_be(model, inputs):
    pixels = inputs["pixel_values"]
    with clear_error(r"`view_mask` must be \(3, 2\)"):
        model(pixel_values=pixels, view_mask=torch.ones(3, 3))
    with clear_error("leaves a study without any view"):
        model(pixel_values=pixels, view_mask=torch.tensor([[1, 1], [0, 0], [1, 0]]))
    with clear_error("`pixel_values` must be"):
        model(pixel_values=pixels[0, 0])
    with clear_error("gave 8 x 8 patches for images of .* but `image_grid` is"):
        model(pixel_values=torch.zeros(1, 3, 64, 64))


def test_inputs_that_contradict_each_other(model, inputs):
    with clear_error("You must specify input_ids, inputs_embeds or pixel_values"):
        model()
    with clear_error("exactly one of input_ids or inputs_embeds"):
        model(**inputs, inputs_embeds=torch.zeros(3, 4, 32))
    features = model.get_image_features(inputs["pixel_values"], inputs["view_mask"])
    with clear_error("cannot specify both pixel_values and mm_encoder_outputs"):
        model(**inputs, mm_encoder_outputs={"image": features})
