"""Tests of `generate`: one encoding per study, and equal reports with and without cache, padding, batch and beams."""

from contextlib import contextmanager
from unittest import mock

import pytest
import torch

from otdrg_hf.modeling import layers_otdrg
from tests.support.tiny_models import TEXT, VISION, make_model

LENGTH = {"max_new_tokens": 8, "eos_token_id": None}


def written(model, inputs, **options):
    """The tokens after the prompt."""
    return model.generate(**inputs, **{**LENGTH, "do_sample": False, **options})[:, inputs["input_ids"].shape[1] :]


@contextmanager
def counted(model):
    """Counts images through the encoder and problems through the solver."""
    counts = {"images": 0, "transports": 0, "encodings": 0}

    def count_images(module, args, kwargs):
        counts["images"] += len(kwargs["pixel_values"])
        counts["encodings"] += 1

    def count_transports(cost, *args, **kwargs):
        counts["transports"] += len(cost)
        return solve(cost, *args, **kwargs)

    solve = layers_otdrg.sinkhorn
    hook = model.model.vision_tower.register_forward_pre_hook(count_images, with_kwargs=True)
    with mock.patch.object(layers_otdrg, "sinkhorn", count_transports):
        yield counts
    hook.remove()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_cache": False},
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 3},
        {"num_beams": 2, "do_sample": True, "num_return_sequences": 2},
    ],
    ids=str,
)
def test_study_is_encoded_and_transported_once(model, inputs, options):
    with counted(model) as counts:
        written(model, inputs, **options)
    # Two transports a study: one that knows no states, for the diseases, and one to the phrases of the states.
    assert counts == {"images": 4, "encodings": 1, "transports": 2 * 3}


def test_reports_of_the_tests_differ_between_studies_and_tokens(model, inputs):
    """Otherwise the equalities below would hold for any model."""
    tokens = written(model, inputs)
    assert len({tuple(row) for row in tokens.tolist()}) == 3 and tokens.unique().numel() > 8


@pytest.mark.parametrize("text", TEXT)
@pytest.mark.parametrize("beams", [1, 3])
def test_cache_changes_nothing(text, beams, inputs):
    model = make_model(text=text)
    expected = written(model, inputs, num_beams=beams, use_cache=False)
    assert torch.equal(written(model, inputs, num_beams=beams), expected)


@pytest.mark.parametrize("text", TEXT)
def test_greedy_is_the_likeliest_token_of_forward(text, inputs):
    model = make_model(text=text)
    output = model.generate(
        **inputs, **LENGTH, do_sample=False, return_dict_in_generate=True, output_logits=True, use_cache=True
    )
    mask = torch.cat([inputs["attention_mask"], torch.ones(3, 8, dtype=torch.long)], 1)
    positions = mask.cumsum(-1).sub(1).clamp(min=0)
    full = {**inputs, "input_ids": output.sequences, "attention_mask": mask, "position_ids": positions}
    with torch.no_grad():
        logits = model(**full).logits[:, -9:-1]
    torch.testing.assert_close(torch.stack(output.logits, 1), logits.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("vision, text", [(vision, "llama") for vision in VISION] + [("vit", text) for text in TEXT])
def test_batch_writes_what_single_studies_get(vision, text, inputs):
    model = make_model(vision, text)
    batch = written(model, inputs)
    for study in range(3):
        real = inputs["attention_mask"][study].bool()
        views = int(inputs["view_mask"][study].sum())
        single = {
            "input_ids": inputs["input_ids"][study : study + 1, real],
            "attention_mask": inputs["attention_mask"][study : study + 1, real],
            "pixel_values": inputs["pixel_values"][study : study + 1, :views],
        }
        assert torch.equal(written(model, single)[0], batch[study])


def test_more_left_padding_writes_the_same(model, inputs):
    pad = torch.zeros(3, 6, dtype=torch.long)
    padded = {key: torch.cat([pad, inputs[key]], 1) for key in ("input_ids", "attention_mask")}
    assert torch.equal(written(model, {**inputs, **padded}), written(model, inputs))


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 3}], ids=str)
def test_beams_are_those_of_expanded_studies(model, inputs, options):
    """Each candidate has the score that a forward pass over its whole text and images gives it."""
    output = model.generate(
        **inputs, **LENGTH, **options, do_sample=False, return_dict_in_generate=True, output_scores=True
    )
    copies = options.get("num_return_sequences", 1)
    expanded = {key: value.repeat_interleave(copies, 0) for key, value in inputs.items()}
    mask = torch.cat([expanded["attention_mask"], torch.ones(3 * copies, 8, dtype=torch.long)], 1)
    full = {**expanded, "input_ids": output.sequences, "attention_mask": mask}
    with torch.no_grad():
        logits = model(**full, position_ids=mask.cumsum(-1).sub(1).clamp(min=0)).logits[:, -9:-1].float()
    scores = logits.log_softmax(-1).gather(-1, output.sequences[:, -8:, None]).sum((1, 2)) / 8
    torch.testing.assert_close(output.sequences_scores, scores, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=str)
def test_beams_without_encoding_before_are_the_same(model, inputs, options):
    expected = written(model, inputs, **options)

    def expand(input_ids, expand_size=1, is_encoder_decoder=False, **kwargs):
        expanded = {
            key: value.repeat_interleave(expand_size, 0) if isinstance(value, torch.Tensor) else value
            for key, value in kwargs.items()
        }
        return input_ids.repeat_interleave(expand_size, 0), expanded

    # Pixels are expanded like ids and encoded for each beam, as if there were no shared features.
    with (
        mock.patch.object(model, "_maybe_prepare_encoder_kwargs_for_generation", lambda tensor, kwargs, *rest: kwargs),
        mock.patch.object(model, "_expand_inputs_for_generation", lambda **kwargs: expand(**kwargs)),
        counted(model) as counts,
    ):
        plain = written(model, inputs, **options)
    assert counts["images"] == 4 * options.get("num_beams", 1)
    assert torch.equal(plain, expected)


def test_sampling_follows_the_seed(model, inputs):
    def sample(seed):
        torch.manual_seed(seed)
        return written(model, inputs, do_sample=True, num_return_sequences=2)

    assert sample(0).shape == (6, 8)
    assert torch.equal(sample(0), sample(0)) and not torch.equal(sample(0), sample(1))


def test_features_computed_before_write_the_same(model, inputs):
    with torch.no_grad():
        features = model.get_image_features(inputs["pixel_values"], inputs["view_mask"])
    text = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    for options in ({}, {"num_beams": 3}):
        expected = written(model, inputs, **options)
        assert torch.equal(written(model, text, mm_encoder_outputs={"image": features}, **options), expected)


def test_given_labels_change_the_report(model, inputs):
    predicted = model(pixel_values=inputs["pixel_values"], view_mask=inputs["view_mask"]).disease_states
    same = written(model, inputs, disease_labels=predicted)
    other = written(model, inputs, disease_labels=(predicted + 1) % 4)
    unknown = written(model, inputs, disease_labels=torch.full((3, 14), -100))
    plain = written(model, inputs)
    assert torch.equal(same, plain) and torch.equal(unknown, plain) and not torch.equal(other, plain)


def test_static_cache_writes_the_same(model, inputs):
    assert torch.equal(written(model, inputs, cache_implementation="static"), written(model, inputs))


def test_placeholders_are_never_written(inputs):
    model = make_model(tie_word_embeddings=False, text="qwen2")
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[[model.config.image_token_id, model.config.finding_token_id]] = 1.0
    tokens = written(model, inputs, do_sample=True, num_return_sequences=20)
    assert not torch.isin(tokens, torch.tensor([model.config.image_token_id, model.config.finding_token_id])).any()


def test_embeddings_instead_of_ids_write_the_same(model, inputs):
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    rest = {key: value for key, value in inputs.items() if key != "input_ids"}
    tokens = model.generate(**rest, inputs_embeds=embeds, **LENGTH, do_sample=False)
    assert torch.equal(tokens, written(model, inputs))


def test_tokens_without_images_are_refused(model, inputs):
    with pytest.raises(ValueError, match="Image features and image tokens do not match"):
        written(model, {key: inputs[key] for key in ("input_ids", "attention_mask")})


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"cache_implementation": "static"}])
@pytest.mark.parametrize("chunk", [8, 17, 500])
def test_prompt_that_is_read_in_chunks_writes_the_same(model, inputs, chunk, options):
    assert torch.equal(written(model, inputs, prefill_chunk_size=chunk, **options), written(model, inputs, **options))


def test_revision_that_is_read_in_chunks_is_the_same(model, inputs):
    labels = torch.full((3, 14), -100)
    labels[:, 2] = 1
    expected = written(model, inputs, disease_labels=labels)
    assert torch.equal(written(model, inputs, disease_labels=labels, prefill_chunk_size=8), expected)


def test_prompt_without_study_is_read_in_chunks(model):
    ids = torch.arange(5, 25).view(2, 10)
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(written(model, text, prefill_chunk_size=4), written(model, text))
